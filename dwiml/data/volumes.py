"""A subject's volume group."""

from __future__ import annotations

import h5py
import numpy as np
import torch

from dwiml.data.affines import checked_affine
from dwiml.data.storage import StoredArray
from dwiml.hdf5 import schema


class SubjectVolume:
    """Features on a voxel grid.

    Attributes
    ----------
    affine
        Shape (4, 4), float64: voxel indices (origin at the first voxel's centre) to rasmm, in mm.
    voxel_sizes
        Shape (3,), float32, mm.
    shape
        (X, Y, Z, F).
    """

    def __init__(self, subject: h5py.Group, group: str, *, lazy: bool) -> None:
        schema.check_group(subject, group, [schema.DATA], [schema.AFFINE])
        node = subject[group]
        self.label = f"volume group '{group}' of subject '{subject.name.strip('/')}'"
        self.affine = checked_affine(node.attrs[schema.AFFINE], self.label)
        self.voxel_sizes = np.linalg.norm(self.affine[:3, :3], axis=0).astype(np.float32)
        shape = node[schema.DATA].shape
        if len(shape) != 4:
            raise ValueError(f"The {self.label} must have shape (X, Y, Z, features), got {shape}.")
        self.shape: tuple[int, ...] = tuple(int(n) for n in shape)
        self._values = StoredArray(node[schema.DATA], lazy=lazy)
        self._checked = False
        if not lazy:
            self._check()

    @property
    def nb_features(self) -> int:
        """The number of values in a voxel."""
        return self.shape[3]

    def as_tensor(self) -> torch.Tensor:
        """Return the volume, shape (X, Y, Z, F), float32: a view of the data in memory or of the memory map.

        Raises
        ------
        ValueError
            When it holds a value that is not finite.
        """
        if not self._checked:
            self._check()
        return torch.from_numpy(self._values.whole())

    def _check(self) -> None:
        # Slab by slab: a whole mask of a large volume would double its memory.
        values = self._values.whole()
        bad = sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in values)
        if bad:
            raise ValueError(
                f"The {self.label} holds {bad} NaN or infinite values; mend the NIfTI file and make the HDF5 again."
            )
        self._checked = True
