"""The convention of directional features that a volume group of the HDF5 file records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwiml.arguments import shown
from dwiml.files import parse_json
from dwiml.hdf5 import schema
from dwiml.hdf5.stored.nodes import StoredGroup
from dwiml.ops.axes.conventions import Directions, parse_directions


@dataclass(frozen=True)
class StoredDirections:
    """The convention of some features of a volume group.

    Attributes
    ----------
    nb_features
        Number of these features, one after the other.
    stored
        Their convention in the HDF5 file; None if it is unknown.
    read
        Their convention in the image from which they were converted; None if it is unknown.
    """

    nb_features: int
    stored: Directions | None
    read: Directions | None


def stored_directions(group: StoredGroup, label: str) -> list[StoredDirections]:
    """Return the convention of the features of a volume group, for each image that it was created from.

    Parameters
    ----------
    group
        The volume group.
    label
        Description of the group and its subject, used in the error message.

    Returns
    -------
    list
        Empty if no convention is recorded, as in files of dwi_ml.

    Raises
    ------
    ValueError
        If the attribute is damaged.
    """
    text = group.attribute(schema.DIRECTIONS)
    return _parsed(None if text is None else schema.read_text(text), label)


def _parsed(text: str | None, label: str) -> list[StoredDirections]:
    if text is None:
        return []
    try:
        content = parse_json(text)
        stored, read = content[schema.DIRECTIONS_STORED], content[schema.DIRECTIONS_READ]
        return [
            StoredDirections(int(entry[schema.NB_FEATURES]), _convention(entry), _convention(source))
            for entry, source in zip(stored, read, strict=True)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"The attribute '{schema.DIRECTIONS}' of the {label} is damaged: {shown(text)}; recreate the HDF5 file."
        ) from error


def _convention(entry: Mapping[str, object]) -> Directions | None:
    keys = {key: value for key, value in entry.items() if key != schema.NB_FEATURES}
    return parse_directions(keys, "") if keys else None


def check_same_directions(recorded: Sequence[tuple[Path, str, str | None]], group: str) -> None:
    """Check that the features of a volume group have the same convention for all subjects.

    Parameters
    ----------
    recorded
        For each subject: its HDF5 file, its name, and the attribute :data:`~dwiml.hdf5.schema.DIRECTIONS` of its group.
    group
        Name of the group.

    Raises
    ------
    ValueError
        If they differ: a model could not learn from both.
    """
    first: list[object] = []
    for path, name, text in recorded:
        listed = _parsed(text, f"volume group '{group}' of subject '{name}'")
        found: list[object] = [None if each.stored is None else each.stored.as_dict() for each in listed]
        if name == recorded[0][1]:
            first = found
        if found != first:
            raise ValueError(
                f"'{path}': the convention of the directional features of volume group '{group}' is "
                f"{found or 'unknown'} for subject '{name}' and {first or 'unknown'} for subject '{recorded[0][1]}'; "
                "all subjects must have the same: state it as 'directions' in the groups config, and recreate the file."
            )
