"""Chapter 4, learn: the models to inherit from, and the models ready to use."""
