"""What is done about a NaN or infinite loss or gradient."""

from __future__ import annotations

import logging

import torch

from dwiml.training.optimization.updates import WeightUpdater
from dwiml.training.reporting.monitors import MeanMonitor, PhaseMonitor

STOP, SKIP = "stop", "skip"
NAN_POLICIES = (STOP, SKIP)

logger = logging.getLogger(__name__)


class NonFinitePolicy:
    """Finds NaN and infinite values, and stops the training or leaves their batches out.

    Parameters
    ----------
    policy
        ``"stop"`` or ``"skip"``.
    device
        Where values are.
    updater
        Its scaler reads the device at each step anyway.
    """

    def __init__(self, policy: str, device: torch.device, updater: WeightUpdater) -> None:
        self.skips = policy == SKIP
        self._device, self._updater = device, updater

    def is_bad(self, value: torch.Tensor) -> bool:
        """Tell whether a value is NaN or infinite, where that can be known now without making the GPU wait."""
        at_once = self._device.type == "cpu" or self.skips or self._updater.scaler.is_enabled()
        return at_once and not bool(torch.isfinite(value))

    def pass_over(
        self, mean: MeanMonitor, index: int, value: torch.Tensor, monitor: PhaseMonitor, *, nb_batches: int
    ) -> None:
        """Count batches as skipped; raise NonFiniteValueError where that was not asked for."""
        if not self.skips:
            raise mean.error(index, value)
        logger.warning("%s: skipped.", mean.told(index, value))
        monitor.nb_skipped += nb_batches
