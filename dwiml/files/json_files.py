"""Read JSON files strictly."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, NoReturn

from dwiml.files.opening import open_regular
from dwiml.files.reasons import reason_of

# Files of parameters, scores or groups are far smaller.
MAX_JSON_BYTES = 256 * 2**20


def read_json(
    path: str | os.PathLike[str],
    what: str = "The file",
    *,
    max_bytes: int = MAX_JSON_BYTES,
    non_finite: bool = False,
) -> Any:
    """Read a JSON file (RFC 8259) in UTF-8, with or without a byte order mark.

    Parameters
    ----------
    path
        The file.
    what
        Beginning of error messages.
    max_bytes
        Maximum size of the file, in bytes.
    non_finite
        Whether NaN and Infinity, which are not JSON but which other programs write, are read.

    Returns
    -------
    dict, list, str, int, float, bool or None
        The content.

    Raises
    ------
    FileNotFoundError, OSError
        If the file is missing or cannot be opened.
    ValueError
        If it is not valid JSON, is too large, holds NaN or Infinity and they are not allowed, or has a duplicate key.
    """
    with open_regular(path, what) as stream:
        # read(max_bytes) would allocate max_bytes.
        size = os.fstat(stream.fileno()).st_size
        raw = stream.read(size) if size <= max_bytes else b""
    if size > max_bytes:
        raise ValueError(
            f"{what} '{path}' is larger than {max_bytes / 1e6:.0f} MB, the largest JSON file that dwiml reads; check "
            "that it is the right file."
        )
    try:
        return parse_json(raw, non_finite=non_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} '{path}' is not valid JSON ({reason_of(error)}).") from error


def parse_json(raw: bytes | str, *, non_finite: bool = False) -> Any:
    """Parse JSON text (RFC 8259).

    Parameters
    ----------
    raw
        The text; bytes are UTF-8.
    non_finite
        As in :func:`read_json`.

    Raises
    ------
    ValueError
        If it is not valid JSON in UTF-8, holds NaN or Infinity (which are not JSON) and they are not allowed, or has a
        duplicate key.
    RecursionError
        If it is nested too deeply.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    constant = None if non_finite else _refuse_constant
    return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=constant)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse duplicate keys, for which the json module would silently keep the last value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)[:10]
        raise ValueError(f"{', '.join(map(repr, repeated))} appears twice")
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")
