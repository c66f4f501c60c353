"""The bundles of the template: smooth tubes that curve, fan out and leave the plane."""

from __future__ import annotations

import numpy as np
import pytest

from dwiml.phantom.geometry import Bundle, disk_grid, disk_random, template_bundles

BUNDLES = {bundle.name: bundle for bundle in template_bundles()}


def lengths(fibers: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(fibers, axis=1), axis=2).sum(axis=1)


def test_fiber_of_a_straight_tube_is_a_straight_line() -> None:
    tube = Bundle("tube", np.array([[0.0, 0, -20], [0, 0, 0], [0, 0, 20]]), np.full((3, 2), [5.0, 2.0]), np.eye(3)[0])
    fiber = tube.fibers(np.array([[0.5, -1.0]]), np.linspace(0, 1, 5))[0]
    # axis u is x, axis v is z cross x = y.
    expected = np.stack([np.full(5, 2.5), np.full(5, -2.0), np.linspace(-20, 20, 5)], axis=1)
    np.testing.assert_allclose(fiber, expected, atol=1e-12)
    assert tube.length == pytest.approx(40)


def test_center_line_goes_through_its_control_points() -> None:
    for bundle in BUNDLES.values():
        chords = np.linalg.norm(np.diff(bundle.center, axis=0), axis=1)
        knots = np.concatenate([[0], np.cumsum(chords)]) / chords.sum()
        np.testing.assert_allclose(bundle.fibers(np.zeros((1, 2)), knots)[0], bundle.center, atol=1e-9)


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_fibers_follow_the_center_line_without_folding(bundle: Bundle) -> None:
    progress = np.linspace(0, 1, 150)
    center_steps = np.diff(bundle.fibers(np.zeros((1, 2)), progress), axis=1)
    fibers = bundle.fibers(disk_grid(12, 12), progress)
    steps = np.diff(fibers, axis=1)
    cosines = (steps * center_steps).sum(axis=2) / np.linalg.norm(steps, axis=2) / np.linalg.norm(center_steps, axis=2)
    assert cosines.min() > 0.8
    turns = (steps[:, 1:] * steps[:, :-1]).sum(axis=2)
    turns /= np.linalg.norm(steps[:, 1:], axis=2) * np.linalg.norm(steps[:, :-1], axis=2)
    assert np.degrees(np.arccos(turns.clip(-1, 1))).max() < 10
    assert lengths(fibers).min() > 20
    assert lengths(fibers).max() < 120


def test_there_are_curves_fans_and_a_nonplanar_bundle() -> None:
    assert len(BUNDLES) >= 6
    for name in ("arch", "hook_left", "short_u", "sling", "helix"):
        ends = BUNDLES[name].center[[0, -1]]
        assert np.linalg.norm(ends[1] - ends[0]) < 0.8 * BUNDLES[name].length
    fan = BUNDLES["fan_left"].fibers(np.array([[-1.0, 0], [1, 0]]), np.linspace(0, 1, 50))
    gap = np.linalg.norm(fan[1] - fan[0], axis=1)
    assert gap[-1] > 3.5 * gap[0]
    helix = BUNDLES["helix"].fibers(np.zeros((1, 2)), np.linspace(0, 1, 100))[0]
    thickness_mm = np.linalg.svd(helix - helix.mean(axis=0), compute_uv=False)[2] / np.sqrt(100)
    assert thickness_mm > 2, "the helix lies almost in a plane"


def test_right_is_the_mirror_image_of_left() -> None:
    progress = np.linspace(0, 1, 20)
    for name in ("fan", "hook", "kiss"):
        left = BUNDLES[f"{name}_left"].fibers(np.array([[0.4, 0.3]]), progress)
        # Mirroring reverses the cross product, so v changes sign.
        right = BUNDLES[f"{name}_right"].fibers(np.array([[0.4, -0.3]]), progress)
        np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-9)
        assert left[..., 0].max() < 1


def test_disks_are_filled_evenly() -> None:
    grid = disk_grid(60, 20)
    assert len(grid) == pytest.approx(60 * 20 * np.pi / 4, rel=0.02)
    drawn = disk_random(20000, 0.9, np.random.default_rng(0))
    radius = np.linalg.norm(drawn, axis=1)
    assert radius.max() <= 0.9
    # Half of a disk's area lies within radius / sqrt(2).
    assert (radius < 0.9 / np.sqrt(2)).mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.02)
