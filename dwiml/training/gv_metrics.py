"""What the generation-validation phase measures of the streamlines that a model has continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dwiml.data.connectivity import Connectivity
from dwiml.ops.connectivity import joins_unconnected
from dwiml.ops.directions import streamline_lengths_mm
from dwiml.ops.sequences import TensorSequence
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import score_streamlines

DISTANCE, LENGTH_RATIO, LEFT_MASK = "gv_endpoint_distance_mm", "gv_length_ratio", "gv_left_mask"
INVALID_CONNECTIONS, VALID_CONNECTIONS = "gv_invalid_connections", "gv_valid_connections"


def _itself(value: float) -> float:
    return value


BADNESS: Mapping[str, Callable[[float], float]] = {
    "valid_loss": _itself,
    DISTANCE: _itself,
    LENGTH_RATIO: lambda value: abs(value - 1.0),
    LEFT_MASK: _itself,
    INVALID_CONNECTIONS: _itself,
    VALID_CONNECTIONS: lambda value: 1.0 - value,
}
"""What the best model can be chosen by, and how far each value is from the best that there can be."""


@dataclass(frozen=True)
class KnownOfSubject:
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
    made: TensorSequence, true: TensorSequence, known: KnownOfSubject, *, left_mask: Tensor | None = None
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
        Shape (S,), bool: which ones ended because they left the mask; None without a mask.

    Returns
    -------
    dict
        {metric: shape (S,)}, on the streamlines' device.
    """
    sizes = known.voxel_sizes
    ends = _last_points(made)
    values = {
        DISTANCE: ((ends - _last_points(true)) * sizes).norm(dim=1),
        LENGTH_RATIO: streamline_lengths_mm(made, sizes) / streamline_lengths_mm(true, sizes).clamp(min=1e-6),
    }
    if left_mask is not None:
        values[LEFT_MASK] = left_mask.float()
    if known.connectivity is not None:
        starts = made.data[made.offsets.to(made.device)]
        invalid = joins_unconnected(starts, ends, known.connectivity.regions, known.connectivity.connections)
        values[INVALID_CONNECTIONS] = torch.from_numpy(invalid).float()
    if known.ground_truth is not None:
        scores = score_streamlines(made.data.cpu().numpy(), made.lengths.cpu().numpy(), known.ground_truth)
        values[VALID_CONNECTIONS] = torch.from_numpy(scores.kind == Connection.VALID).float()
    return values


def _last_points(lines: TensorSequence) -> Tensor:
    return lines.data[(lines.offsets + lines.lengths - 1).to(lines.device)]
