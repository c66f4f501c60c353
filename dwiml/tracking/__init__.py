"""Chapter 6, use: streamlines that a trained model makes."""
