"""The streamlines group of a subject."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dwiml.arguments import counted, quoted, shown
from dwiml.data import runs
from dwiml.data.affines import checked_affine, warn_of_other_sizes
from dwiml.data.connectivity import Connectivity, read_connectivity
from dwiml.data.storage import StoredArray, as_float32, first_outside
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import StoredDataset, StoredGroup
from dwiml.hdf5.stored.layout import checked_group
from dwiml.ops import resampling, spaces
from dwiml.ops.ragged import offsets as offsets_of
from dwiml.ops.ragged import sequence_of_row, slabs
from dwiml.ops.sequences import TensorSequence
from dwiml.tractograms.grid import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = int | slice | npt.NDArray[np.integer[Any]] | list[int] | None


logger = logging.getLogger(__name__)

# Number of streamlines of a lazy subject that are checked when it is loaded.
_LAZY_SAMPLE = 16
_SLAB_POINTS = 2**20
# Older versions of dwi_ml kept the lengths of removed streamlines.
_DELETE_LENGTHS = (
    f"recreate the HDF5 file, or delete the dataset '{schema.EUCLIDEAN_LENGTHS}' from it: it is then computed"
)


class SubjectStreamlines:
    """Streamlines of one subject, returned in voxel space, corner origin, whatever the space in the file.

    Parameters
    ----------
    subject
        Open group of the subject.
    group
        Name of the streamlines group.
    lazy
        Leave the points in the file.

    Attributes
    ----------
    lengths
        Shape (S,), int64: number of points of each streamline.
    lengths_mm
        Shape (S,), float32: length of each streamline along its curve, in mm.
    affine
        Shape (4, 4), float64: voxel indices (origin at the center of the first voxel) to rasmm, in mm.
    voxel_sizes
        Shape (3,), float32, mm.
    dimensions
        Shape (3,), int64: size of the volumes in voxels; 0 if the file does not state it.
    has_connectivity
        Whether the file has a connectivity matrix for these streamlines.

    Raises
    ------
    ValueError
        If the group is incomplete, damaged or implausible. The message names the group and the subject.
    """

    _remedy = "recreate the HDF5 file without it"

    def __init__(self, subject: StoredGroup, group: str, *, lazy: bool) -> None:
        node = checked_group(subject, group, [schema.DATA, schema.LENGTHS], [schema.AFFINE])
        self._place = (subject.file.path.resolve(), subject.name, group)
        self.label = f"streamlines group '{group}' of subject '{subject.name}'"
        self.lazy = lazy
        self.has_connectivity = schema.CONNECTIVITY_MATRIX in node
        self._connectivity: Connectivity | None = None
        self.affine = checked_affine(node.attribute(schema.AFFINE), self.label)
        self.voxel_sizes = spaces.voxel_sizes_of(self.affine).astype(np.float32)
        warn_of_other_sizes(node.attribute(schema.VOXEL_SIZES), self.voxel_sizes, self.label)
        self.dimensions = self._read_dimensions(node)
        self.space, self.origin = self._read_space(node)
        self._box = runs.allowed_box(self.dimensions)
        self._points = StoredArray(node.dataset(schema.DATA), lazy=lazy)
        if self._points.shape[1:] != (3,):
            self._refuse(f"its points have shape {self._points.shape}, but must have shape (N, 3)")
        self.lengths, self.offsets = self._read_runs(node)
        self.data_per_streamline = self._read_data_per_streamline(node)
        self.lengths_mm = self._read_lengths_mm(node)

    def _read_dimensions(self, node: StoredGroup) -> npt.NDArray[np.int64]:
        given = np.asarray(node.attribute(schema.DIMENSIONS, (0, 0, 0)))
        dimensions = runs.whole_numbers(given, np.iinfo(np.int32).max) if given.shape == (3,) else None
        if dimensions is None:
            self._refuse(f"'{schema.DIMENSIONS}' is {given.tolist()}, but must be three integers (numbers of voxels)")
        return dimensions

    def _read_space(self, node: StoredGroup) -> tuple[str, str]:
        try:
            return (
                spaces.parse_space(schema.read_text(node.attribute(schema.SPACE, "vox"))),
                spaces.parse_origin(schema.read_text(node.attribute(schema.ORIGIN, "corner"))),
            )
        except ValueError as error:
            raise ValueError(f"The {self.label} has an unknown space or origin: {error}") from error

    def _read_runs(self, node: StoredGroup) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return lengths and offsets, shape (S,) each."""
        nb_rows, found = self._points.shape[0], {}
        for name in (schema.LENGTHS, schema.OFFSETS):
            if name not in node:
                continue
            values = _read_small(node.dataset(name))
            numbers = runs.whole_numbers(values, nb_rows)
            if numbers is None:
                self._refuse(
                    f"{name} holds {runs.first_invalid(values, nb_rows)}, which is not an integer from 0 to {nb_rows}"
                )
            found[name] = numbers
        lengths = found[schema.LENGTHS]
        offsets = found.get(schema.OFFSETS, offsets_of(lengths))
        fault = runs.find_fault(offsets, lengths, nb_rows)
        if fault is not None:
            self._refuse(fault)
        return lengths, offsets

    def _read_data_per_streamline(self, node: StoredGroup) -> dict[str, StoredArray]:
        found: dict[str, StoredArray] = {}
        if schema.DATA_PER_STREAMLINE not in node:
            return found
        group = node.group(schema.DATA_PER_STREAMLINE)
        for key in group.names:
            dataset = None if group.is_group(key) else group.dataset(key)
            if dataset is None or not dataset.is_numeric:
                logger.warning(
                    "data_per_streamline '%s' of the %s is ignored: it does not hold numbers.", key, self.label
                )
                continue
            if dataset.shape[:1] != (len(self),):
                self._refuse(
                    f"data_per_streamline '{key}' has shape {dataset.shape}, but must have one row for each of the "
                    f"{len(self)} streamlines"
                )
            found[key] = StoredArray(dataset, lazy=self.lazy)
        return found

    def _read_lengths_mm(self, node: StoredGroup) -> npt.NDArray[np.float32]:
        """Return the stored lengths, compared with the lengths of all streamlines (of a sample if lazy)."""
        if schema.EUCLIDEAN_LENGTHS not in node:
            return self.check_points()
        stored = as_float32(_read_small(node.dataset(schema.EUCLIDEAN_LENGTHS)).reshape(-1))
        if len(stored) != len(self):
            self._refuse(
                f"euclidean_lengths has {len(stored)} values for {len(self)} streamlines", advice=_DELETE_LENGTHS
            )
        if not (np.isfinite(stored) & (stored >= 0)).all():
            self._refuse("euclidean_lengths holds NaN, infinite or negative values")
        if self.lazy:
            self._check_sample(stored)
        else:
            self._compare_lengths(stored, self.check_points(), np.arange(len(self)))
        return stored

    def check_points(self) -> npt.NDArray[np.float32]:
        """Check the points of all streamlines, a few at a time; warn if streamlines are entirely outside the volume.

        Returns
        -------
        array of shape (S,), float32
            Length of each streamline along its curve, in mm.

        Raises
        ------
        ValueError
            If a coordinate is NaN, infinite, or implausibly far from the volume.
        """
        found, nb_outside = np.zeros(len(self), dtype=np.float32), 0
        for some, _ in slabs(self.lengths, _SLAB_POINTS):
            found[some], outside = self._check_some(np.arange(some.start, some.stop))
            nb_outside += outside
        self._warn_outside(nb_outside, f"{len(self)} streamlines")
        return found

    def check_lengths(self) -> None:
        """Compare the stored lengths with those computed by :meth:`check_points`.

        Raises
        ------
        ValueError
            If a length differs, or a point is invalid.
        """
        self._compare_lengths(self.lengths_mm, self.check_points(), np.arange(len(self)))

    def _check_sample(self, stored: npt.NDArray[np.float32]) -> None:
        ids = np.unique(np.linspace(0, max(len(self) - 1, 0), _LAZY_SAMPLE).astype(np.int64))[: len(self)]
        computed, nb_outside = self._check_some(ids)
        self._compare_lengths(stored[ids], computed, ids)
        self._warn_outside(nb_outside, f"{len(ids)} sampled streamlines")

    def _check_some(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], int]:
        """Return the lengths of some streamlines in mm, and how many of them lie entirely outside the volume."""
        points, lengths = self._read(ids)
        self._check_coordinates(points, lengths, ids)
        lengths_mm = resampling.lengths_mm(points, lengths, self.voxel_sizes)
        return lengths_mm, runs.count_outside(points, lengths, self.dimensions)

    def _check_coordinates(
        self, points: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
    ) -> None:
        wrong = first_outside(points, *self._box)
        if wrong is None:
            return
        place = sequence_of_row(lengths, wrong)
        point, what = points[wrong], f"Streamline {ids[place]} of the {self.label}"
        if not np.isfinite(point).all():
            raise ValueError(f"{what} holds NaN or infinite coordinates; {self._remedy}.")
        raise ValueError(
            f"{what} has a point at ({', '.join(f'{value:.4g}' for value in point)}) in voxels, more than "
            f"{runs.MAX_DISTANCE} voxels outside its volume of {_volume_shown(self.dimensions)}; check the space of "
            f"the tractogram, and {self._remedy}."
        )

    def _compare_lengths(
        self, stored: npt.NDArray[np.float32], computed: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]
    ) -> None:
        wrong = runs.first_wrong_length(stored, computed)
        if wrong is not None:
            self._refuse(
                f"euclidean_lengths is {stored[wrong]:.4g} mm for streamline {ids[wrong]}, but its points give "
                f"{computed[wrong]:.4g} mm",
                advice=_DELETE_LENGTHS,
            )

    def _warn_outside(self, nb_outside: int, checked: str) -> None:
        if nb_outside:
            logger.warning(
                "%d of the %s of the %s lie entirely outside the volume of %s, where the inputs are those of its "
                "border; check the space of the tractogram.",
                nb_outside,
                checked,
                self.label,
                _volume_shown(self.dimensions),
            )

    def _refuse(self, reason: str, *, advice: str = "recreate the HDF5 file") -> NoReturn:
        raise ValueError(f"The {self.label} is damaged: {reason}; {advice}.")

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        content = f"{counted(len(self), 'streamline')}, {counted(int(self.lengths.sum()), 'point')}"
        return f"SubjectStreamlines({self.label}: {content}, {'lazy' if self.lazy else 'in memory'})"

    def grid_of(self, shape: tuple[int, int, int]) -> Grid:
        """Return the voxel grid.

        Parameters
        ----------
        shape
            Shape of the subject's volumes (X, Y, Z), used if the streamlines group does not state it (older files).
        """
        x, y, z = self.dimensions.tolist() if self.dimensions.any() else shape
        return Grid(self.affine, (x, y, z), self._place[0])

    @property
    def connectivity(self) -> Connectivity | None:
        """Which regions are connected, read from the file at the first access; None if the file has no matrix.

        Raises
        ------
        ValueError
            If the matrix is damaged.
        """
        if self.has_connectivity and self._connectivity is None:
            self._points.check_file()
            self._connectivity = read_connectivity(*self._place)
        return self._connectivity

    def __getstate__(self) -> dict[str, Any]:
        # Most other processes never need it; those that do read it again.
        return {**self.__dict__, "_connectivity": None}

    def gather(self, ids: Ids = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return the points of some streamlines as one flat array.

        Parameters
        ----------
        ids
            An id, a slice, ids in any order (repeats are allowed), or a boolean mask of shape (S,); None for all.

        Returns
        -------
        points
            Shape (total_points, 3), float32, voxel space, corner origin.
        lengths
            Number of points of each streamline, one per id, int64.

        Raises
        ------
        IndexError
            If an id is out of range or is not an integer.
        ValueError
            If the streamlines are lazy, and the file is no longer the one that was loaded or a coordinate is
            implausible.
        """
        chosen = self._as_indices(ids)
        points, lengths = self._read(chosen)
        if self.lazy:
            # Points in memory were checked when they were loaded.
            self._check_coordinates(points, lengths, chosen)
        return points, lengths

    def _read(self, chosen: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        lengths = self.lengths[chosen]
        points = self._points.gather(self.offsets[chosen], lengths)
        if (self.space, self.origin) != ("vox", "corner"):
            with np.errstate(over="ignore", invalid="ignore"):
                points = spaces.to_vox_corner(
                    points, space=self.space, origin=self.origin, affine=self.affine, voxel_sizes=self.voxel_sizes
                )
        return points, lengths

    def get(self, ids: Ids = None) -> TensorSequence:
        """Return some streamlines as a TensorSequence, float32, voxel space, corner origin; see :meth:`gather`."""
        return TensorSequence.from_numpy(*self.gather(ids))

    def gather_data_per_streamline(self, key: str, ids: Ids = None) -> npt.NDArray[np.float32]:
        """Return the data per streamline of some streamlines.

        Parameters
        ----------
        key
            Name of the data.
        ids
            As in :meth:`gather`.

        Returns
        -------
        array of shape (S, K), float32
            K values for each of the S ids.

        Raises
        ------
        KeyError
            If the key does not exist. The message lists the existing keys.
        IndexError
            As in :meth:`gather`.
        """
        if key not in self.data_per_streamline:
            known = quoted(self.data_per_streamline)
            raise KeyError(f"data_per_streamline '{key}' not found in the {self.label}; it has: {known}.")
        chosen = self._as_indices(ids)
        rows = self.data_per_streamline[key].gather(chosen, np.ones_like(chosen))
        return rows.reshape(len(chosen), self.data_per_streamline_size(key))

    def data_per_streamline_size(self, key: str) -> int:
        """Return the number of values K per streamline of a key."""
        return math.prod(self.data_per_streamline[key].shape[1:])

    def _as_indices(self, ids: Ids) -> npt.NDArray[np.int64]:
        if ids is None or isinstance(ids, slice):
            return np.arange(*(ids or slice(None)).indices(len(self)), dtype=np.int64)
        given = np.atleast_1d(np.asarray(ids))
        if given.dtype == bool and given.shape == (len(self),):
            given = np.flatnonzero(given)
        # NumPy converts an empty list to an array of floats.
        if given.ndim > 1 or (given.size and given.dtype.kind not in "iu"):
            raise IndexError(
                f"Ids of the {self.label} must be integers, or a boolean array of shape ({len(self)},); "
                f"got {given.dtype} of shape {given.shape}: {shown(given.flat[0])}, ..."
            )
        # Before the conversion, in which the largest unsigned numbers become negative.
        outside = given[(given < -len(self)) | (given >= len(self))]
        if len(outside):
            raise IndexError(f"Streamline {outside[0]} is out of range: the {self.label} has {len(self)}.")
        chosen = given.astype(np.int64)
        return np.where(chosen < 0, chosen + len(self), chosen)


def _read_small(dataset: StoredDataset) -> npt.NDArray[Any]:
    """Return the values of a dataset that is always read entirely, compared with its digest."""
    values = dataset.read()
    dataset.check_digest(values)
    return values


def _volume_shown(dimensions: npt.NDArray[np.int64]) -> str:
    known = " x ".join(str(size) for size in dimensions)
    return f"{known} voxels" if (dimensions > 0).all() else "unknown size"
