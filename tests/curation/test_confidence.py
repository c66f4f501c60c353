"""The cluster confidence, compared with DIPY and with a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from dipy.tracking.streamline import cluster_confidence as dipy_confidence
from dipy.tracking.streamline import set_number_of_points
from scoring_support import joined

from dwiml.curation import confidence as module
from dwiml.curation.confidence import cluster_confidence
from dwiml.ops.randomness import keyed_generator

SIZES = np.array([1.0, 2.0, 3.0])


def bundle(nb: int, spread_mm: float = 4.0) -> list[np.ndarray]:
    """Return arcs of about 60 mm, in mm, side by side; every other one is stored from its end to its start."""
    rng = np.random.default_rng(1)
    t = np.linspace(0, np.pi, 25)
    lines = []
    for i in range(nb):
        arc = 20 * np.stack([np.cos(t), np.sin(t), 0.2 * t], axis=1) + rng.normal(0, spread_mm, 3)
        lines.append(arc[:: -1 if i % 2 else 1][: rng.integers(20, 26)].astype(np.float32))
    return lines


def confidence(lines: list[np.ndarray], **options: float) -> np.ndarray:
    points, lengths = joined([line / SIZES for line in lines])
    return cluster_confidence(points, lengths, SIZES, rng=keyed_generator(3, "sample"), **options)


@pytest.mark.parametrize(("max_mdf", "power"), [(5.0, 1.0), (8.0, 1.0), (5.0, 2.0), (3.0, 0.5)])
def test_it_is_that_of_dipy(max_mdf: float, power: float) -> None:
    lines = bundle(40)
    expected = dipy_confidence(lines, max_mdf=max_mdf, power=power)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(confidence(lines, max_mdf=max_mdf, power=power), expected, rtol=1e-3)


def test_by_hand() -> None:
    line = np.stack([np.linspace(0, 50, 9), np.zeros(9), np.zeros(9)], axis=1)
    # At distances of 1, 3 and 9 mm from the first; the third is reversed, and longer steps change nothing.
    lines = [line, line + [0, 1, 0], line[[8, 4, 0]] + [0, 0, 3], line + [0, 9, 0]]
    d = {(0, 1): 1, (0, 2): 3, (1, 2): np.sqrt(10), (1, 3): 8, (0, 3): 9}
    expected = [1 + 1 / d[0, 2], 1 + 1 / d[1, 2], 1 / d[0, 2] + 1 / d[1, 2], 0]
    np.testing.assert_allclose(confidence(lines), expected, rtol=1e-5)
    # The limit is included.
    np.testing.assert_allclose(confidence(lines, max_mdf=8.0)[3], 1 / d[1, 3], rtol=1e-5)


def test_copies_do_not_support_each_other() -> None:
    line = np.stack([np.linspace(0, 50, 9), np.zeros(9), np.zeros(9)], axis=1)
    np.testing.assert_allclose(confidence([line, line[::-1], line + [0, 2, 0]]), [0.5, 0.5, 1.0], rtol=1e-5)


@pytest.mark.parametrize("nb", [0, 1])
def test_without_others_there_is_none(nb: int) -> None:
    assert confidence(bundle(nb)).tolist() == [0.0] * nb


def test_a_large_bundle_is_compared_with_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLE", 30)
    monkeypatch.setattr(module, "_CHUNK", 17)
    lines, done = bundle(80), []
    points, lengths = joined([line / SIZES for line in lines])
    found = cluster_confidence(points, lengths, SIZES, rng=keyed_generator(3, "sample"), on_progress=done.append)
    sample = keyed_generator(3, "sample").choice(80, 30, replace=False)
    resampled = np.stack(set_number_of_points([line.astype(np.float32) for line in lines], nb_points=12))
    for i in (0, 5, 79, int(sample[0])):
        expected = 0.0
        for j in set(sample.tolist()) - {i}:
            both = [np.linalg.norm(resampled[i] - other, axis=1).mean() for other in (resampled[j], resampled[j][::-1])]
            expected += 1 / min(both) if min(both) <= 5 else 0
        assert found[i] == pytest.approx(expected, rel=1e-3)
    assert sum(done) == 80
    np.testing.assert_array_equal(found, confidence(lines))
