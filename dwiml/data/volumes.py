"""The volume group of a subject."""

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
    """The features of one subject on a voxel grid.

    Parameters
    ----------
    subject
        Open group of the subject.
    group
        Name of the volume group.
    lazy
        Leave the values in the file.

    Attributes
    ----------
    affine
        Shape (4, 4), float64: voxel indices (origin at the center of the first voxel) to rasmm, in mm.
    voxel_sizes
        Shape (3,), float32, mm.
    shape
        (X, Y, Z, F).
    grid
        The voxel grid.

    Raises
    ------
    ValueError
        If the group is incomplete or damaged. The message names the group and the subject.
    """

    def __init__(self, subject: StoredGroup, group: str, *, lazy: bool) -> None:
        node = checked_group(subject, group, [schema.DATA], [schema.AFFINE])
        self.label = f"volume group '{group}' of subject '{subject.name}'"
        self.affine = checked_affine(node.attribute(schema.AFFINE), self.label)
        self.voxel_sizes = voxel_sizes_of(self.affine).astype(np.float32)
        dataset = node.dataset(schema.DATA)
        if len(dataset.shape) != 4 or 0 in dataset.shape:
            raise ValueError(
                f"The {self.label} must have a shape (X, Y, Z, features) without zeros, got {dataset.shape}; recreate "
                "the HDF5 file."
            )
        self.shape: tuple[int, ...] = dataset.shape
        x, y, z, _ = dataset.shape
        self.grid = Grid(self.affine, (x, y, z), subject.file.path)
        nb_features = node.attribute(schema.NB_FEATURES, self.nb_features)
        if np.ndim(nb_features) or nb_features != self.nb_features:
            raise ValueError(
                f"The {self.label} is damaged: it has {self.nb_features} features, but its attribute "
                f"'{schema.NB_FEATURES}' is {nb_features}; recreate the HDF5 file."
            )
        self._values = StoredArray(dataset, lazy=lazy)
        self._checked = False
        if not lazy:
            self._check()

    def __repr__(self) -> str:
        sizes = " x ".join(f"{size:.4g}" for size in self.voxel_sizes)
        where = "lazy" if self._values.lazy else "in memory"
        return f"SubjectVolume({self.label}: shape {self.shape}, voxels of {sizes} mm, {where})"

    @property
    def nb_features(self) -> int:
        """The number of features per voxel."""
        return self.shape[3]

    def as_tensor(self) -> torch.Tensor:
        """Return the volume, shape (X, Y, Z, F), float32: a view of the data in memory or of the memory map.

        Raises
        ------
        ValueError
            If a value is NaN or infinite, the values do not match their digest, or the file is no longer the one that
            was loaded.
        """
        if not self._checked:
            self._check()
        return torch.from_numpy(self._values.whole())

    def check_file(self) -> None:
        """Check that the file of a lazy volume is still the one that was loaded.

        A tensor of a lazy volume is a view of the file.

        Raises
        ------
        ValueError
            If the file was removed, replaced, truncated or modified.
        """
        self._values.check_file()

    def _check(self) -> None:
        # Slab by slab, because a mask of a large volume would need much memory.
        values = self._values.whole(verify=True)
        nb_invalid = sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in values)
        if nb_invalid:
            raise ValueError(
                f"The {self.label} holds {nb_invalid} NaN or infinite values; fix the NIfTI file and recreate the HDF5 "
                "file."
            )
        self._checked = True
