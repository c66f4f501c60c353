"""Features of the input of tracking that are far from those of the training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dwiml.hdf5.inputs.standardization import standardize
from dwiml.tracking.inputs.features import FileFeatures, features_of, features_of_report, warn_of_other_features

SH = {"kind": "sh", "axes": "voxel", "basis": "descoteaux07", "legacy": False, "full_basis": False}


def entry(*files: tuple[str, Any, Any], **more: Any) -> dict[str, Any]:
    """Return the entry of a group of these files: name, [lowest, highest] means and standard deviations."""
    return {
        "files_found": [
            {"file": name, "nb_features": len(means), "features": {"mean": means, "std": stds}, **more}
            for name, means, stds in files
        ]
    }


def message(caplog: pytest.LogCaptureFixture, trained: dict[str, Any], *files: tuple[Any, Any]) -> str:
    caplog.clear()
    found = [FileFeatures(np.array(means, dtype=float), np.array(stds, dtype=float)) for means, stds in files]
    warn_of_other_features("the input", found, trained)
    assert len(caplog.messages) <= 1
    return "".join(caplog.messages)


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        (0.9, 0.25, ""),
        (0.9, 0.89, ""),
        (0.9, 0.93, "a standard deviation 3.1 times the largest one"),
        (0.9, 0.068, ""),
        (0.9, 0.05, "a standard deviation 1/4 of the smallest one"),
        (1.89, 0.25, ""),
        (2.2, 0.25, "a mean 4 standard deviations from the nearest one"),
        (-0.4, 0.25, "a mean 4 standard deviations from the nearest one"),
        (901.0, 0.25, "a mean 3000 standard deviations from the nearest one"),
    ],
)
def test_three_times_the_std_and_three_stds_of_the_mean(
    caplog: pytest.LogCaptureFixture, mean: float, std: float, told: str
) -> None:
    trained = entry(("fa.nii.gz", [[0.8, 1.0]], [[0.2, 0.3]]))
    expected = (
        "The values that the model reads from the input are far from those of the training subjects: feature 0 of "
        f"'fa.nii.gz' ({told}). Check the images and how they are standardized."
    )
    assert message(caplog, trained, ([mean], [std])) == (expected if told else "")


def test_spherical_harmonics_are_named_by_their_degree(caplog: pytest.LogCaptureFixture) -> None:
    means, stds = np.zeros((15, 2)), np.tile([0.5, 1.0], (15, 1))
    trained = entry(("sh.nii.gz", means.tolist(), stds.tolist()), directions=SH)
    found = np.full(15, 0.8)
    found[0] = 4.1
    assert "the SH of degree 0 of 'sh.nii.gz' (a standard deviation 4.1 times the" in message(
        caplog, trained, (np.zeros(15), found)
    )
    found = np.full(15, 0.8)
    found[1:6], found[[6, 14]] = 7.0, 5.0
    text = message(caplog, trained, (np.zeros(15), found))
    assert "subjects: the SH of degree 2 of 'sh.nii.gz' (a standard deviation 7 times the largest one), " in text
    assert "2 of 9 coefficients of the SH of degree 4 of 'sh.nii.gz' (a standard deviation 5 times" in text
    full = entry(("sh.nii.gz", means[:4].tolist(), stds[:4].tolist()), directions={**SH, "full_basis": True})
    assert "the SH of degree 1 of" in message(caplog, full, (np.zeros(4), [0.8, 9, 9, 9]))


def test_the_farthest_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    trained = entry(("a.nii.gz", [[0.0, 0.0]] * 9, [[1.0, 1.0]] * 9))
    text = message(caplog, trained, (np.zeros(9), 10.0 + np.arange(9)))
    assert "subjects: feature 8 of 'a.nii.gz' (" in text
    assert "feature 4 of 'a.nii.gz'" in text
    assert "feature 3 of" not in text
    assert " and 4 more. Check" in text


def test_constant_features_differ_by_more_than_rounding(caplog: pytest.LogCaptureFixture) -> None:
    trained = entry(("a.nii.gz", [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]))
    assert not message(caplog, trained, ([0.0, 1e-7], [1.0, 1e-6]))
    assert "feature 1" in message(caplog, trained, ([0.0, 0.2], [1.0, 0.0]))
    only = entry(("mask.nii.gz", [[0.0, 0.0]], [[0.0, 0.0]]))
    assert not message(caplog, only, ([0.0], [0.0]))


@pytest.mark.parametrize(
    "features",
    [None, {}, {"mean": [[0, 1]]}, {"mean": [[0, 1]], "std": 3}, {"mean": [["a", "b"]], "std": [[0, 1]]}, 4],
)
def test_what_is_not_recorded_is_not_compared(caplog: pytest.LogCaptureFixture, features: Any) -> None:
    trained = {"files_found": [{"file": "a.nii.gz", "nb_features": 1, "features": features}]}
    assert not message(caplog, trained, ([1e6], [1e6]))
    assert not message(caplog, {}, ([1e6], [1e6]))
    other = entry(("a.nii.gz", [[0, 1]] * 2, [[0, 1]] * 2))
    assert not message(caplog, other, ([1e6], [1e6]))
    assert features_of({"files": [{"nb_features": 1, "features": features}]}) == [None]


def test_a_record_without_ranges_is_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    for nb in (1, 2):
        assert not message(caplog, entry(("a.nii.gz", [0.0] * nb, [1.0] * nb)), ([1e6] * nb, [1e6] * nb))


@pytest.mark.parametrize("kind", ["all", "independent", "per_file", "none"])
def test_the_statistics_are_those_of_the_values_after_the_standardization(kind: str) -> None:
    rng = np.random.default_rng(3)
    data = (rng.normal(size=(6, 7, 8, 5)) * [1, 2, 3, 4, 100] + [0, 5, 0, 1, 700]).astype(np.float32)
    mask = rng.random((6, 7, 8)) < 0.4
    report = standardize(data, kind, [4, 1], mask)
    inside = data[mask] if kind != "none" else data.reshape(-1, 5)
    first, second = features_of_report(report, {"files_found": [{"nb_features": 4}, {"nb_features": 1}]})
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(np.r_[first.means, second.means], inside.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(np.r_[first.stds, second.stds], inside.std(axis=0), rtol=1e-4)
