"""What the two VTK formats have in common: lines through indexed points, and the space that the file may state."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPACES = {"RAS": "rasmm", "LPS": "lpsmm"}
# As 3D Slicer writes it in the title of a .vtk: "3D Slicer output. SPACE=LPS".
_SPACE_IN_TITLE = re.compile(r"\bSPACE=([A-Za-z]+)")


@dataclass(eq=False)
class PolyLines:
    """The lines of a VTK file.

    Attributes
    ----------
    points
        Points of the file, shape (P, 3), mm, in the space of the file, dtype of the file.
    rows
        The point of the file at each point of each line, lines concatenated; shape (N,), int64.
    lengths
        Number of points of each line; shape (S,), int64.
    space
        ``"rasmm"`` or ``"lpsmm"`` if the file states its space; otherwise None.
    """

    points: NDArray[Any]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    space: str | None


def lengths_from_offsets(offsets: NDArray[Any], nb_rows: int) -> NDArray[np.int64]:
    """Return the number of points of each line, shape (S,), from their S + 1 offsets.

    Raises
    ------
    ValueError
        If the offsets do not begin at 0, decrease, or do not end at `nb_rows`.
    """
    if not len(offsets):
        if nb_rows:
            raise ValueError(f"it has {nb_rows} points of lines but no offsets")
        return np.zeros(0, dtype=np.int64)
    if offsets[0] != 0 or offsets[-1] != nb_rows or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("the offsets of its lines do not increase from 0 to their number of points")
    ends = offsets.astype(np.int64)
    return ends[1:] - ends[:-1]


def check_rows(rows: NDArray[Any], nb_points: int) -> NDArray[np.int64]:
    """Return the points of the lines as int64, if they exist in the file.

    Raises
    ------
    ValueError
        If a number is negative or too large.
    """
    if len(rows) and (rows.min() < 0 or rows.max() >= nb_points):
        raise ValueError(f"its lines use points {rows.min()} to {rows.max()}, but it has {nb_points}")
    return rows.astype(np.int64)


def space_of_title(title: str) -> list[str]:
    """Return the space in the title of a legacy file, ``RAS`` for instance; an empty list if there is none."""
    return _SPACE_IN_TITLE.findall(title)


def stated_space(names: Iterable[str]) -> str | None:
    """Return ``"rasmm"`` or ``"lpsmm"`` for the names of spaces found in a file; None if there is none.

    Raises
    ------
    ValueError
        If a name is unknown, or they differ.
    """
    found = sorted({name.strip().upper() for name in names})
    if not found:
        return None
    if len(found) > 1 or found[0] not in _SPACES:
        raise ValueError(f"its space is stated as '{' and '.join(found)[:60]}'; RAS or LPS is expected")
    return _SPACES[found[0]]
