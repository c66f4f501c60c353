"""The models of dwiml, by name, and the class of the model that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwiml.user_classes.finding import find_class

if TYPE_CHECKING:
    from dwiml.models.base import MainModelAbstract

MODELS = {
    "learn2track": "dwiml.models.learn2track.Learn2TrackModel",
    "transformer-src-and-tgt": "dwiml.models.transformers.with_targets.TransformerSrcAndTgtModel",
    "transformer-src-only": "dwiml.models.transformers.source_only.TransformerSrcOnlyModel",
    "transformer-src-tgt-concat": "dwiml.models.transformers.with_targets.TransformerSrcTgtConcatModel",
    "autoencoder": "dwiml.models.whole_streamlines.autoencoder.AutoencoderModel",
    "streamline-classifier": "dwiml.models.whole_streamlines.classifier.StreamlineClassifierModel",
}
"""The paths of the models of dwiml, by their name in ``dwiml train MODEL``."""
ENTRY_POINTS = "dwiml.models"
"""The group of entry points under which an installed package declares its models."""


def find_model_class(model_class: str | type[Any], parameter: str = "model_class") -> type[MainModelAbstract]:
    """Return a model class.

    Parameters
    ----------
    model_class
        The class itself, or text that names it: ``"path/to/file.py:MyModel"``, ``"package.module:MyModel"``, a name of
        :data:`MODELS`, or the name of an entry point ``dwiml.models`` of an installed package.
    parameter
        Name of the parameter, for error messages.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As in :func:`dwiml.user_classes.finding.find_class`.
    """
    # Imported when used, with torch: the names of the models are needed by commands that only print their help.
    from dwiml.models.base import MainModelAbstract

    return find_class(model_class, MainModelAbstract, parameter=parameter, known=MODELS, group=ENTRY_POINTS)
