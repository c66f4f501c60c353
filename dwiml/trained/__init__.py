"""Chapter 6, use: the model of an experiment, its data, and tracking with it."""
