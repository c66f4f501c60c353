"""Checks of the offsets, lengths and coordinates of a subject's streamlines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.data.storage import first_outside

if TYPE_CHECKING:
    import numpy.typing as npt

# In voxels. Streamlines given in another space lie hundreds of voxels away, which gives a warning; no scanner space
# places them farther away, so a larger distance is an error.
MAX_DISTANCE = 1000
# Tolerance of the stored lengths: 1 %, or 0.1 mm if that is more.
_RELATIVE, _ABSOLUTE_MM = 0.01, 0.1


def whole_numbers(values: npt.NDArray[Any], most: int) -> npt.NDArray[np.int64] | None:
    """Convert values to int64.

    Parameters
    ----------
    values
        Any shape with S values, integers or floats.
    most
        The largest allowed value.

    Returns
    -------
    array of shape (S,), int64, or None
        None if a value is not an integer from 0 to `most`.
    """
    flat = values.reshape(-1)
    if flat.dtype.kind not in "iuf" or not len(flat):
        return flat.astype(np.int64) if not len(flat) else None
    # Compared before the conversion, which would wrap around beyond 2^63.
    if not (flat >= 0).all() or not (flat <= most).all() or (flat.dtype.kind == "f" and (flat != np.floor(flat)).any()):
        return None
    return flat.astype(np.int64)


def first_invalid(values: npt.NDArray[Any], most: int) -> str:
    """Return the first value that is not an integer from 0 to ``most``, as text."""
    flat = values.reshape(-1)
    if flat.dtype.kind not in "iuf":
        return f"values of type {values.dtype}"
    return str(flat[~((flat >= 0) & (flat <= most) & (flat == np.floor(flat)))][0])


def find_fault(offsets: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], nb_rows: int) -> str | None:
    """Describe what is wrong with the offsets and lengths of streamlines.

    Parameters
    ----------
    offsets, lengths
        Shape (S,), int64: index of the first point and number of points of each streamline.
    nb_rows
        Total number of points.

    Returns
    -------
    str or None
        A fault: a streamline ends beyond the points, or two streamlines share points. None if there is no fault.
    """
    if len(offsets) != len(lengths):
        return f"there are {len(offsets)} offsets but {len(lengths)} lengths"
    beyond = np.flatnonzero(offsets + lengths > nb_rows)
    if len(beyond):
        return f"offsets and lengths do not match the {nb_rows} points (streamline {beyond[0]} ends beyond them)"
    used = np.flatnonzero(lengths)
    order = used[np.argsort(offsets[used], kind="stable")]
    shared = np.flatnonzero(offsets[order[:-1]] + lengths[order[:-1]] > offsets[order[1:]])
    if len(shared):
        first, second = sorted((int(order[shared[0]]), int(order[shared[0] + 1])))
        return f"according to its offsets, streamlines {first} and {second} share points"
    return None


def allowed_box(dimensions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the smallest and the largest plausible coordinates of points.

    Points may lie outside the volume by up to 1000 voxels, or by the size of the volume if that is more.

    Parameters
    ----------
    dimensions
        Shape (3,), int64: size of the volume in voxels; 0 if unknown, in which case 1000 voxels are assumed.

    Returns
    -------
    low, high
        Shape (3,), float64, voxel space, corner origin.
    """
    sizes = np.where(dimensions > 0, dimensions, MAX_DISTANCE).astype(np.float64)
    margin = np.maximum(sizes, MAX_DISTANCE)
    return -margin, sizes + margin


def count_outside(
    points: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], dimensions: npt.NDArray[np.int64]
) -> int:
    """Return the number of non-empty streamlines that lie entirely outside the volume.

    Parameters
    ----------
    points
        Shape (N, 3), float32, voxel space, corner origin: the points of all streamlines, concatenated.
    lengths
        Shape (S,), int64: number of points of each streamline.
    dimensions
        Shape (3,), int64: size of the volume in voxels; if it is unknown (0), no streamline is counted.
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
    """Return the index of the first stored length that differs from the computed one.

    Parameters
    ----------
    stored, computed
        Shape (S,), float32, mm. The tolerance is 1 % of the computed length, and at least 0.1 mm.

    Returns
    -------
    int or None
        None if no length differs.
    """
    wrong = np.abs(stored - computed) > np.maximum(_ABSOLUTE_MM, _RELATIVE * np.abs(computed))
    return int(np.flatnonzero(wrong)[0]) if wrong.any() else None
