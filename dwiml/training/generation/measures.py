"""The metrics of the generation-validation phase."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dwiml.data.connectivity import Connectivity
from dwiml.ops.connectivity_matrix import joins_unconnected
from dwiml.ops.directions import streamline_lengths_mm
from dwiml.ops.sequences import TensorSequence
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import score_streamlines
from dwiml.training.reporting.metrics import (
    DISTANCE,
    INVALID_CONNECTIONS,
    LEFT_MASK,
    LENGTH_RATIO,
    VALID_CONNECTIONS,
)

# Fraction of the true length from which leaving the mask is not an error.
_LONG_ENOUGH = 0.95


@dataclass(frozen=True)
class SubjectReference:
    """Reference data of a subject, in addition to its true streamlines.

    Attributes
    ----------
    voxel_sizes
        Shape (3,), mm.
    connectivity
        Regions, and the pairs of connected regions; None if not available.
    ground_truth
        True bundles on the voxel grid of the subject; None if not available.
    """

    voxel_sizes: Tensor
    connectivity: Connectivity | None = None
    ground_truth: GroundTruth | None = None


def measure_continued(
    made: TensorSequence, true: TensorSequence, known: SubjectReference, *, left_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the value of each available metric for each streamline.

    Parameters
    ----------
    made
        The S streamlines continued by the model, with at least one point each: points (N, 3), float32, voxel space,
        corner origin.
    true
        The S true streamlines, in the same space.
    known
        Reference data of the subject.
    left_mask
        Shape (S,), bool: whether the streamline ended because it left the mask; None without a mask. It counts only
        before 95% of the true length.

    Returns
    -------
    dict
        {metric: tensor of shape (S,)}: distances in mm, the length ratio without unit, and 0 or 1 for the others.
    """
    sizes = known.voxel_sizes
    ends = made.last_points()
    ratios = streamline_lengths_mm(made, sizes) / streamline_lengths_mm(true, sizes).clamp(min=1e-6)
    values = {
        DISTANCE: ((ends - true.last_points()) * sizes).norm(dim=1),
        LENGTH_RATIO: ratios,
    }
    if left_mask is not None:
        values[LEFT_MASK] = (left_mask & (ratios < _LONG_ENOUGH)).float()
    if known.connectivity is not None:
        invalid = joins_unconnected(
            made.first_points(), ends, known.connectivity.regions, known.connectivity.connections
        )
        values[INVALID_CONNECTIONS] = torch.from_numpy(invalid).float()
    if known.ground_truth is not None:
        points, lengths = made.data.cpu().numpy(), made.lengths.cpu().numpy()
        scores = score_streamlines(points, lengths, known.ground_truth, adjacency=False)
        values[VALID_CONNECTIONS] = torch.from_numpy(scores.kind == Connection.VALID).float()
    return values
