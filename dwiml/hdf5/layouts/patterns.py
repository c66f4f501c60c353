"""Patterns of folders and files with the placeholders ``{subject}``, ``{session}``, ``{set}`` and ``{root}``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

SUBJECT, SESSION, SET = "subject", "session", "set"
ROOT = "{root}/"
"""Beginning of the name of a file that is looked for from the folder of all subjects, not from that of a subject."""

_PLACEHOLDER = re.compile(r"\{(subject|session|set)\}")
# A part that is there only if there are sessions, such as [_ses-{session}].
_OPTIONAL = re.compile(r"\[([^\[\]]*\{session\}[^\[\]]*)\]")


def placeholders(pattern: str) -> list[str]:
    """Return the names of the placeholders of a pattern, in order."""
    return _PLACEHOLDER.findall(pattern)


def required_placeholders(pattern: str) -> list[str]:
    """Return the names of the placeholders outside the optional parts of a pattern, in order."""
    return placeholders(resolved(pattern, False))


def resolved(pattern: str, has_session: bool) -> str:
    """Return a pattern with its optional parts without their brackets, or without these parts."""
    return _OPTIONAL.sub(lambda found: found[1] if has_session else "", pattern)


def filled(pattern: str, values: Mapping[str, str]) -> str:
    """Return a pattern with its placeholders replaced.

    Parameters
    ----------
    pattern
        Name of a file or a folder. A part in brackets that contains ``{session}``, such as ``[_ses-{session}]``, is
        left out if there is no session. Other brackets are ordinary characters.
    values
        {name of a placeholder: what it stands for}. Placeholders without a value stay.
    """
    pattern = resolved(pattern, SESSION in values)
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), pattern)


def find_folders(root: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """Find the folders that match a pattern.

    Parameters
    ----------
    root
        The folder in which to look.
    pattern
        Path relative to `root`, such as ``sub-{subject}[/ses-{session}]``: a placeholder stands for one or more
        characters of a name, ``*`` for any characters. A subject with a folder for a session has only sessions.

    Returns
    -------
    list of (Path, dict)
        The folders, with the values of the placeholders, sorted by these values. Hidden folders are left out.
    """
    with_session = resolved(pattern, True)
    found = list(_walk(root, with_session.split("/"), {}))
    if with_session != pattern:
        of_sessions = {_without_session(values) for _, values in found}
        plain = _walk(root, resolved(pattern, False).split("/"), {})
        found += [(path, values) for path, values in plain if _without_session(values) not in of_sessions]
    return sorted(found, key=lambda each: ([each[1].get(name, "") for name in (SUBJECT, SESSION, SET)], each[0]))


def _walk(folder: Path, parts: list[str], values: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    if not parts:
        yield folder, values
        return
    part = filled(parts[0], values) if placeholders(parts[0]) else parts[0]
    if "*" not in part and not placeholders(part):
        if os.path.isdir(folder / part):
            yield from _walk(folder / part, parts[1:], values)
        return
    expression = _expression(part)
    try:
        paths = sorted(folder.iterdir())
    except PermissionError:
        logger.warning("The folder '%s' cannot be read (no permission); what it contains is not found.", folder)
        return
    for path in paths:
        match = None if path.name.startswith(".") else expression.fullmatch(path.name)
        if match and os.path.isdir(path):
            yield from _walk(path, parts[1:], {**values, **match.groupdict()})


def _expression(part: str) -> re.Pattern[str]:
    """Return the regular expression of the name of a folder."""
    text, end, seen = "", 0, set()
    for found in re.finditer(rf"{_PLACEHOLDER.pattern}|\*", part):
        name = found[1]
        text += re.escape(part[end : found.start()])
        text += ".*" if name is None else f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
        seen.add(name)
        end = found.end()
    text += re.escape(part[end:])
    return re.compile(text, re.DOTALL)


def _without_session(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(values.get(name, "") for name in (SUBJECT, SET))
