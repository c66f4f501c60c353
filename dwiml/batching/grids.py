"""Volumes and streamlines of a subject must lie on one grid."""

from __future__ import annotations

import numpy as np

from dwiml.batching.sampler import PHASES
from dwiml.data.dataset import MultiSubjectDataset


def check_grids(dataset: MultiSubjectDataset, volume_group: str, streamline_group: str) -> None:
    """Check, for all subjects, that a volume group was loaded, and lies on the grid of the streamlines.

    Raises
    ------
    ValueError
        Telling the subject and what is wrong.
    """
    for subset in map(dataset.subset, PHASES):
        for subject in subset:
            if volume_group not in subject.volumes:
                raise ValueError(f"Volume group '{volume_group}' was not loaded; give it to dataset.load_data().")
            volume = subject.volumes[volume_group]
            streamlines = subject.streamlines[streamline_group]
            if not np.allclose(volume.affine, streamlines.affine, atol=1e-3):
                raise ValueError(
                    f"Subject '{subject.subject_id}': volume group '{volume_group}' and streamlines group "
                    f"'{streamline_group}' have different affines; register them, make the HDF5 again."
                )
            # Older files do not say on which grid the streamlines are.
            grid = tuple(int(size) for size in streamlines.dimensions)
            if any(grid) and grid != volume.shape[:3]:
                raise ValueError(
                    f"Subject '{subject.subject_id}': volume group '{volume_group}' has the grid "
                    f"{volume.shape[:3]}, streamlines group '{streamline_group}' {grid}; "
                    "register them, make the HDF5 again."
                )
