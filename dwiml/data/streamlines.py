"""A subject's streamlines group."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import h5py
import numpy as np

from dwiml.arguments import shown
from dwiml.data.affines import checked_affine
from dwiml.data.connectivity import Connectivity, read_connectivity
from dwiml.data.storage import StoredArray
from dwiml.hdf5 import schema
from dwiml.ops import resampling, spaces
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = int | slice | npt.NDArray[np.integer[Any]] | list[int] | None


logger = logging.getLogger(__name__)


class SubjectStreamlines:
    """Streamlines of one subject, given in voxel space with the corner as origin whatever the file holds.

    Attributes
    ----------
    lengths
        Shape (S,), int64: points of each streamline.
    lengths_mm
        Shape (S,), float32: length of each streamline along its curve, in mm.
    affine
        Shape (4, 4), float64: voxel indices (origin at the first voxel's centre) to rasmm.
    voxel_sizes
        Shape (3,), float32, mm.
    dimensions
        Shape (3,), int64: the grid of the volumes.
    has_connectivity
        Whether the file says which regions streamlines may join.
    """

    def __init__(self, subject: h5py.Group, group: str, *, lazy: bool) -> None:
        schema.check_group(subject, group, [schema.DATA, schema.LENGTHS], [schema.AFFINE])
        node = subject[group]
        self._place = (Path(subject.file.filename).resolve(), subject.name.strip("/"), group)
        self.label = f"streamlines group '{group}' of subject '{self._place[1]}'"
        self.has_connectivity = schema.CONNECTIVITY_MATRIX in node
        self._connectivity: Connectivity | None = None
        self.affine = checked_affine(node.attrs[schema.AFFINE], self.label)
        self.voxel_sizes = np.linalg.norm(self.affine[:3, :3], axis=0).astype(np.float32)
        self.dimensions = np.asarray(node.attrs.get(schema.DIMENSIONS, (0, 0, 0)), dtype=np.int64)
        self.space = spaces.parse_space(schema.read_text(node.attrs.get(schema.SPACE, "vox")))
        self.origin = spaces.parse_origin(schema.read_text(node.attrs.get(schema.ORIGIN, "corner")))
        self.lengths = np.asarray(node[schema.LENGTHS][()], dtype=np.int64).reshape(-1)
        self.offsets = self._read_offsets(node)
        self._points = StoredArray(node[schema.DATA], lazy=lazy)
        self.data_per_streamline = {
            str(key): StoredArray(dataset, lazy=lazy)
            for key, dataset in node.get(schema.DATA_PER_STREAMLINE, {}).items()
            if self._is_numeric(key, dataset)
        }
        self._check_layout()
        if not lazy:
            self._check_finite(self._points.whole())
        self.lengths_mm = self._read_lengths_mm(node)

    def _read_offsets(self, node: h5py.Group) -> npt.NDArray[np.int64]:
        if schema.OFFSETS in node:
            return np.asarray(node[schema.OFFSETS][()], dtype=np.int64).reshape(-1)
        return np.cumsum(self.lengths) - self.lengths

    def _is_numeric(self, key: str, dataset: Any) -> bool:
        numeric = isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "fiub"
        if not numeric:
            logger.warning("data_per_streamline '%s' of the %s is left out: it holds no numbers.", key, self.label)
        return numeric

    def _check_layout(self) -> None:
        rows = self._points.shape[0]
        ends = self.offsets + self.lengths if len(self.offsets) == len(self.lengths) else np.array([rows + 1])
        if self._points.shape[1:] != (3,) or (len(ends) and (ends.max() > rows or self.offsets.min() < 0)):
            self._refuse(f"offsets and lengths do not fit the {rows} points")
        if (self.lengths < 0).any():
            self._refuse(f"lengths holds {self.lengths.min()}, which is no number of points")
        for key, values in self.data_per_streamline.items():
            if values.shape[:1] != (len(self),):
                self._refuse(
                    f"data_per_streamline '{key}' of shape {values.shape} is not one row for each of {len(self)}"
                )

    def _check_finite(self, points: npt.NDArray[Any]) -> None:
        if not np.isfinite(points).all():
            raise ValueError(f"The {self.label} hold NaN or infinite coordinates; make the HDF5 again without them.")

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"The {self.label} are damaged: {reason}; make the HDF5 again.")

    def _read_lengths_mm(self, node: h5py.Group) -> npt.NDArray[np.float32]:
        if schema.EUCLIDEAN_LENGTHS in node:
            stored = np.asarray(node[schema.EUCLIDEAN_LENGTHS][()], dtype=np.float32).reshape(-1)
            if len(stored) != len(self):
                self._refuse(f"euclidean_lengths holds {len(stored)} values for {len(self)} streamlines")
            if not (np.isfinite(stored) & (stored >= 0)).all():
                self._refuse("euclidean_lengths holds NaN, infinite or negative values")
            return stored
        points, lengths = self.gather()
        self._check_finite(points)
        return resampling.lengths_mm(points, lengths, self.voxel_sizes)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def connectivity(self) -> Connectivity | None:
        """Which regions are connected, read from the file when it is first asked for; None when the file has no matrix.

        Raises
        ------
        ValueError
            When the matrix is damaged.
        """
        if self.has_connectivity and self._connectivity is None:
            self._connectivity = read_connectivity(*self._place)
        return self._connectivity

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads it again if it needs it; most never do.
        return {**self.__dict__, "_connectivity": None}

    def gather(self, ids: Ids = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return the points of some streamlines as one flat array.

        Parameters
        ----------
        ids
            One id, a slice, ids in any order (repeats allowed), or a boolean array of shape (S,) that says which;
            None for all.

        Returns
        -------
        points
            Shape (total_points, 3), float32, voxel space, corner origin.
        lengths
            Shape (S,), int64.

        Raises
        ------
        IndexError
            When an id is out of range, or is no integer.
        """
        chosen = self._as_indices(ids)
        lengths = self.lengths[chosen]
        points = self._points.gather(self.offsets[chosen], lengths)
        if (self.space, self.origin) != ("vox", "corner"):
            points = spaces.to_vox_corner(
                points, space=self.space, origin=self.origin, affine=self.affine, voxel_sizes=self.voxel_sizes
            )
        return points, lengths

    def get(self, ids: Ids = None) -> TensorSequence:
        """Return some streamlines (see :meth:`gather`) as a TensorSequence, voxel space, corner origin."""
        return TensorSequence.from_numpy(*self.gather(ids))

    def gather_data_per_streamline(self, key: str, ids: Ids = None) -> npt.NDArray[np.float32]:
        """Return a row of data_per_streamline for each id, shape (S, K), float32.

        Raises
        ------
        KeyError
            When there is no such key; the message names those that exist.
        """
        if key not in self.data_per_streamline:
            known = schema.quoted(self.data_per_streamline)
            raise KeyError(f"data_per_streamline '{key}' not found in the {self.label}; it has: {known}.")
        chosen = self._as_indices(ids)
        rows = self.data_per_streamline[key].gather(chosen, np.ones_like(chosen))
        return rows.reshape(len(chosen), self.data_per_streamline_size(key))

    def data_per_streamline_size(self, key: str) -> int:
        """Return how many values a streamline has of a key: K."""
        return math.prod(self.data_per_streamline[key].shape[1:])

    def _as_indices(self, ids: Ids) -> npt.NDArray[np.int64]:
        if ids is None or isinstance(ids, slice):
            return np.arange(*(ids or slice(None)).indices(len(self)), dtype=np.int64)
        given = np.atleast_1d(np.asarray(ids))
        if given.dtype == bool and given.shape == (len(self),):
            given = np.flatnonzero(given)
        # An empty list is an array of floats.
        if given.ndim > 1 or (given.size and given.dtype.kind not in "iu"):
            raise IndexError(
                f"Ids of the {self.label} must be integers, or a boolean array of shape ({len(self)},); "
                f"got {given.dtype} of shape {given.shape}: {shown(given.flat[0])}, ..."
            )
        chosen = given.astype(np.int64)
        outside = chosen[(chosen < -len(self)) | (chosen >= len(self))]
        if len(outside):
            raise IndexError(f"Streamline {outside[0]} asked for; the {self.label} are {len(self)}.")
        return np.where(chosen < 0, chosen + len(self), chosen)
