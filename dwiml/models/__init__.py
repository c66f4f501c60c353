"""Chapter 4, learn: the models to inherit from, and the models ready to use."""

MODELS = {
    "learn2track": "dwiml.models.learn2track.Learn2TrackModel",
}
"""The classes of ``dwiml train MODEL``, by that name; all commands know them by this."""
