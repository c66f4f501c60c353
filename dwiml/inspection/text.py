"""Aligned plain text: tables, and names with values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dwiml.arguments import shown

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def table(rows: Iterable[Sequence[str]], *, indent: str = "  ") -> list[str]:
    """Return the lines of a table with aligned columns; the first row is its head."""
    listed = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    return [
        (indent + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))).rstrip()
        for row in listed
    ]


def pairs(items: Mapping[str, str], *, indent: str = "  ") -> list[str]:
    """Return lines of names and values, aligned; a value of several lines is continued under the first one."""
    width = max(map(len, items), default=0) + 2
    lines = []
    for name, value in items.items():
        first, *others = value.split("\n")
        lines += [f"{indent}{name:<{width}}{first}", *(f"{indent}{' ' * width}{other}" for other in others)]
    return lines


def size(nb_bytes: int) -> str:
    """Return a size in decimal units: ``512 bytes``, ``17.6 MB``."""
    power = min(int(math.log10(nb_bytes) // 3), len(_UNITS) - 1) if nb_bytes >= 1000 else 0
    return f"{nb_bytes / 1000**power:.{1 if power else 0}f} {_UNITS[power]}"


def by(values: Iterable[float]) -> str:
    """Return numbers separated by ``x``: ``2 x 2 x 2.5``."""
    return " x ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def cut(text: str, most: int) -> str:
    """Return a text of one line and at most `most` characters, which are printable: it may come from a stranger."""
    line = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NumPy arrays as lists, bytes as text, NaN and infinity as text."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else shown(value)


def length_summary(lengths_mm: Any) -> dict[str, float] | None:
    """Return minimum, median and maximum of lengths, in mm, to 0.01 mm; None without streamlines.

    Parameters
    ----------
    lengths_mm : array of shape (S,)
        In mm.
    """
    values = np.asarray(lengths_mm, dtype=np.float64).reshape(-1)
    if not len(values):
        return None
    found = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: plain(round(float(value), 2)) for name, value in found.items()}


def lengths_text(lengths: Mapping[str, Any] | None) -> str:
    """Return the text of :func:`length_summary`: ``10.2 to 180.4 mm, median 75.0 mm``."""
    if lengths is None:
        return "not recorded"
    low, middle, high = (
        f"{value:.1f}" if isinstance(value, (int, float)) else value
        for value in (lengths["min"], lengths["median"], lengths["max"])
    )
    return f"{low} to {high} mm, median {middle} mm"
