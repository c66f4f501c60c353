"""Check that a model tracks as it was trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import kind_shown
from dwiml.models.base import MainModelAbstract
from dwiml.models.protocols import check_tracks
from dwiml.ops.sequences import TensorSequence

# Points of the streamlines in the first call of track_step, and number of steps that follow.
_FIRST, _NB_STEPS = (2, 1, 4), 6
# Streamlines that continue after half of the steps.
_KEPT = (0, 2)


@torch.no_grad()
def check_track_step(model: MainModelAbstract, *, tolerance: float = 1e-4) -> None:
    """Check that ``track_step``, called in tracking, gives the same outputs as ``forward``, which was trained.

    Three random streamlines are given to ``forward`` at once, and to ``track_step`` step by step; one of them stops
    halfway. The model is in evaluation mode during the check.

    Parameters
    ----------
    model
        A model whose ``forward(inputs, streamlines)`` returns a tensor with one row per point.
    tolerance
        Largest difference between two outputs, relative to the largest output, or to 1 if that is larger.

    Raises
    ------
    ValueError
        If the outputs differ: tracking would not use what the model has learned. Also if the model cannot track, or if
        its outputs are not one row per point.
    """
    name = type(model).__name__
    check_tracks(model, "check_track_step")
    was_training = model.training
    model.eval()
    try:
        difference = _largest_difference(model, name)
    finally:
        model.train(was_training)
    if not difference <= tolerance:
        raise ValueError(
            f"{name}.track_step gives other outputs than forward (they differ by {difference:.3g}), so the model would "
            "not track as it was trained: set nb_points_to_track to the number of last points on which an output "
            "depends, or override track_step and select_memory."
        )


def _largest_difference(model: Any, name: str) -> float:
    inputs, streamlines = _random_streamlines(model)
    whole = _rows(model(inputs, streamlines), inputs.total_points, f"{name}.forward")
    scale, largest = max(float(whole.abs().max()), 1.0), 0.0
    alive, memory, nb_points = torch.arange(len(_FIRST)), None, torch.tensor(_FIRST)
    new_inputs, recent = inputs.head(nb_points), streamlines.head(nb_points)
    for step in range(_NB_STEPS + 1):
        outputs, memory = model.track_step(new_inputs, recent, memory)
        expected = inputs.mapped(whole).head(nb_points).last_points()[alive]
        rows = _rows(outputs, len(alive), f"{name}.track_step")
        # NaN in one of them only is a difference too.
        largest = max(largest, float((rows - expected).abs().max()) / scale)
        if largest != largest:
            return largest
        if step == _NB_STEPS // 2:
            kept = torch.tensor(_KEPT, device=model.device)
            alive, memory = torch.tensor(_KEPT), model.select_memory(memory, kept)
        nb_points = nb_points + 1
        new_inputs = inputs.head(nb_points).tail(1).select(alive)
        recent = streamlines.head(nb_points).tail(max(model.nb_points_to_track, 2)).select(alive)
    return largest


def _random_streamlines(model: Any) -> tuple[TensorSequence, TensorSequence]:
    """Return the inputs (N, P * F) and points (N, 3) of three streamlines, on the model's device."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor(_FIRST) + _NB_STEPS + 1
    nb, offsets = int(lengths.sum()), model.neighborhood_offsets
    nb_columns = model.nb_features * (1 if offsets is None else len(offsets))
    steps = torch.randn(nb, 3, generator=rng) + torch.tensor([1.0, 0.0, 0.0])
    points = TensorSequence(10 + torch.cumsum(steps, dim=0), lengths).to(model.device)
    return points.mapped(torch.randn(nb, nb_columns, generator=rng).to(model.device)), points


def _rows(outputs: Any, nb: int, method: str) -> Tensor:
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == nb:
        return outputs
    got = f"a tensor of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else kind_shown(outputs)
    raise ValueError(f"check_track_step needs outputs of one row per point ({nb}); {method} returned {got}.")
