"""The position of a training: epoch, phase and batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

TRAINING, VALIDATION, GENERATION = PHASES = ("training", "validation", "generation")
"""The phases of an epoch, in order; ``"generation"`` is the generation-validation phase and the end of the epoch."""
# Highest epoch that a checkpoint may contain.
MAX_EPOCH = 10**9


@dataclass
class Position:
    """Where a training continues: between two steps, between two validation batches, or before tracking.

    Attributes
    ----------
    epoch
        Current epoch, from 0.
    phase
        Phase to continue, one of :data:`PHASES`. ``"generation"``: training and validation are done.
    batch
        Number of batches done in the phase; 0 in ``"generation"``, which a resumed run repeats from its start.
    metrics
        Metrics of the phases of this epoch that are done, by name.
    """

    epoch: int = 0
    phase: str = TRAINING
    batch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_inside(self) -> bool:
        """Whether an epoch has started and is not finished."""
        return self.batch > 0 or self.phase != TRAINING

    def end_training(self, metrics: dict[str, float]) -> None:
        """Move to the validation of the epoch; ``metrics`` are those of the training."""
        self.phase, self.batch, self.metrics = VALIDATION, 0, metrics

    def end_validation(self, metrics: dict[str, float]) -> None:
        """Move to the end of the epoch; ``metrics`` are those of the validation."""
        self.phase, self.batch, self.metrics = GENERATION, 0, self.metrics | metrics

    def end_epoch(self) -> None:
        """Move to the next epoch."""
        self.epoch, self.phase, self.batch, self.metrics = self.epoch + 1, TRAINING, 0, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position from what :meth:`state_dict` returned."""
        loaded = Position(**state)
        self.epoch, self.phase, self.batch, self.metrics = loaded.epoch, loaded.phase, loaded.batch, loaded.metrics
