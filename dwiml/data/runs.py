"""Checks of a subject's streamlines: where each begins and ends among the points, and where points may lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.data.storage import first_outside

if TYPE_CHECKING:
    import numpy.typing as npt

# In voxels. Streamlines in another space lie some hundreds of voxels away, which gives a warning; no scanner space puts
# them farther.
FARTHEST = 1000
# How much a stored length may differ from that of the points: by 1 %, and by 0.1 mm where that is more.
_RELATIVE, _ABSOLUTE_MM = 0.01, 0.1


def whole_numbers(values: npt.NDArray[Any], most: int) -> npt.NDArray[np.int64] | None:
    """Return values as int64, shape (S,); None when one is not a whole number from 0 to ``most``."""
    flat = values.reshape(-1)
    if flat.dtype.kind not in "iuf" or not len(flat):
        return flat.astype(np.int64) if not len(flat) else None
    # Compared before the conversion: beyond 2^63 it would wrap around.
    if not (flat >= 0).all() or not (flat <= most).all() or (flat.dtype.kind == "f" and (flat != np.floor(flat)).any()):
        return None
    return flat.astype(np.int64)


def fault_of_runs(offsets: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], nb_rows: int) -> str | None:
    """Return what is wrong with runs of points, shape (S,) each: one beyond the points, or two that share some."""
    if len(offsets) != len(lengths):
        return f"there are {len(offsets)} offsets and {len(lengths)} lengths"
    beyond = np.flatnonzero(offsets + lengths > nb_rows)
    if len(beyond):
        return f"offsets and lengths do not fit the {nb_rows} points (streamline {beyond[0]} ends beyond them)"
    used = np.flatnonzero(lengths)
    order = used[np.argsort(offsets[used], kind="stable")]
    shared = np.flatnonzero(offsets[order[:-1]] + lengths[order[:-1]] > offsets[order[1:]])
    if len(shared):
        first, second = sorted((int(order[shared[0]]), int(order[shared[0] + 1])))
        return f"its offsets give streamlines {first} and {second} the same points"
    return None


def allowed_box(dimensions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the least and the greatest coordinates, shape (3,) each, voxel space, corner origin.

    As far from the volume as 1000 voxels, or as its own size where that is more. Where the file does not give the
    volume's size (0), it is taken to be 1000 voxels.
    """
    sizes = np.where(dimensions > 0, dimensions, FARTHEST).astype(np.float64)
    around = np.maximum(sizes, FARTHEST)
    return -around, sizes + around


def wholly_outside(
    points: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], dimensions: npt.NDArray[np.int64]
) -> int:
    """Return how many streamlines have points, and none of them in the volume.

    Parameters
    ----------
    points
        Shape (N, 3), voxel space, corner origin: streamlines one after the other.
    lengths
        Shape (S,): points of each.
    dimensions
        Shape (3,): voxels of the volume; where one is 0, the volume is unknown, and nothing counts as outside.
    """
    if (
        not len(points)
        or not (dimensions > 0).all()
        or first_outside(points, np.zeros(3), dimensions.astype(np.float64)) is None
    ):
        return 0
    inside = ((points >= 0) & (points <= dimensions)).all(axis=1)
    counts = np.concatenate([[0], np.cumsum(inside)])
    ends = np.cumsum(lengths)
    return int(np.count_nonzero((counts[ends] == counts[ends - lengths]) & (lengths > 0)))


def first_wrong_length(stored: npt.NDArray[np.float32], computed: npt.NDArray[np.float32]) -> int | None:
    """Return the number of the first length in mm, shape (S,), that is not that of the points; None for none."""
    wrong = np.abs(stored - computed) > np.maximum(_ABSOLUTE_MM, _RELATIVE * np.abs(computed))
    return int(np.flatnonzero(wrong)[0]) if wrong.any() else None
