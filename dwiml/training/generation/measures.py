"""What the generation-validation phase measures of the streamlines that a model has continued."""

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
from dwiml.training.generation.selection import (
    DISTANCE,
    INVALID_CONNECTIONS,
    LEFT_MASK,
    LENGTH_RATIO,
    VALID_CONNECTIONS,
)

# Of the true length: a streamline that leaves the mask there has reached its end.
_LONG_ENOUGH = 0.95


@dataclass(frozen=True)
class SubjectReference:
    """What a subject's streamlines are held against, beside themselves.

    Attributes
    ----------
    voxel_sizes
        Shape (3,), mm.
    connectivity
        Regions and the pairs of them that are connected, or None.
    ground_truth
        Bundles on the subject's own voxel grid, or None.
    """

    voxel_sizes: Tensor
    connectivity: Connectivity | None = None
    ground_truth: GroundTruth | None = None


def measure_continued(
    made: TensorSequence, true: TensorSequence, known: SubjectReference, *, left_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the value of each metric for each streamline, those that can be told.

    Parameters
    ----------
    made
        The streamlines that the model has continued, voxel space, corner origin; at least one point each.
    true
        What they should have been, as many.
    known
        The rest that is known of the subject.
    left_mask
        Shape (S,), bool: which ones ended because they left the mask; None without a mask. To leave it at the end is
        no fault: what counts is to leave it before 95% of the true length.

    Returns
    -------
    dict
        {metric: shape (S,)}, on the streamlines' device.
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
        scores = score_streamlines(made.data.cpu().numpy(), made.lengths.cpu().numpy(), known.ground_truth)
        values[VALID_CONNECTIONS] = torch.from_numpy(scores.kind == Connection.VALID).float()
    return values
