"""A subject's volume group."""

from __future__ import annotations

import numpy as np
import torch

from dwiml.data.affines import checked_affine
from dwiml.data.storage import StoredArray
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import StoredGroup
from dwiml.hdf5.stored.layout import checked_group
from dwiml.ops.spaces import voxel_sizes_of
from dwiml.tractograms.grid import Grid


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
    grid
        The voxels.
    """

    def __init__(self, subject: StoredGroup, group: str, *, lazy: bool) -> None:
        node = checked_group(subject, group, [schema.DATA], [schema.AFFINE])
        self.label = f"volume group '{group}' of subject '{subject.name}'"
        self.affine = checked_affine(node.attribute(schema.AFFINE), self.label)
        self.voxel_sizes = voxel_sizes_of(self.affine).astype(np.float32)
        dataset = node.dataset(schema.DATA)
        if len(dataset.shape) != 4 or 0 in dataset.shape:
            raise ValueError(
                f"The {self.label} must have shape (X, Y, Z, features), none of them 0, got {dataset.shape}."
            )
        self.shape: tuple[int, ...] = dataset.shape
        x, y, z, _ = dataset.shape
        self.grid = Grid(self.affine, (x, y, z), subject.file.path)
        nb_features = node.attribute(schema.NB_FEATURES, self.nb_features)
        if np.ndim(nb_features) or nb_features != self.nb_features:
            raise ValueError(
                f"The {self.label} has {self.nb_features} features, its attribute '{schema.NB_FEATURES}' says "
                f"{nb_features}: the file is damaged; recreate the HDF5 file."
            )
        self._values = StoredArray(dataset, lazy=lazy)
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
            When it holds a value that is not finite, or is not what was written; when the file is no longer the one
            that was loaded.
        """
        if not self._checked:
            self._check()
        return torch.from_numpy(self._values.whole())

    def check_file(self) -> None:
        """Check that a volume that is left in the file is still what was loaded: a tensor taken of it is a view.

        Raises
        ------
        ValueError
            When the file was removed, replaced, cut off or written to.
        """
        self._values.check_file()

    def _check(self) -> None:
        # Slab by slab: a whole mask of a large volume would double its memory.
        values = self._values.whole(verify=True)
        bad = sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in values)
        if bad:
            raise ValueError(
                f"The {self.label} holds {bad} NaN or infinite values; fix the NIfTI file and recreate the HDF5 file."
            )
        self._checked = True
