"""How far a training has come."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Position:
    """Where a training goes on: between two steps of the optimizer, or two batches of validation.

    Attributes
    ----------
    epoch
        From 0.
    phase
        ``"training"`` or ``"validation"``: what of the epoch comes next.
    batch
        How many batches of the phase are done.
    metrics
        What the phase before measured in this epoch.
    """

    epoch: int = 0
    phase: str = "training"
    batch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_inside(self) -> bool:
        """Whether an epoch has begun and is not finished."""
        return self.batch > 0 or self.phase != "training"

    def end_training(self, metrics: dict[str, float]) -> None:
        """Go on to the epoch's validation."""
        self.phase, self.batch, self.metrics = "validation", 0, metrics

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch, self.phase, self.batch, self.metrics = self.epoch + 1, "training", 0, {}

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        loaded = Position(**state)
        self.epoch, self.phase, self.batch, self.metrics = loaded.epoch, loaded.phase, loaded.batch, loaded.metrics
