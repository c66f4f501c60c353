"""Metrics logged by a user's ``run_one_batch``: their names, and the values of one batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from dwiml.arguments import check_whole, shown
from dwiml.batching.model_batch import MOST_POINTS
from dwiml.training.reporting.metrics import RESERVED

PREFIXES = ("train_", "valid_")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")


def check_metric_name(name: Any) -> str:
    """Check and return the name of a metric.

    Raises
    ------
    ValueError
        If it has other characters than letters, digits and underscores, is the name of one of the trainer's metrics, or
        starts with the phase, which the trainer adds.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "The name of a metric must be at most 60 letters, digits and underscores, starting with a letter, got "
            f"{shown(name)}."
        )
    if name in RESERVED:
        raise ValueError(f"log(): '{name}' is the name of one of the trainer's metrics; choose another name.")
    if name.startswith(PREFIXES):
        raise ValueError(
            f"log(): give the metric's name without the phase ('{name[len(PREFIXES[0]) :]}' instead of '{name}'); "
            "train_ and valid_ are added."
        )
    return name


def is_metric_name(name: str) -> bool:
    """Return whether a metric of the user can have a name, without the phase."""
    try:
        check_metric_name(name)
    except ValueError:
        return False
    return True


def user_metric_names(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the user's metrics in those of an epoch, sorted: of the training, then of the validation."""
    return [
        name
        for prefix in PREFIXES
        for name in sorted(metrics)
        if name.startswith(prefix) and name.removeprefix(prefix) not in RESERVED
    ]


class BatchMetrics:
    """The values logged in one batch, kept on the device, so that nothing waits for them.

    Parameters
    ----------
    device
        Device of the values.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_open = False
        self.values: list[tuple[str, torch.Tensor, int]] = []

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Discard the values of the previous batch, and accept values within the block."""
        self.values, self._is_open = [], True
        try:
            yield
        finally:
            self._is_open = False

    def add(self, name: str, value: Any, n: Any) -> None:
        """Add a value; see :meth:`dwiml.training.trainer.DWIMLTrainer.log`."""
        check_metric_name(name)
        if not self._is_open:
            raise RuntimeError(
                f"log({name!r}, ...) can only be called in run_one_batch during train_and_validate. Add a value of the "
                "whole epoch to the metrics of finish_epoch instead."
            )
        if n is None:
            raise TypeError(
                f"log({name!r}, ...) needs n, the number of points (or other items) in the mean: "
                f"self.log({name!r}, value, n=...)."
            )
        n = n.item() if isinstance(n, torch.Tensor) and n.numel() == 1 else n
        weight = check_whole(f"The n of metric '{name}'", n, low=0, high=MOST_POINTS)
        kept = self._as_tensor(name, value)
        if weight:
            self.values.append((name, kept, weight))

    def _as_tensor(self, name: str, value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_complex():
            return value.detach().to(self._device, torch.float64, non_blocking=True, copy=True)
        # 0-d values of numpy also have the shape ().
        if not isinstance(value, torch.Tensor) and getattr(value, "shape", ()) == ():
            try:
                # Created on the device: a copy from the CPU would wait.
                return torch.full((), float(value), dtype=torch.float64, device=self._device)
            except (TypeError, ValueError):
                pass
        received = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else shown(value)
        raise ValueError(f"The value of metric '{name}' must be a number or a 0-d tensor (a mean), got {received}.")
