"""The groups config: which files of a subject go into which group of the HDF5 file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from dwiml.arguments import quoted
from dwiml.files import read_json
from dwiml.hdf5 import schema
from dwiml.hdf5.layouts.patterns import filled
from dwiml.ops.axes.conventions import Directions, parse_directions
from dwiml.tractograms.kinds import SPACES

STANDARDIZATIONS = ("all", "independent", "per_file", "none")

_VOLUME_KEYS = ("type", "files", "standardization", "std_mask", "directions")
_CONNECTIVITY_KEYS = ("connectivity_matrix", "connectivity_nb_blocs", "connectivity_labels")
_STREAMLINES_KEYS = ("type", "files", "dps_keys", "space", "trx_groups", *_CONNECTIVITY_KEYS)


@dataclass(frozen=True, kw_only=True)
class VolumeGroup:
    """Volumes that are concatenated on the last axis into one array.

    Attributes
    ----------
    name
        Name of the group in the HDF5 file.
    files
        Paths relative to the subject's folder; ``*`` matches any characters, ``{subject}`` is the subject's name. See
        :mod:`dwiml.hdf5.layouts.patterns`.
    standardization
        One of :data:`STANDARDIZATIONS`.
    std_mask
        Masks, as paths relative to the subject's folder. The mean and the standard deviation are computed over the
        union of the masks, or over the non-zero voxels if there is no mask.
    directions
        The convention of directional features, for each of `files`; None where it is not stated. Empty if it is not
        stated for any file.
    """

    name: str
    files: tuple[str, ...]
    standardization: str = "none"
    std_mask: tuple[str, ...] = ()
    directions: tuple[Directions | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConnectivityFiles:
    """A connectivity matrix and the regions that its rows stand for.

    Exactly one of `nb_blocs` and `labels` is given; the other is None.

    Attributes
    ----------
    matrix
        Path of a ``.npy`` file relative to the subject's folder; ``*`` matches any characters.
    nb_blocs
        Number of blocs along x, y and z; see :class:`dwiml.ops.regions.BlocRegions`.
    labels
        Path of a label volume, with the same rules as `matrix`; see :class:`dwiml.ops.regions.LabelRegions`.
    """

    matrix: str
    nb_blocs: tuple[int, int, int] | None = None
    labels: str | None = None


@dataclass(frozen=True, kw_only=True)
class StreamlinesGroup:
    """Tractograms that are merged into one set of streamlines.

    Attributes
    ----------
    name
        Name of the group in the HDF5 file.
    files
        Paths of tractograms relative to the subject's folder; ``*`` matches any characters. The formats are those of
        :func:`dwiml.tractograms.reading.open_tractogram`.
    dps_keys
        Keys of the data per streamline to keep.
    connectivity
        Which pairs of regions are connected; None if unknown.
    space
        Space of the tractograms that do not record it: ``"rasmm"`` or ``"lpsmm"``; None if it was not given.
    trx_groups
        Groups of the ``.trx`` files whose streamlines are read; empty: all streamlines.
    """

    name: str
    files: tuple[str, ...]
    dps_keys: tuple[str, ...] = ()
    connectivity: ConnectivityFiles | None = None
    space: str | None = None
    trx_groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupsConfig:
    """All groups of a config.

    Attributes
    ----------
    groups
        The groups, in the order of the config.
    text
        The config as JSON text, which is recorded in the HDF5 file.
    """

    groups: tuple[VolumeGroup | StreamlinesGroup, ...]
    text: str

    def of_subject(self, values: Mapping[str, str]) -> GroupsConfig:
        """Return the config of one subject, with the placeholders of file names replaced.

        Parameters
        ----------
        values
            {name of a placeholder: what it stands for}; see :func:`dwiml.hdf5.layouts.patterns.filled`.
        """

        def named(files: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(filled(file, values) for file in files)

        groups: list[VolumeGroup | StreamlinesGroup] = []
        for group in self.groups:
            if isinstance(group, VolumeGroup):
                groups.append(replace(group, files=named(group.files), std_mask=named(group.std_mask)))
                continue
            known = group.connectivity
            if known is not None:
                labels = None if known.labels is None else filled(known.labels, values)
                known = replace(known, matrix=filled(known.matrix, values), labels=labels)
            groups.append(replace(group, files=named(group.files), connectivity=known))
        return GroupsConfig(tuple(groups), self.text)

    @property
    def volumes(self) -> tuple[VolumeGroup, ...]:
        """The groups of volumes."""
        return tuple(group for group in self.groups if isinstance(group, VolumeGroup))

    @property
    def streamlines(self) -> tuple[StreamlinesGroup, ...]:
        """The groups of streamlines."""
        return tuple(group for group in self.groups if isinstance(group, StreamlinesGroup))


def load_config(
    config: str | os.PathLike[str] | Mapping[str, Any] | None, *, base: Mapping[str, Any] | None = None
) -> GroupsConfig:
    """Read and check a groups config.

    Parameters
    ----------
    config
        Path of a JSON file, or its content as a dict: {name of the group: {"type": ..., "files": ..., ...}}. None for
        the groups of the layout.
    base
        Groups of a layout, to which the config adds groups, or which it replaces by groups of the same name.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the config is invalid. The message names the group and lists the allowed values.
    """
    if config is None:
        if base is None:
            raise ValueError("The groups of the HDF5 file are not defined: give config or layout.")
        content, where = dict(base), "the layout"
    elif isinstance(config, Mapping):
        content, where = dict(config), "the groups config"
    else:
        content, where = read_json(config, "Groups config"), f"'{config}'"
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{_capital(where)} must be a JSON object with at least one group, "
            'for example {"streamlines": {"type": "streamlines", "files": ["*.trk"]}}.'
        )
    content = {**(base or {}), **content}
    groups = tuple(_parse_group(name, entry, where) for name, entry in content.items())
    return GroupsConfig(groups, json.dumps(content))


def _parse_group(name: Any, entry: Any, where: str) -> VolumeGroup | StreamlinesGroup:
    schema.check_name(name, f"A group of {where}")
    label = f"Group '{name}' of {where}"
    if not isinstance(entry, dict):
        raise ValueError(f"{label} must be an object with 'type' and 'files', got {entry!r}.")
    group_type = entry.get("type")
    if group_type not in (schema.TYPE_VOLUME, schema.TYPE_STREAMLINES):
        found = f"has type {group_type!r}" if "type" in entry else "has no 'type'"
        raise ValueError(f"{label} {found}; it must be 'volume' or 'streamlines'.")
    allowed = _VOLUME_KEYS if group_type == schema.TYPE_VOLUME else _STREAMLINES_KEYS
    _check_keys(entry, allowed, label, group_type)
    files = _files(entry["files"], "files", label)
    if group_type == schema.TYPE_STREAMLINES:
        dps_keys = _texts(entry.get("dps_keys", ()), "dps_keys", label)
        for key in dps_keys:
            schema.check_name(key, f"{label}: one of its dps_keys")
        connectivity = _connectivity(entry, label)
        groups = _texts(entry.get("trx_groups", ()), "trx_groups", label)
        space = entry.get("space")
        if "space" in entry and space not in SPACES:
            raise ValueError(f"{label} has the unknown space {space!r}; it must be one of {quoted(SPACES)}.")
        return StreamlinesGroup(
            name=name, files=files, dps_keys=dps_keys, connectivity=connectivity, space=space, trx_groups=groups
        )
    standardization = entry.get("standardization", "none")
    if standardization not in STANDARDIZATIONS:
        raise ValueError(
            f"{label} has the unknown standardization {standardization!r}; "
            f"it must be one of {quoted(STANDARDIZATIONS)}."
        )
    std_mask = _files(entry["std_mask"], "std_mask", label) if "std_mask" in entry else ()
    return VolumeGroup(
        name=name,
        files=files,
        standardization=standardization,
        std_mask=std_mask,
        directions=_directions(entry["directions"], len(files), label) if "directions" in entry else (),
    )


def _directions(value: Any, nb_files: int, label: str) -> tuple[Directions | None, ...]:
    """Return the convention of each entry of ``files``; an object stands for all of them."""
    if not isinstance(value, (list, tuple)):
        return (parse_directions(value, label),) * nb_files
    if len(value) != nb_files:
        raise ValueError(
            f"{label}: 'directions' has {len(value)} entries and 'files' has {nb_files}; give one entry for each, null "
            "where the convention is unknown, or a single object for all."
        )
    return tuple(None if each is None else parse_directions(each, label) for each in value)


def _check_keys(entry: Mapping[str, Any], allowed: Iterable[str], label: str, group_type: str) -> None:
    unknown = [key for key in entry if key not in allowed]
    if unknown:
        raise ValueError(
            f"{label} has the unknown key {quoted(unknown)}; a group of type '{group_type}' has: {quoted(allowed)}."
        )
    if "files" not in entry:
        raise ValueError(f"{label} has no 'files': list at least one, relative to the subject's folder.")


def _connectivity(entry: Mapping[str, Any], label: str) -> ConnectivityFiles | None:
    given = [key for key in _CONNECTIVITY_KEYS if key in entry]
    if not given:
        return None
    matrix, blocs, labels = _CONNECTIVITY_KEYS
    if matrix not in entry:
        raise ValueError(f"{label} has '{given[0]}' but no '{matrix}'; name the subject's .npy file.")
    if len(given) != 2:
        found = "both" if len(given) == 3 else "neither"
        raise ValueError(
            f"{label}: the rows of '{matrix}' are either blocs or labels; give '{blocs}' or '{labels}', got {found}."
        )
    file = _one_file(entry[matrix], matrix, label)
    if not file.endswith(".npy"):
        raise ValueError(f"{label}: '{matrix}' must be a .npy file, got '{file}'.")
    if blocs in entry:
        return ConnectivityFiles(matrix=file, nb_blocs=_nb_blocs(entry[blocs], label))
    return ConnectivityFiles(matrix=file, labels=_one_file(entry[labels], labels, label))


def _one_file(value: Any, key: str, label: str) -> str:
    files = _files(value, key, label)
    if len(files) > 1:
        raise ValueError(f"{label}: '{key}' must be one file, got {quoted(files)}.")
    return files[0]


def _nb_blocs(value: Any, label: str) -> tuple[int, int, int]:
    numbers = value if isinstance(value, (list, tuple)) else (value,) * 3
    if len(numbers) != 3 or not all(type(nb) is int and nb > 0 for nb in numbers):
        raise ValueError(
            f"{label}: 'connectivity_nb_blocs' must be a positive integer, or three of them (along x, y and z), got "
            f"{value!r}."
        )
    x, y, z = numbers
    return x, y, z


def _texts(value: Any, key: str, label: str) -> tuple[str, ...]:
    """Return a list of strings; a single string becomes a list of one."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{label}: '{key}' must be a list of non-empty strings, got {value!r}.")
    if len(set(texts)) < len(texts):
        repeated = dict.fromkeys(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"{label}: '{key}' lists {quoted(repeated)} more than once; list each entry once.")
    return tuple(texts)


def _files(value: Any, key: str, label: str) -> tuple[str, ...]:
    files = _texts(value, key, label)
    if not files:
        raise ValueError(f"{label}: '{key}' is empty; list at least one file, relative to the subject's folder.")
    absolute = [name for name in files if PurePosixPath(name).is_absolute() or name.startswith("~")]
    if absolute:
        raise ValueError(f"{label}: '{key}' must be relative to the subject's folder, got {quoted(absolute)}.")
    return files


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
