"""The subjects on which trackers are compared: volumes, seeds, true bundles and, for dipy, fiber orientations."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_brain.diffusion import Acquisition, fit_fodf

from comparison.acquisition import read_acquisition_of
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.masks import as_mask
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.ground_truth_files import read_ground_truth
from dwiml.tracking.seeds import Seeds

# Where the response of a single fiber is looked for, in voxels around the middle of the volume.
ROI_RADIUS = 20


@dataclass(frozen=True)
class DataSet:
    """An HDF5 file and the folder of its subjects.

    Attributes
    ----------
    name
        Name in the rows and in the table, the path of the file; empty for the data of the experiments.
    hdf5_file
        The volumes.
    subjects_dir
        One folder for each subject, with the true bundles and the diffusion images.
    """

    name: str
    hdf5_file: Path
    subjects_dir: Path


@dataclass(frozen=True)
class SubjectOptions:
    """What all subjects have in common.

    Attributes
    ----------
    input_group, mask_group
        Volume groups of the HDF5 file: the input of the models, and where streamlines may go.
    seeds_per_voxel
        Number of random points in each voxel of the mask.
    end_tolerance
        Of the true bundles, mm.
    archive
        tractseg-2.10.tar.gz for the real brain; None for example subjects.
    """

    input_group: str
    mask_group: str
    seeds_per_voxel: int
    end_tolerance: float
    archive: Path | None


class SubjectData:
    """The volumes, seeds and true bundles of a subject.

    Parameters
    ----------
    name
        Of the subject.
    data
        Where it is.
    options
        What is read.
    """

    def __init__(self, name: str, data: DataSet, options: SubjectOptions) -> None:
        self.name, self.data, self._options = name, data, options
        self._fodfs: dict[int, NDArray[np.float64]] = {}
        groups = [options.input_group, options.mask_group]
        dataset = MultiSubjectDataset(data.hdf5_file)
        dataset.load_data(subj_id=name, volume_groups=groups, streamline_groups=[])
        (subject,) = [*dataset.training_set, *dataset.validation_set, *dataset.testing_set]
        self.volume = subject.volumes[options.input_group]
        mask = subject.volumes[options.mask_group].as_tensor()[..., 0].numpy()
        self.mask = as_mask(mask, options.mask_group).inside
        self.truth: GroundTruth = read_ground_truth(data.subjects_dir / name, end_tolerance=options.end_tolerance)

    def seeds(self, random_seed: int) -> Seeds:
        """Return the seeds of all trackers."""
        return Seeds(self.mask, per_voxel=self._options.seeds_per_voxel, seed=random_seed)

    @cached_property
    def _acquisition(self) -> Acquisition:
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.data.subjects_dir / self.name
            return read_acquisition_of(folder, self._options.archive, Path(temporary))

    def fodf(self, sh_order: int) -> NDArray[np.float64]:
        """Return the fiber orientation distributions of dipy, (X, Y, Z, C): spherical harmonics up to an order."""
        if sh_order not in self._fodfs:
            self._fodfs[sh_order] = fit_fodf(self._acquisition, self.mask, sh_order=sh_order, roi_radius=ROI_RADIUS)
        return self._fodfs[sh_order]
