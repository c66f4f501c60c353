"""Training: the trainer and its loop, checkpoints, metrics and loggers."""
