"""One reader of JSON for the files of users and of dwiml."""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn

from dwiml.files.opening import open_regular

# A file of parameters, of scores or of groups is far smaller; a larger one is another kind of file.
MAX_JSON_BYTES = 256 * 2**20


def read_json(path: str | os.PathLike[str], what: str = "The file", *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file: UTF-8, with or without a byte order mark.

    Parameters
    ----------
    path
        The file.
    what
        How the sentence of an error begins.
    max_bytes
        The largest file that is read.

    Raises
    ------
    FileNotFoundError, OSError
        When it is missing, or the system refuses it.
    ValueError
        When it is not JSON, is too large, holds NaN or Infinity, or has a key twice.
    """
    with open_regular(path, what) as stream:
        # read(max_bytes) would allocate all of them.
        size = os.fstat(stream.fileno()).st_size
        raw = stream.read(size) if size <= max_bytes else b""
    if size > max_bytes:
        raise ValueError(
            f"{what} '{path}' is larger than {max_bytes / 1e6:.0f} MB, more than any JSON file that dwiml reads."
        )
    try:
        return parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} '{path}' is not valid JSON ({str(error).rstrip('.')}).") from error


def parse_json(raw: bytes | str) -> Any:
    """Return what a JSON text holds.

    Raises
    ------
    ValueError
        When it is not JSON in UTF-8, holds NaN or Infinity (which JSON does not have), or has a key twice.
    RecursionError
        When it is nested too deeply.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse a repeated key, of which the json module would silently keep the last value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(map(repr, repeated))} appears twice")
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")
