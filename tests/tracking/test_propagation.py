"""Propagation, against a reference in float64 that grows one streamline at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.ops.interpolation import interpolate_trilinear
from dwiml.tracking.propagation import STOPPING_REASONS, PropagationRules, Propagator

SHAPE = (24, 20, 18)
VOXEL_SIZES = np.array([1.0, 1.5, 2.0])


class FieldModel:
    """Follows the vectors that it is given: its inputs are the directions, voxel space."""

    nb_points_to_track = 1

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        ends = torch.cumsum(inputs.lengths, 0) - 1
        return inputs.data[ends], None

    def select_memory(self, memory: Any, kept: torch.Tensor) -> Any:
        return None

    def get_tracking_directions(self, outputs: torch.Tensor, algo: str, threshold: float | None) -> torch.Tensor:
        return torch.nn.functional.normalize(outputs, dim=1)


def smooth_field(seed: int) -> NDArray[np.float32]:
    """Return vectors that change slowly from voxel to voxel, shape (X, Y, Z, 3)."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1) / 8.0
    waves = [np.sin(grid @ rng.normal(size=3) + rng.uniform(0, 6)) for _ in range(3)]
    return (np.stack(waves, axis=-1) + np.array([1.0, 0.4, 0.2])).astype(np.float32)


def seeds(nb: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(1, np.array(SHAPE) - 1, (nb, 3)).astype(np.float32))


def propagate(
    volume: torch.Tensor, starts: torch.Tensor, rules: PropagationRules, mask: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], list[str]]:
    propagator = Propagator(
        FieldModel(),
        lambda points: interpolate_trilinear(volume, points),
        rules,
        voxel_sizes=torch.tensor(VOXEL_SIZES, dtype=torch.float32),
        shape=SHAPE,
        mask=mask,
    )
    grown = propagator.propagate(TensorSequence(starts, torch.ones(len(starts), dtype=torch.int64)))
    return list(grown.streamlines), [STOPPING_REASONS[number] for number in grown.reasons]


def reference(
    field: NDArray[Any], start: NDArray[Any], rules: PropagationRules, mask: NDArray[Any]
) -> tuple[NDArray[Any], str]:
    """Grow one streamline in float64, with scipy's interpolation."""
    points, length, before = [start], 0.0, None
    while True:
        here = [map_coordinates(field[..., i], points[-1][:, None] - 0.5, order=1, mode="nearest")[0] for i in range(3)]
        step_mm = np.array(here) / np.linalg.norm(here) * VOXEL_SIZES
        step_mm *= rules.step_size / np.linalg.norm(step_mm)
        point = points[-1] + step_mm / VOXEL_SIZES
        if before is not None and step_mm @ before / rules.step_size**2 < math.cos(math.radians(rules.theta)):
            return np.array(points), "angle"
        if (point < 0).any() or (point >= SHAPE).any():
            return np.array(points), "bounds"
        if not mask[tuple(point.astype(int))]:
            return np.array(points), "mask"
        points.append(point)
        length += rules.step_size
        before = step_mm
        if length > rules.max_length - rules.step_size / 2:
            return np.array(points), "length"


@pytest.mark.parametrize("theta", [4.0, 60.0])
def test_the_reference_in_float64_is_followed(theta: float) -> None:
    field = smooth_field(1)
    mask = np.ones(SHAPE, dtype=bool)
    mask[12:15, 8:12, :] = False
    rules = PropagationRules(step_size=0.5, theta=theta, max_length=25.0)
    starts = seeds(150)
    lines, reasons = propagate(torch.from_numpy(field), starts, rules, torch.from_numpy(mask))
    differing = 0
    for start, line, reason in zip(starts, lines, reasons, strict=True):
        expected, why = reference(field.astype(np.float64), start.numpy().astype(np.float64), rules, mask)
        if (len(expected), why) != (len(line), reason):
            # On a threshold, to the digits of float32.
            differing += 1
            continue
        assert np.abs(line.numpy() - expected).max() < 1e-3
        steps = np.linalg.norm(np.diff(line.numpy() * VOXEL_SIZES, axis=0), axis=1)
        assert np.allclose(steps, 0.5, atol=1e-4)
    assert differing <= 1
    assert {"mask", "bounds", "length" if theta > 50 else "angle"} <= set(reasons)


def test_a_circle_is_followed_over_a_full_turn() -> None:
    # A trained model gives the way to the next point: the chord, half a step's angle off the tangent.
    radius_mm, step = 8.0, 0.5
    centre = np.array(SHAPE) / 2
    grid = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in SHAPE], indexing="ij"), axis=-1)
    x_mm, y_mm = ((grid - centre) * VOXEL_SIZES)[..., 0], ((grid - centre) * VOXEL_SIZES)[..., 1]
    angle = np.arctan2(y_mm, x_mm) + np.arcsin(step / (2 * radius_mm))
    chords_mm = np.stack([-np.sin(angle), np.cos(angle), np.zeros_like(angle)], axis=-1)
    field = torch.from_numpy((chords_mm / VOXEL_SIZES).astype(np.float32))
    start = torch.tensor((centre + np.array([radius_mm, 0, 0]) / VOXEL_SIZES)[None], dtype=torch.float32)
    rules = PropagationRules(step_size=step, max_length=2 * math.pi * radius_mm)
    (line,), (reason,) = propagate(field, start, rules)
    assert reason == "length"
    from_centre = (line.numpy() - centre) * VOXEL_SIZES
    radii = np.linalg.norm(from_centre[:, :2], axis=1)
    assert np.abs(radii / radius_mm - 1).max() < 0.01
    turned = np.unwrap(np.arctan2(from_centre[:, 1], from_centre[:, 0]))[-1]
    assert turned == pytest.approx(2 * math.pi, abs=2 * step / radius_mm)


def learn2track() -> tuple[Learn2TrackModel, torch.Tensor]:
    torch.manual_seed(3)
    model = Learn2TrackModel(nb_features=3, rnn_layer_sizes=(16, 16), nb_previous_dirs=2).eval()
    return model, torch.from_numpy(smooth_field(2))


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 7, 60])
def test_any_number_at_once_in_any_order(at_once: int) -> None:
    model, volume = learn2track()
    rules = PropagationRules(step_size=0.75, theta=90.0, max_length=20.0)
    propagator = Propagator(
        model,
        lambda points: interpolate_trilinear(volume, points),
        rules,
        voxel_sizes=torch.tensor(VOXEL_SIZES, dtype=torch.float32),
        shape=SHAPE,
    )
    # Segments of one to four points.
    generator = torch.Generator().manual_seed(0)
    segments = [start + 0.3 * torch.arange(1 + i % 4)[:, None] for i, start in enumerate(seeds(60, 5))]
    whole = list(propagator.propagate(TensorSequence.from_list(segments)).streamlines)
    order = torch.randperm(60, generator=generator).tolist()
    for first in range(0, 60, at_once):
        chosen = order[first : first + at_once]
        grown = propagator.propagate(TensorSequence.from_list([segments[i] for i in chosen]))
        for i, line in zip(chosen, grown.streamlines, strict=True):
            assert len(line) == len(whole[i])
            assert torch.allclose(line, whole[i], atol=0.01)
            assert torch.equal(line[: len(segments[i])], segments[i])
    assert max(len(line) for line in whole) > 10


def test_steps_are_those_of_one_forward_pass() -> None:
    model, volume = learn2track()
    rules = PropagationRules(step_size=0.75, theta=180.0, max_length=9.0)
    sizes = torch.tensor(VOXEL_SIZES, dtype=torch.float32)
    propagator = Propagator(
        model, lambda points: interpolate_trilinear(volume, points), rules, voxel_sizes=sizes, shape=SHAPE
    )
    start = TensorSequence(torch.tensor([[12.0, 10.0, 9.0]]), torch.tensor([1]))
    line = propagator.propagate(start).streamlines
    with torch.no_grad():
        outputs = model(line.mapped(interpolate_trilinear(volume, line.data)), line)
    directions = model.get_tracking_directions(outputs, "det")[:-1] * sizes
    steps = line.diff().data * sizes
    assert torch.allclose(torch.nn.functional.normalize(directions, dim=1) * 0.75, steps, atol=1e-4)


@pytest.mark.first(1)
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_mask_read_trilinearly_ends_streamlines_at_its_threshold(threshold: float) -> None:
    field = torch.zeros(*SHAPE, 3)
    field[..., 0] = 1
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:12] = True
    rules = PropagationRules(step_size=0.01, max_length=20.0, mask_interpolation="trilinear", mask_threshold=threshold)
    (line,), (reason,) = propagate(field, torch.tensor([[6.0, 7.0, 8.0]]), rules, torch.from_numpy(mask))
    assert reason == "mask"
    # From 1 at the centre of the last voxel of the mask, x = 11.5, to 0 at the next one.
    assert line[-1, 0] == pytest.approx(12.5 - threshold, abs=0.011)


def test_opposite_directions_are_the_same_to_a_symmetric_model() -> None:
    field = torch.from_numpy(smooth_field(1)).abs() + 0.1
    signs = torch.where(torch.rand(*SHAPE[:2], 1, 1, generator=torch.Generator().manual_seed(1)) > 0.5, 1.0, -1.0)
    rules = PropagationRules(step_size=0.5, theta=60.0, max_length=12.0, antipodal=True)
    plain, _ = propagate(field, seeds(20), rules)
    blocks = signs.repeat_interleave(24, 0)[:24].clone()
    blocks[:] = torch.where(torch.arange(24)[:, None, None, None] > 11, -1.0, 1.0)
    turned, _ = propagate(field * blocks, seeds(20) * torch.tensor([0.4, 1.0, 1.0]), rules)
    assert all(len(line) > 1 for line in plain)
    # Those that begin before the plane where the sign changes go on through it.
    assert any(line[0, 0] < 11 and line[-1, 0] > 13 for line in turned)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        PropagationRules(step_size=0)
    with pytest.raises(ValueError, match="mask_threshold must be"):
        PropagationRules(step_size=1.0, mask_threshold=0.0)
    with pytest.raises(ValueError, match="mask_interpolation must be 'nearest' or 'trilinear', got 'cubic'"):
        PropagationRules(step_size=1.0, mask_interpolation="cubic")
    propagator = Propagator(
        FieldModel(), lambda p: p, PropagationRules(step_size=1.0), voxel_sizes=torch.ones(3), shape=SHAPE
    )
    with pytest.raises(ValueError, match="one of the first segments has none"):
        propagator.propagate(TensorSequence(torch.zeros(1, 3), torch.tensor([1, 0])))
    assert len(propagator.propagate(TensorSequence.from_list([])).streamlines) == 0
