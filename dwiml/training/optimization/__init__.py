"""What changes weights: optimizers, schedules, updates, averaging."""
