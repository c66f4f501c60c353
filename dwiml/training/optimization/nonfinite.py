"""Handling of a NaN or infinite loss or gradient."""

from __future__ import annotations

import logging

import torch

from dwiml.training.optimization.updates import WeightUpdater
from dwiml.training.reporting.monitors import MeanMonitor, PhaseMonitor

NAN_POLICIES = ("stop", "skip")

logger = logging.getLogger(__name__)


class NonFinitePolicy:
    """Detects NaN and infinite values, and stops the training or skips their batches.

    Parameters
    ----------
    policy
        ``"stop"`` or ``"skip"``.
    device
        Device of the values.
    updater
        The updater; if its scaler is enabled, it reads the device at each step anyway.
    """

    def __init__(self, policy: str, device: torch.device, updater: WeightUpdater) -> None:
        self.skips = policy == "skip"
        self._device, self._updater = device, updater

    def is_bad(self, value: torch.Tensor) -> bool:
        """Return whether a 0-d tensor is NaN or infinite; False if finding out now would wait for the GPU."""
        at_once = self._device.type == "cpu" or self.skips or self._updater.scaler.is_enabled()
        return at_once and not bool(torch.isfinite(value))

    def skip_or_raise(
        self, mean: MeanMonitor, index: int, value: torch.Tensor, monitor: PhaseMonitor, *, nb_batches: int
    ) -> None:
        """Count batches as skipped; raise NonFiniteValueError if the policy is ``"stop"``."""
        if not self.skips:
            raise mean.error(index, value)
        logger.warning("%s: skipped.", mean.nonfinite_message(index, value))
        monitor.nb_skipped += nb_batches
