"""Chapter 4, learn: base classes, and models that are ready to use."""

MODELS = {
    "learn2track": "dwiml.models.learn2track.Learn2TrackModel",
    "transformer-src-and-tgt": "dwiml.models.transformers.with_targets.TransformerSrcAndTgtModel",
    "transformer-src-only": "dwiml.models.transformers.source_only.TransformerSrcOnlyModel",
    "transformer-src-tgt-concat": "dwiml.models.transformers.with_targets.TransformerSrcTgtConcatModel",
    "autoencoder": "dwiml.models.autoencoder.AutoencoderModel",
}
"""The models of dwiml, by their name in ``dwiml train MODEL``."""
ENTRY_POINTS = "dwiml.models"
"""The group of entry points under which an installed package declares its models."""
