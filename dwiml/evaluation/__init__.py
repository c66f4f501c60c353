"""What a trained model is worth, point by point."""
