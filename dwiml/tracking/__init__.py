"""Track streamlines with a trained model."""
