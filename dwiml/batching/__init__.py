"""Chapter 3, choose: which streamlines make a batch, and what the model receives of them."""
