"""A layout: the folders of the subjects, the sets that they are in, and the groups of the HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dwiml.arguments import quoted, shown, similar_names
from dwiml.files import read_json
from dwiml.hdf5.layouts.patterns import SESSION, SET, SUBJECT, placeholders, required_placeholders
from dwiml.hdf5.schema import SUBJECT_LISTS

_PRESETS = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(path.stem for path in _PRESETS.glob("*.json")))
"""Names of the layouts that are part of dwiml."""
_KEYS = ("about", "subjects", "sets", "participants", "groups")

LayoutSource = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the subjects of a dataset and their files are.

    Attributes
    ----------
    name
        What error messages call the layout, for instance ``"layout 'bids'"``.
    subjects
        Patterns of the folders of subjects, relative to the folder of the dataset; see
        :func:`dwiml.hdf5.layouts.patterns.find_folders`. The first one that matches a folder is used.
    sets
        {what ``{set}`` stands for in a pattern: ``"training"``, ``"validation"`` or ``"testing"``}.
    participants
        Tables of the participants, relative to the folder of the dataset. The first one that exists is read.
    groups
        The groups config, as a dict; the files are relative to the folder of a subject.
    path
        The JSON file, or None.
    """

    name: str
    subjects: tuple[str, ...]
    sets: Mapping[str, str] = field(default_factory=dict)
    participants: tuple[str, ...] = ()
    groups: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


FOLDERS = Layout(name="layout", subjects=("{subject}",))
"""The layout of a dataset if none is named: one folder for each subject."""


def preset_file(name: str) -> Path:
    """Return the JSON file of a layout that is part of dwiml.

    Raises
    ------
    ValueError
        If there is no such layout. The message lists the names.
    """
    if name not in PRESETS:
        near = similar_names(name, PRESETS)
        hint = f"did you mean {quoted(near)}? The layouts are" if near else "the layouts are"
        raise ValueError(
            f"There is no layout '{name}'; {hint} {quoted(PRESETS)}, or give the path of a JSON file that ends in "
            "'.json'."
        )
    return _PRESETS / f"{name}.json"


def load_layout(layout: LayoutSource) -> Layout:
    """Read and check a layout.

    Parameters
    ----------
    layout
        One of :data:`PRESETS`, the path of a JSON file (ending in ``.json``), or its content as a dict.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If there is no such preset, or the content is invalid. The message names the key.
    """
    if isinstance(layout, Mapping):
        return _parse(dict(layout), "The layout", None)
    path = Path(layout)
    if path.suffix.lower() == ".json":
        return _parse(read_json(path, "Layout"), f"Layout '{path}'", path)
    preset = preset_file(str(layout))
    return _parse(read_json(preset, "Layout"), f"Layout '{layout}'", None)


def _parse(content: Any, name: str, path: Path | None) -> Layout:
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a JSON object with the keys {quoted(_KEYS)}, got {shown(content)}.")
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise ValueError(f"{name} has the unknown key {quoted(unknown)}; it may have: {quoted(_KEYS)}.")
    lacking = [key for key in ("subjects", "groups") if key not in content]
    if lacking:
        raise ValueError(f"{name} has no key {quoted(lacking)}.")
    subjects = _texts(content["subjects"], "subjects", name)
    if not subjects:
        raise ValueError(f"{name}: 'subjects' is empty; give the pattern of the folders of subjects.")
    for pattern in subjects:
        _check_pattern(pattern, name)
    sets, groups = content.get("sets", {}), content["groups"]
    if not isinstance(sets, dict) or not all(value in [*SUBJECT_LISTS] for value in sets.values()):
        raise ValueError(
            f"{name}: 'sets' must be an object whose values are among {quoted(SUBJECT_LISTS)}, got {shown(sets)}."
        )
    if any(SET in placeholders(pattern) for pattern in subjects) != bool(sets):
        raise ValueError(f"{name}: a pattern with {{set}} in 'subjects' and the key 'sets' must be given together.")
    if not isinstance(groups, dict) or not all(isinstance(entry, dict) for entry in groups.values()):
        raise ValueError(f"{name}: 'groups' must be an object, as in a groups config, got {shown(groups)}.")
    _check_sessions(groups, subjects, name)
    participants = _texts(content.get("participants", ()), "participants", name)
    return Layout(name=name, subjects=subjects, sets=sets, participants=participants, groups=groups, path=path)


def _check_pattern(pattern: str, name: str) -> None:
    """Check the pattern of the folders of subjects."""
    parts = PurePosixPath(pattern).parts
    if PurePosixPath(pattern).is_absolute() or pattern.startswith("~") or ".." in parts or not parts:
        raise ValueError(f"{name}: 'subjects' must be relative to the folder of the dataset, got '{pattern}'.")
    if SUBJECT not in required_placeholders(pattern):
        raise ValueError(f"{name}: '{pattern}' in 'subjects' has no {{subject}}, which stands for the subject's name.")


def _check_sessions(groups: Mapping[str, Any], subjects: Iterable[str], name: str) -> None:
    """Check that file names have a {session} only if each subject has one, or in brackets."""
    has_session = any(SESSION in placeholders(pattern) for pattern in subjects)
    if all(SESSION in required_placeholders(pattern) for pattern in subjects):
        return
    for group, entry in groups.items():
        listed = [value if isinstance(value, list) else [value] for value in entry.values()]
        for text in [text for values in listed for text in values if isinstance(text, str)]:
            label = f"{name}: group '{group}' has {{session}} in '{text}'"
            if SESSION in placeholders(text) and not has_session:
                raise ValueError(f"{label}, but 'subjects' has none.")
            if SESSION in required_placeholders(text):
                raise ValueError(
                    f"{label}, but a subject may have no session; put the part in brackets, such as [_ses-{{session}}]."
                )


def _texts(value: Any, key: str, name: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{name}: '{key}' must be a list of non-empty strings, got {shown(value)}.")
    return tuple(texts)
