"""Volumes and streamlines of a subject must lie on one grid."""

from __future__ import annotations

from dwiml.batching.sampler import PHASES
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.spaces import grid_difference


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
            # Older files do not say on which grid the streamlines are.
            grid = streamlines.dimensions.tolist() if any(streamlines.dimensions) else volume.shape
            difference = grid_difference(volume.shape, volume.affine, grid, streamlines.affine)
            if difference:
                raise ValueError(
                    f"Subject '{subject.subject_id}': volume group '{volume_group}' and streamlines group "
                    f"'{streamline_group}' have {difference}; register them and recreate the HDF5 file."
                )
