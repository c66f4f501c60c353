"""Chapter 4, learn: base classes, and models that are ready to use."""
