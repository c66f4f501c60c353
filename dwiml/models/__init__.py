"""Chapter 4, learn: base classes, and models that are ready to use."""

MODELS = {
    "learn2track": "dwiml.models.learn2track.Learn2TrackModel",
}
"""The model classes that commands can rebuild, by their name in ``dwiml train MODEL``."""
