"""The classes of the objects of an experiment: dwiml's own, those of installed packages, and those that the user names.

``parameters.json`` of an experiment may be untrusted: what it names is compared with known classes, never imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dwiml.models.base import MainModelAbstract
from dwiml.models.catalog import ENTRY_POINTS, find_model_class
from dwiml.models.saving import check_class
from dwiml.training import catalog
from dwiml.training.experiment.parameters import CLASS, recorded_source
from dwiml.user_classes.finding import installed_class, is_dwiml_path
from dwiml.user_classes.source import warn_of_other_source

if TYPE_CHECKING:
    from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
    from dwiml.training.trainer import DWIMLTrainer

_LONGEST = 300


def recorded_class(recorded: Mapping[str, Any], section: str) -> tuple[str, str | None]:
    """Return the name of the class of a section of ``parameters.json``, and its path if it was recorded.

    Raises
    ------
    KeyError, TypeError
        If the file is damaged.
    """
    name = recorded[section][CLASS]
    if not isinstance(name, str):
        raise TypeError("the name of a class is not a string")
    return name, recorded_source(recorded, section).path


def model_class_of(
    name: str, path: str | None, model_class: str | type[Any] | None, what: str, *, digest: str | None = None
) -> type[MainModelAbstract]:
    """Return the class of a recorded model; warn if its file is another, or has changed.

    Parameters
    ----------
    name, path
        Name and path of the recorded class; the path is None if it was not recorded.
    model_class
        The class, if the user names it (:func:`dwiml.models.catalog.find_model_class`); None for a class of dwiml or of
        an installed package.
    what
        What has the class, for the error message.
    digest
        Digest of the file of the recorded class; None if it was not recorded.

    Raises
    ------
    FileNotFoundError, TypeError
        If `model_class` does not exist, or is not a class.
    ValueError
        If the class is unknown, or `model_class` is another class.
    """
    if model_class is not None:
        given = find_model_class(model_class)
        check_class(given, name, path, f"{what} is")
        warn_of_other_source(given, path, digest, what)
        return given
    known: type[MainModelAbstract] | None = dwiml_class("model", name, path)
    if known is None and path is not None:
        known = installed_class(path, MainModelAbstract, ENTRY_POINTS)
    if known is None:
        raise ValueError(
            f"{what} is of class {_shown(name)}, which is not part of dwiml or of an installed package: give "
            f"model_class={_hint(name, path)} if you trust its code."
        )
    warn_of_other_source(known, path, digest, what)
    return known


def trainer_class_of(
    recorded: Mapping[str, Any], trainer_class: str | type[Any] | None, experiment: str
) -> type[DWIMLTrainer]:
    """Return the class of the trainer of an experiment.

    Parameters
    ----------
    recorded
        Content of ``parameters.json``.
    trainer_class
        The class, if the user names it; None for a class of dwiml.
    experiment
        The experiment folder, for the error message.

    Raises
    ------
    FileNotFoundError, TypeError
        If `trainer_class` does not exist, or is not a class.
    ValueError
        If the class is unknown, or `trainer_class` is another class.
    KeyError, TypeError
        If the file is damaged.
    """
    name, path = recorded_class(recorded, "trainer")
    if trainer_class is not None:
        given = catalog.find_trainer_class(trainer_class)
        what = f"The trainer of '{experiment}'"
        check_class(given, name, path, f"{what} is")
        warn_of_other_source(given, path, recorded_source(recorded, "trainer").digest, what)
        return given
    known: type[DWIMLTrainer] | None = dwiml_class("trainer", name, path)
    if known is None:
        raise ValueError(
            f"The trainer of '{experiment}' is of class {_shown(name)}, which is not part of dwiml. To continue the "
            f"training, run its script again with resume='auto', or give trainer_class={_hint(name, path)} if you "
            "trust its code."
        )
    return known


def loader_class_of(recorded: Mapping[str, Any], experiment: str) -> type[DWIMLStreamlinesBatchLoader]:
    """Return the class of the batch loader of an experiment.

    Raises
    ------
    ValueError
        If it is not a class of dwiml.
    KeyError, TypeError
        If the file is damaged.
    """
    name, path = recorded_class(recorded, "loader")
    known: type[DWIMLStreamlinesBatchLoader] | None = dwiml_class("loader", name, path)
    if known is None:
        raise ValueError(
            f"The batch loader of '{experiment}' is of class {_shown(name)}, which is not part of dwiml, so the "
            "experiment cannot be rebuilt from its folder: use its script. To continue the training, run the script "
            "again with resume='auto'."
        )
    return known


def dwiml_class(section: str, name: str, path: str | None = None) -> Any:
    """Return the class of dwiml that was recorded; None if it is not one, but another class of the same name.

    Parameters
    ----------
    section
        Section of ``parameters.json``: ``"trainer"``, ``"model"``, ``"sampler"`` or ``"loader"``.
    name, path
        Name and path of the recorded class; the path is None if it was not recorded.
    """
    known = catalog.CLASSES[section]
    return pkgutil.resolve_name(known[name]) if name in known and (path is None or is_dwiml_path(path)) else None


def _hint(name: str, path: str | None) -> str:
    """Return the value with which a user names a class that was recorded, in quotes."""
    place, _, attribute = (path or "").rpartition(":")
    usable = bool(place) and "<" not in attribute and attribute.rpartition(".")[2] == name and len(place) <= _LONGEST
    usable = usable and place != "__main__" and not is_dwiml_path(place)
    return f"'{path}'" if usable else f"'FILE.py:{_shown(name)}'"


def _shown(name: str) -> str:
    return " ".join(name.split())[:80]
