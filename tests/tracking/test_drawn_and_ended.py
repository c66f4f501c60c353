"""Probabilistic propagation, ends that a model tells, and models that look far back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.models.direction_getters import DIRECTION_GETTERS
from dwiml.ops.interpolation import interpolate_trilinear
from dwiml.tracking.propagation import STOPPING_REASONS, PropagationRules, Propagator

SHAPE = (24, 20, 18)
VOXEL_SIZES = np.array([1.0, 1.5, 2.0])
DISTRIBUTIONS = sorted(key for key, getter in DIRECTION_GETTERS.items() if getter.has_distribution)


def volume(seed: int = 0) -> torch.Tensor:
    return torch.randn(*SHAPE, 3, generator=torch.Generator().manual_seed(seed))


def starts(nb: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.uniform(6, 12, (1, 3)).astype(np.float32)) for _ in range(nb)]


def propagator(model: Any, **rules: Any) -> Propagator:
    return Propagator(
        model,
        lambda points: interpolate_trilinear(volume(), points),
        PropagationRules(**{"step_size": 0.75, "theta": 60.0, "max_length": 15.0, **rules}),
        voxel_sizes=torch.tensor(VOXEL_SIZES, dtype=torch.float32),
        shape=SHAPE,
    )


def network(key: str = "sphere-classification", **options: Any) -> Learn2TrackModel:
    torch.manual_seed(2)
    return Learn2TrackModel(
        nb_features=3, rnn_layer_sizes=(16,), nb_previous_dirs=1, dg_key=key, dg_args=options
    ).eval()


@pytest.mark.first(2)
@pytest.mark.parametrize("key", DISTRIBUTIONS)
def test_draws_depend_on_the_seed_and_on_the_streamline_only(key: str) -> None:
    model, segments, keys = network(key), starts(40), torch.arange(100, 140)
    whole = list(propagator(model, algo="prob", seed=3).propagate(TensorSequence.from_list(segments), keys).streamlines)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for chosen in order.split(9):
        some = TensorSequence.from_list([segments[i] for i in chosen])
        grown = propagator(model, algo="prob", seed=3).propagate(some, keys[chosen])
        for i, line in zip(chosen.tolist(), grown.streamlines, strict=True):
            assert len(line) == len(whole[i])
            assert torch.allclose(line, whole[i], atol=0.01)
    other = propagator(model, algo="prob", seed=4).propagate(TensorSequence.from_list(segments), keys).streamlines
    assert not any(len(a) == len(b) and torch.allclose(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("key", DISTRIBUTIONS)
def test_no_draw_turns_more_than_theta_in_mm(key: str) -> None:
    # An untrained continuous distribution is wide: most tries are refused, and lines are short.
    nb = 60 if "sphere" in key else 1500
    segments = TensorSequence.from_list(starts(nb))
    lines = propagator(network(key), algo="prob", theta=30.0).propagate(segments).streamlines
    angles = []
    for line in lines:
        steps = np.diff(line.numpy() * VOXEL_SIZES, axis=0)
        np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 0.75, atol=1e-4)
        cosines = (steps[1:] * steps[:-1]).sum(axis=1) / 0.75**2
        angles += list(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
    assert len(angles) > 500
    assert 25 < max(angles) < 30.05


def test_the_directions_of_a_sphere_within_theta_are_the_same_under_autocast() -> None:
    segments, tracked = TensorSequence.from_list(starts(60)), propagator(network(), algo="prob", theta=30.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grown = tracked.propagate(segments)
    assert grown.streamlines.total_points > 500
    # All directions that are drawn are within theta.
    assert "angle" not in {STOPPING_REASONS[number] for number in grown.reasons}


@pytest.mark.parametrize("algo", ["det", "prob"])
@pytest.mark.parametrize("key", sorted(DIRECTION_GETTERS))
def test_ends_that_the_model_tells(key: str, algo: str) -> None:
    model, segments = network(key, add_eos=True), TensorSequence.from_list(starts(20))
    if not model.direction_getter.has_distribution:
        algo = "det"
    with torch.no_grad():
        model.direction_getter.layers[-1].bias[-1] += 50
    grown = propagator(model, algo=algo, eos_stopping_thresh=0.5).propagate(segments)
    assert {STOPPING_REASONS[number] for number in grown.reasons} == {"end of streamline"}
    # An end at the first step adds no point.
    torch.testing.assert_close(grown.streamlines.data, segments.data)
    gone_on = propagator(model, algo=algo).propagate(segments)
    assert all(len(line) > 1 for line in gone_on.streamlines)
    assert sum(len(line) > 2 for line in gone_on.streamlines) > 15


class HistoryModel:
    """Turns around the middle of all points of its streamline: it keeps nothing, and looks at everything."""

    nb_points_to_track = 1000

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        rows = []
        for line in streamlines:
            away = line[-1] - line.mean(dim=0) + torch.tensor([1.0, 0.2, 0.1])
            rows.append(torch.linalg.cross(away, torch.tensor([0.0, 0.0, 1.0])) + 0.2 * len(line) / 20)
        return torch.stack(rows), None

    def select_memory(self, memory: Any, kept: torch.Tensor) -> Any:
        return None

    def get_tracking_directions(self, outputs: torch.Tensor, algo: str, threshold: float | None) -> torch.Tensor:
        return torch.nn.functional.normalize(outputs, dim=1)


def test_a_model_may_look_at_the_whole_streamline() -> None:
    model, sizes = HistoryModel(), torch.tensor(VOXEL_SIZES, dtype=torch.float32)
    segments = [start + 0.2 * torch.arange(1 + i % 3)[:, None] for i, start in enumerate(starts(8))]
    grown = propagator(model, theta=180.0, max_length=9.0).propagate(TensorSequence.from_list(segments))
    for segment, line in zip(segments, grown.streamlines, strict=True):
        points = segment
        while len(points) < len(line):
            step = model.track_step(points, TensorSequence.from_list([points]), None)[0][0] * sizes
            points = torch.cat([points, points[-1:] + step * (0.75 / step.norm()) / sizes])
        torch.testing.assert_close(line, points, atol=1e-4, rtol=0)
    assert {STOPPING_REASONS[number] for number in grown.reasons} == {"length"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="algo must be 'det' or 'prob', got 'best'"):
        PropagationRules(step_size=1.0, algo="best")
    with pytest.raises(ValueError, match="eos_stopping_thresh must be"):
        PropagationRules(step_size=1.0, eos_stopping_thresh=1.5)
