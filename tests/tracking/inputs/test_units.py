"""Input images of tracking whose values are far from those of the training."""

from __future__ import annotations

from typing import Any

import pytest

from dwiml.hdf5.inputs.standardization import Statistics
from dwiml.tracking.inputs.units import warn_of_other_units

MEANS, STDS = [0.8, 1.0], [0.2, 0.3]


def entry(*files: dict[str, Any]) -> dict[str, Any]:
    return {"files_found": [{"file": f"map{k}.nii.gz", "nb_features": 1, **each} for k, each in enumerate(files)]}


def warnings_of(caplog: pytest.LogCaptureFixture, found: Statistics | None, trained: dict[str, Any]) -> list[str]:
    caplog.clear()
    warn_of_other_units(["in.nii.gz"], [found], entry(trained))
    return caplog.messages


@pytest.mark.parametrize(
    ("mean", "std", "is_far"),
    [
        (0.9, 0.25, False),
        (0.9, 0.89, False),
        (0.9, 0.91, True),
        (0.9, 0.068, False),
        (0.9, 0.065, True),
        (1.89, 0.25, False),
        (1.91, 0.25, True),
        (-0.09, 0.25, False),
        (-0.11, 0.25, True),
        (900.0, 250.0, True),
        (0.0009, 0.00025, True),
    ],
)
def test_three_times_the_std_and_three_stds_of_the_mean(
    caplog: pytest.LogCaptureFixture, mean: float, std: float, is_far: bool
) -> None:
    messages = warnings_of(caplog, Statistics(mean, std), {"mean": MEANS, "std": STDS})
    assert len(messages) == is_far
    if is_far:
        assert "'map0.nii.gz' had means of 0.8 to 1 and standard deviations of 0.2 to 0.3" in messages[0]


def test_a_mask_is_compared_by_its_mean(caplog: pytest.LogCaptureFixture) -> None:
    trained = {"mean": [1.0, 1.0], "std": [0.0, 0.0]}
    assert not warnings_of(caplog, Statistics(1.0, 0.0), trained)
    (message,) = warnings_of(caplog, Statistics(255.0, 0.0), trained)
    assert message.startswith("'in.nii.gz' has a mean of 255 and a standard deviation of 0; in the training, ")


@pytest.mark.parametrize("trained", [{}, {"mean": MEANS}, {"mean": 3, "std": 4}, {"mean": ["a", "b"], "std": STDS}])
def test_what_is_not_recorded_is_not_compared(caplog: pytest.LogCaptureFixture, trained: dict[str, Any]) -> None:
    assert not warnings_of(caplog, Statistics(1e6, 1e6), trained)
    assert not warnings_of(caplog, None, {"mean": MEANS, "std": STDS})
    two = entry({"mean": MEANS, "std": STDS}, {"mean": MEANS, "std": STDS})
    warn_of_other_units(["in.nii.gz"], [Statistics(1e6, 1e6)], two)
    assert not caplog.messages
