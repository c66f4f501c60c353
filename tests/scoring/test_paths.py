"""Limits of length and shape, against DIPY and plain loops in rasmm."""

from __future__ import annotations

import numpy as np
import pytest
from dipy.tracking.metrics import winding
from dipy.tracking.streamline import length
from scoring_support import AFFINES, OBLIQUE, UNIT, along_x, joined, random_lines

from dwiml.scoring.paths import NO_LIMITS, PathLimits, winding_angles

CORNER = np.array([[0.5, 0.5, 0.5], [3.5, 0.5, 0.5], [3.5, 4.5, 0.5]])
THERE_AND_BACK = np.array([[0.5, 0.5, 0.5], [4.5, 0.5, 0.5], [1.5, 0.5, 1.5]])


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (PathLimits(length=(6.9, 7.1)), [True, False]),
        # A value at a limit is outside.
        (PathLimits(length=(7, 8)), [False, True]),
        (PathLimits(length=(0, 7)), [False, False]),
        (PathLimits(displacement=((0.5, 2), None, None)), [False, True]),
        (PathLimits(displacement=(None, (3, 5), None)), [True, False]),
        (PathLimits(travelled=((6, 8), None, None)), [False, True]),
        (PathLimits(travelled=(None, None, (0.5, 2))), [False, True]),
        (PathLimits(length=(0, 1000), travelled=((0, 8), (0, 8), None)), [True, False]),
        (NO_LIMITS, [True, True]),
    ],
)
@pytest.mark.parametrize("reverse", [1, -1])
def test_by_hand(limits: PathLimits, allowed: list[bool], reverse: int) -> None:
    points, lengths = joined([CORNER[::reverse], THERE_AND_BACK[::reverse]])
    assert limits.allow(points, lengths, UNIT).tolist() == allowed


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_in_mm_of_rasmm(affine: np.ndarray) -> None:
    lines = random_lines(np.random.default_rng(3), 60)
    points, lengths = joined(lines)
    mm = [line @ affine[:3, :3].T for line in lines]
    long = np.array([length(line) for line in mm])
    ends = np.abs([line[-1] - line[0] for line in mm])
    covered = np.array([np.abs(np.diff(line, axis=0)).sum(axis=0) for line in mm])

    def check(limits: PathLimits, values: np.ndarray) -> None:
        found = limits.allow(points, lengths, affine)
        assert found.tolist() == ((values > low) & (values < high)).tolist()
        assert 0 < found.sum() < len(lines)

    for values, name in ((long, "length"), (ends, "displacement"), (covered, "travelled")):
        low, high = np.quantile(values, [0.2, 0.7])
        if name == "length":
            check(PathLimits(length=(low, high)), values)
        else:
            for axis in range(3):
                by_axis = [None, None, None]
                by_axis[axis] = (low, high)
                check(PathLimits(**{name: tuple(by_axis)}), values[:, axis])


def test_the_angle_is_that_of_dipy() -> None:
    turns = np.linspace(0, 3 * np.pi, 50)
    loop = np.stack([5 + 3 * np.cos(turns), 5 + 3 * np.sin(turns), 1 + 0.1 * turns], axis=1)
    lines = [loop, along_x(2.5), *random_lines(np.random.default_rng(1), 30)]
    points, lengths = joined(lines)
    angles = np.array([winding(line @ OBLIQUE[:3, :3].T) for line in lines[2:]])
    limit = float(np.median(angles))
    found = PathLimits(angle=limit).allow(points, lengths, OBLIQUE)
    assert found[2:].tolist() == (angles < limit).tolist()
    assert PathLimits(angle=360).allow(points, lengths, UNIT)[:2].tolist() == [False, True]


def test_of_no_streamline() -> None:
    points, lengths = joined([])
    assert PathLimits(length=(0, 1), angle=90).allow(points, lengths, UNIT).shape == (0,)


def test_winding_angles_against_dipy_and_undefined_ones() -> None:
    lines = random_lines(np.random.default_rng(5), 200)
    points, lengths = joined(lines)
    expected = [winding(line) for line in lines]
    np.testing.assert_allclose(winding_angles(points.astype(float), lengths), expected, atol=1e-4)
    straight = along_x(2.5)
    assert np.isnan(winding_angles(straight, np.array([3]))).all()
    assert PathLimits(angle=10).allow(straight, np.array([3]), UNIT).all()
