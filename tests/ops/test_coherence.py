"""Main directions that lead along a ring of fibers, and those in other axes, which leave it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dwiml.ops.axes.coherence import Coherence, measure_coherence
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.axes.conversion import sh_matrix, sphere_directions

SH = Directions(kind="sh", basis="descoteaux07")
SIZES = np.array([2.0, 2.0, 2.5])


@pytest.fixture(scope="module")
def ring() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return a mask (X, Y, Z) of an oblique ring of 40 mm, and the direction of its fibers in each voxel, (V, 3)."""
    normal = np.array([1.0, 2.0, 2.0]) / 3
    places = (np.moveaxis(np.indices((30, 30, 24)), 0, -1) - [15, 15, 12]) * SIZES
    height = places @ normal
    outward = places - height[..., None] * normal
    radius = np.linalg.norm(outward, axis=-1)
    inside = (radius - 20) ** 2 + height**2 < 4.5**2
    tangents = np.cross(normal, outward[inside])
    return inside, tangents / np.linalg.norm(tangents, axis=1, keepdims=True)


def harmonics(directions: NDArray[np.float64], sharpness: float, basis: str = "descoteaux07", legacy: bool = False):
    """Return SH of degree 6 of exp(sharpness * cosine^2): a signal if it is negative, else fiber orientations."""
    sphere = sphere_directions(300)
    values = np.exp(sharpness * (directions @ sphere.T) ** 2)
    return values @ np.linalg.pinv(sh_matrix(sphere, 6, basis=basis, legacy=legacy)).T


def features(kind: str, directions: NDArray[np.float64]) -> NDArray[np.float64]:
    if kind == "peaks":
        return np.concatenate([0.2 * directions[:, [1, 2, 0]], directions, np.zeros_like(directions)], axis=1)
    if kind == "tensor":
        tensors = np.eye(3) + directions[:, :, None] * directions[:, None, :]
        return tensors[:, [0, 0, 1, 0, 1, 2], [0, 1, 1, 2, 2, 2]]
    return harmonics(directions, -3.0 if kind == "signal" else 9.0)


def measured(kind: str, directions: NDArray[np.float64], inside: NDArray[np.bool_], *, known: bool) -> Coherence:
    stated = {"peaks": Directions(kind="peaks"), "tensor": Directions(kind="tensor", order="dipy")}.get(kind, SH)
    found = measure_coherence(features(kind, directions), inside, SIZES, stated if known else None)
    assert found is not None
    return found


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["peaks", "tensor", "signal", "fodf"])
def test_directions_that_lead_along_the_fibers(ring: tuple, kind: str, known: bool) -> None:
    inside, tangents = ring
    if kind == "tensor" and not known:
        # Six features may be a tensor or SH.
        assert measure_coherence(features(kind, tangents), inside, SIZES, None) is None
        return
    own = measured(kind, tangents, inside, known=known)
    assert not own.is_suspicious
    # 25 steps in each direction are the most.
    assert 20 < own.length <= 50
    for change, turned in (
        ("x mirrored", tangents * [-1, 1, 1]),
        ("z mirrored", tangents * [1, 1, -1]),
        ("x, y, z replaced by y, x, z", tangents[:, [1, 0, 2]]),
    ):
        found = measured(kind, turned, inside, known=known)
        assert found.is_suspicious
        assert found.change == change
        assert found.longest == pytest.approx(own.length, rel=0.02)
        assert found.length < 0.8 * own.length


def test_another_basis_is_found_if_it_is_unknown(ring: tuple) -> None:
    inside, tangents = ring
    for basis, legacy in (("tournier07", False), ("descoteaux07", True)):
        found = measure_coherence(harmonics(tangents, -3.0, basis, legacy), inside, SIZES, None)
        assert found is not None
        assert not found.is_suspicious
        assert found.length > 20


def test_nothing_is_concluded_from_other_features(ring: tuple) -> None:
    inside, tangents = ring
    # Paths along a straight bundle are as long with a mirrored axis.
    box = np.zeros((20, 8, 8), dtype=bool)
    box[:, 2:7, 2:7] = True
    straight = measured("peaks", np.tile([1.0, 0, 0], (box.sum(), 1)), box, known=True)
    assert not straight.is_suspicious
    noise = np.random.default_rng(1).normal(size=(len(tangents), 28))
    for known in (SH, None):
        found = measure_coherence(noise, inside, SIZES, known)
        assert found is not None
        assert not found.is_suspicious
    assert measure_coherence(noise[:, :1], inside, SIZES, None) is None
    assert measure_coherence(noise[:, :1], inside, SIZES, SH) is None
    assert measure_coherence(noise, inside, SIZES, Directions(kind="none")) is None
    few = np.zeros_like(inside)
    few[:5, :5, :5] = True
    assert measure_coherence(noise[:125], few, SIZES, SH) is None
    assert measure_coherence(np.zeros_like(noise), inside, SIZES, SH) is not None
