"""Chapter 5, loop: epochs, checkpoints, monitors and loggers."""
