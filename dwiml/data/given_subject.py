"""A dataset of one subject that is not in an HDF5 file: a volume in memory, and the streamlines of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwiml.data.dataset import MultiSubjectDataset, MultisubjectSubset, SubjectData
from dwiml.data.given_streamlines import GivenStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.tractograms.grid import Grid

if TYPE_CHECKING:
    import numpy.typing as npt


class GivenVolume(SubjectVolume):
    """A volume in memory.

    Parameters
    ----------
    values
        Shape (X, Y, Z, F), float32, without NaN; standardized, with directional features in voxel axes, as in the HDF5
        file of the training.
    grid
        Its voxel grid.
    label
        Its name in messages, such as ``"volume of the images"``.
    """

    def __init__(self, values: npt.NDArray[np.float32], grid: Grid, label: str) -> None:
        self.label = label
        self.grid = grid
        self.affine, self.voxel_sizes = grid.affine, grid.voxel_sizes.astype(np.float32)
        self.shape = values.shape
        self._tensor = torch.from_numpy(values)

    def __repr__(self) -> str:
        return f"GivenVolume({self.label}: shape {self.shape})"

    def as_tensor(self) -> torch.Tensor:
        """Return the volume, shape (X, Y, Z, F), float32: a view of the data in memory."""
        return self._tensor

    def check_file(self) -> None:
        """Check nothing: the values are in memory."""


class GivenSubject(MultiSubjectDataset):
    """A dataset whose testing set is one subject with a volume and streamlines in memory; it has no HDF5 file.

    Parameters
    ----------
    subject_id
        Name of the subject, used in messages.
    volume, streamlines
        The volume and the streamlines, on the same grid.
    volume_group, streamline_group
        Names of their groups, as in the training.
    """

    _not_params = frozenset({"volume", "streamlines"})

    def __init__(
        self,
        subject_id: str,
        *,
        volume: GivenVolume,
        streamlines: GivenStreamlines,
        volume_group: str,
        streamline_group: str,
    ) -> None:
        self.hdf5_files = []
        self.lazy, self.cache_size = False, 1
        self.volume_groups, self.streamline_groups = [volume_group], [streamline_group]
        self.nb_features, self.groups_config = {volume_group: volume.nb_features}, {}
        subject = SubjectData(subject_id, {volume_group: volume}, {streamline_group: streamlines})
        self.training_set = MultisubjectSubset("training", loaded=True)
        self.validation_set = MultisubjectSubset("validation", loaded=True)
        self.testing_set = MultisubjectSubset("testing", [subject], loaded=True)
        self.nb_loads = 1

    @property
    def files_shown(self) -> str:
        """What holds the data, for a message."""
        return "the given images and tractogram"

    def fingerprint(self) -> str:
        """Refused: there is no file."""
        raise ValueError("A subject given by images is not in an HDF5 file: it has no fingerprint.")

    def load_data(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the data are in memory."""
