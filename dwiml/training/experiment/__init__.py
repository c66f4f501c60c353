"""The experiment folder: its files, its lock, and how a training is resumed from it."""
