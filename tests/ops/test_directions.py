from __future__ import annotations

import numpy as np
import pytest
import torch
from dipy.data import get_sphere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from dwiml import TensorSequence
from dwiml.ops.directions import (
    angle_degrees,
    normalize_directions,
    pairwise_cosines,
    previous_directions,
    recovery_steps,
    sphere_directions,
    streamline_directions,
)

LENGTHS = st.lists(st.integers(0, 6), max_size=6)


def make(lengths: list[int], seed: int = 0) -> TensorSequence:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(sum(lengths), 3)).cumsum(axis=0)
    return TensorSequence(torch.from_numpy(points), torch.tensor(lengths, dtype=torch.int64))


def one_by_one(line: np.ndarray, nb: int, normalize: bool) -> np.ndarray:
    """The definition, point by point."""
    result = np.zeros((len(line), 3 * nb))
    for i in range(len(line)):
        for back in range(nb):
            if i - back >= 1:
                step = line[i - back] - line[i - back - 1]
                norm = np.linalg.norm(step)
                if normalize:
                    step = step / norm if norm > 0 else np.zeros(3)
                result[i, 3 * back : 3 * back + 3] = step
    return result


@given(LENGTHS, st.integers(0, 7), st.booleans())
def test_previous_directions_are_those_of_the_definition(lengths: list[int], nb: int, normalize: bool) -> None:
    streamlines = make(lengths)
    if lengths and lengths[0] >= 3:
        streamlines.data[2] = streamlines.data[1]
    got = previous_directions(streamlines, nb, normalize=normalize)
    assert got.shape == (sum(lengths), 3 * nb)
    expected = [one_by_one(line.numpy(), nb, normalize) for line in streamlines]
    np.testing.assert_allclose(got.numpy(), np.concatenate([*expected, np.zeros((0, 3 * nb))]), atol=1e-14)


def test_the_first_point_has_no_previous_direction() -> None:
    got = previous_directions(make([4, 1, 3]), 2)
    for first in (0, 4, 5):
        assert not got[first].any()
    assert got[1].any()
    assert got[6].any()


def test_previous_directions_refuses_a_negative_number() -> None:
    with pytest.raises(ValueError, match="0 or more, got -1"):
        previous_directions(make([3]), -1)


@given(LENGTHS)
def test_directions_of_streamlines(lengths: list[int]) -> None:
    streamlines = make(lengths)
    got = streamline_directions(streamlines)
    for line, directions in zip(streamlines, got, strict=True):
        steps = np.diff(line.numpy(), axis=0) if len(line) else np.zeros((0, 3))
        np.testing.assert_allclose(directions, steps / np.linalg.norm(steps, axis=1, keepdims=True), atol=1e-14)
    assert torch.equal(streamline_directions(streamlines, normalize=False).data, streamlines.diff().data)


def test_repeated_points_give_zero_and_a_finite_gradient() -> None:
    points = torch.tensor([[1.0, 2.0, 3.0]] * 3 + [[2.0, 2.0, 3.0]], requires_grad=True)
    streamlines = TensorSequence(points, torch.tensor([4]))
    directions = streamline_directions(streamlines).data
    assert directions.tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    previous = previous_directions(streamlines, 2)
    assert previous[:3].eq(0).all()
    (gradient,) = torch.autograd.grad(directions.sum() + previous.sum(), points)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_normalization_has_the_right_gradient_and_lets_nan_through() -> None:
    vectors = torch.randn(4, 3, dtype=torch.float64, generator=torch.manual_seed(1), requires_grad=True)
    assert gradcheck(normalize_directions, (vectors,))
    assert normalize_directions(torch.tensor([[1.0, torch.nan, 0.0]])).isnan().any()


@given(st.floats(0, 180), st.floats(1e-3, 1e3))
def test_angles_near_0_and_180_keep_their_digits(angle: float, scale: float) -> None:
    radians = np.deg2rad(angle)
    first = torch.tensor([[scale, 0.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[np.cos(radians), np.sin(radians), 0.0]], dtype=torch.float64)
    assert angle_degrees(first, second).item() == pytest.approx(angle, abs=1e-12, rel=1e-12)


def test_tiny_angles_in_single_precision() -> None:
    second = torch.tensor([1.0, 1e-5, 0.0])
    # An arccosine of the dot product gives 0 here.
    assert angle_degrees(torch.tensor([1.0, 0.0, 0.0]), second).item() == pytest.approx(np.rad2deg(1e-5), rel=1e-5)


def test_no_angle_with_a_zero_direction() -> None:
    angles = angle_degrees(torch.zeros(2, 3), torch.ones(2, 3))
    assert angles.isnan().all()


@settings(deadline=None)
@given(LENGTHS, st.sampled_from([1, 2, 3.5]), st.booleans())
def test_steps_back_are_those_of_a_loop(lengths: list[int], nb_steps: float, trimmed: bool) -> None:
    streamlines = make(lengths)
    seen = streamlines.mapped(make(lengths, seed=1).data)
    expected = [np.zeros((0, 3))]
    for line, near in zip(streamlines, seen, strict=True):
        for i in range(len(line) - 1):
            expected.append((line[i + 1] - line[i] + (line[i] - near[i]) / nb_steps).numpy()[None])
            if nb_steps == 1:
                np.testing.assert_allclose(expected[-1][0], (line[i + 1] - near[i]).numpy(), atol=1e-12)
    got = recovery_steps(streamlines, seen.trimmed_last() if trimmed else seen, nb_steps)
    assert got.lengths.tolist() == streamlines.diff().lengths.tolist()
    np.testing.assert_allclose(got.data.numpy(), np.concatenate(expected), atol=1e-12)
    torch.testing.assert_close(recovery_steps(streamlines, streamlines, nb_steps).data, streamlines.diff().data)


@pytest.mark.parametrize("name", ["repulsion100", "repulsion724", "symmetric362"])
def test_the_directions_of_a_sphere_are_dipys(name: str) -> None:
    directions = sphere_directions(name)
    assert directions.dtype == torch.float32
    np.testing.assert_allclose(directions, get_sphere(name=name).vertices, atol=1e-6)


@pytest.mark.parametrize("name", ["ball", "", None, ["repulsion100"]])
def test_an_unknown_sphere_is_one_sentence(name: object) -> None:
    with pytest.raises(ValueError, match=r"^sos must be 'label' or the name of one of DIPY's spheres, .*, got .*\.$"):
        sphere_directions(name, "sos must be 'label' or")  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [False, True])
def test_cosines_have_the_precision_of_the_directions(autocast: bool) -> None:
    sphere = sphere_directions("repulsion100")
    units = normalize_directions(torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    units[0] = 0
    expected = np.einsum("nd,cd->nc", units.numpy(), sphere.double().numpy())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
            cosines = pairwise_cosines(units.to(dtype), sphere)
            assert cosines.dtype == dtype
            np.testing.assert_allclose(cosines.numpy(), expected, rtol=0, atol=tolerance)
