"""Find the model class that a user names, and that of a saved model."""

from __future__ import annotations

from typing import Any

from dwiml.finding.classes import find_class
from dwiml.models import ENTRY_POINTS, MODELS
from dwiml.models.base import MainModelAbstract


def find_model_class(model_class: str | type[Any], parameter: str = "model_class") -> type[MainModelAbstract]:
    """Return a model class.

    Parameters
    ----------
    model_class
        The class itself, or text that names it: ``"path/to/file.py:MyModel"``, ``"package.module:MyModel"``, a name of
        :data:`dwiml.models.MODELS`, or the name of an entry point ``dwiml.models`` of an installed package.
    parameter
        Name of the parameter, for error messages.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As in :func:`dwiml.finding.classes.find_class`.
    """
    return find_class(model_class, MainModelAbstract, parameter=parameter, known=MODELS, group=ENTRY_POINTS)
