"""How far a training has come."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

TRAINING, VALIDATION, GENERATION = PHASES = ("training", "validation", "generation")
"""The phases of an epoch, in their order; the last is the generation-validation phase, and the end of the epoch."""
MOST_EPOCHS = 10**9


@dataclass
class Position:
    """Where a training goes on: between two steps of the optimizer, or two batches of validation, or before tracking.

    Attributes
    ----------
    epoch
        From 0.
    phase
        One of :data:`PHASES`: what of the epoch comes next. ``"generation"``: training and validation are done.
    batch
        How many batches of the phase are done; 0 in ``"generation"``, which a resumed run does from its beginning.
    metrics
        What the phases before measured in this epoch.
    """

    epoch: int = 0
    phase: str = TRAINING
    batch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_inside(self) -> bool:
        """Whether an epoch has begun and is not finished."""
        return self.batch > 0 or self.phase != TRAINING

    def end_training(self, metrics: dict[str, float]) -> None:
        """Go on to the epoch's validation."""
        self.phase, self.batch, self.metrics = VALIDATION, 0, metrics

    def end_validation(self, metrics: dict[str, float]) -> None:
        """Go on to what ends the epoch; ``metrics`` are those of the validation."""
        self.phase, self.batch, self.metrics = GENERATION, 0, self.metrics | metrics

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch, self.phase, self.batch, self.metrics = self.epoch + 1, TRAINING, 0, {}

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        loaded = Position(**state)
        self.epoch, self.phase, self.batch, self.metrics = loaded.epoch, loaded.phase, loaded.batch, loaded.metrics
