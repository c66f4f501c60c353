"""Checks of the options of the scripts, before anything is tracked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dwiml.arguments import check_number, quoted
from dwiml.models.protocols import check_tracks

# Below, dipy needs hours and gigabytes.
_SMALLEST_STEP, _LARGEST_STEP = 0.05, 50.0


def check_dipy_step(option: str, step_size: float | None) -> None:
    """Raise ValueError if a step size for dipy, in mm, is out of range; None is allowed."""
    if step_size is not None:
        check_number(option, step_size, low=_SMALLEST_STEP, high=_LARGEST_STEP)


def check_different(option: str, values: Sequence[Any]) -> None:
    """Raise ValueError if a value is given twice."""
    repeated = dict.fromkeys(value for value in values if list(values).count(value) > 1)
    if repeated:
        raise ValueError(f"{option} must be different, got {quoted(repeated)} more than once.")


def common_step_size(models: Sequence[Any], algos: Sequence[str]) -> float:
    """Return the step size of models, in mm.

    Raises
    ------
    ValueError
        If one does not track, or not with one of the algorithms, or if they do not have the same step size.
    """
    for model in models:
        check_tracks(model, "The comparison")
        for algo in algos:
            model.check_tracking(algo, None)
    step_sizes = {model.step_size for model in models}
    if len(step_sizes) > 1:
        raise ValueError(f"The models have different step sizes ({step_sizes} mm); compare those with the same one.")
    step_size = step_sizes.pop()
    if step_size is None:
        raise ValueError("The models have no step size: train them with --step_size.")
    return float(step_size)
