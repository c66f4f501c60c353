"""The space of the streamlines that a model receives: voxel space, or scanner space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dwiml.batching.fetcher import BatchSlices, check_covers
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.sequences import TensorSequence

VOX, RASMM = "vox", "rasmm"


def space_of(model: Any) -> str:
    """Return the space of the points that a model receives: its ``streamlines_space``, or ``"vox"`` without one.

    Raises
    ------
    ValueError
        If it is neither ``"vox"`` nor ``"rasmm"``.
    """
    space = getattr(model, "streamlines_space", VOX)
    if space not in (VOX, RASMM):
        raise ValueError(f"streamlines_space of {type(model).__name__} must be '{VOX}' or '{RASMM}', got {space!r}.")
    return str(space)


class ScannerSpace:
    """Converts the points of a batch to scanner space (rasmm), with the affine of each subject.

    Parameters
    ----------
    dataset
        Dataset with its data loaded.
    streamline_group_name
        The streamlines group; its affines, (4, 4), are used.
    """

    def __init__(self, dataset: MultiSubjectDataset, streamline_group_name: str) -> None:
        self.dataset = dataset
        self.streamline_group_name = streamline_group_name

    def __call__(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the streamlines in scanner space.

        Parameters
        ----------
        streamlines
            Points (N, 3), float32, voxel space, corner origin, in voxels.
        ids_per_subj
            {subject index: slice of the streamlines}, with the key of the batch.

        Returns
        -------
        TensorSequence
            Points (N, 3), float32, rasmm, center origin, in mm.

        Raises
        ------
        TypeError
            If ``ids_per_subj`` is a plain dict, which does not identify the batch.
        ValueError
            If ``ids_per_subj`` is for another number of streamlines.
        """
        subset = self.dataset.subset(check_covers(ids_per_subj, len(streamlines)).key.phase)
        parts = []
        for subject, rows in ids_per_subj.items():
            affine = subset[subject].streamlines[self.streamline_group_name].affine
            parts.append(_to_rasmm(streamlines[rows].data, affine))
        return streamlines.mapped(torch.cat(parts)) if parts else streamlines


def _to_rasmm(points: torch.Tensor, affine: np.ndarray[Any, np.dtype[np.float64]]) -> torch.Tensor:
    """Apply an affine, (4, 4), from voxel indices (center origin) to points (N, 3) of voxel space, corner origin."""
    corner = affine[:3, 3] - affine[:3, :3] @ np.full(3, 0.5)
    matrix = torch.tensor(affine[:3, :3], dtype=points.dtype).to(points.device, non_blocking=True)
    shift = torch.tensor(corner, dtype=points.dtype).to(points.device, non_blocking=True)
    # Not a matrix product, which autocast would compute in half precision.
    return points[:, :1] * matrix[:, 0] + points[:, 1:2] * matrix[:, 1] + points[:, 2:] * matrix[:, 2] + shift
