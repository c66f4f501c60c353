"""The generation-validation phase, its metrics, and the choice of the best model."""
