"""Metrics, progress, the summary and loggers of a training."""
