"""Optimizers by name, and the learning rate of each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.nn import Parameter

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RAdam": torch.optim.RAdam,
    "SGD": torch.optim.SGD,
}


def build_optimizer(
    name: str, parameters: Iterable[Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return one of :data:`OPTIMIZERS`.

    ``weight_decay`` is an L2 penalty for Adam, RAdam and SGD, and decoupled from the gradient for AdamW, as torch has
    it.

    Raises
    ------
    ValueError
        For an unknown name, or a model without a parameter to train.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got '{name}'.")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("The model has no parameter to train.")
    return OPTIMIZERS[name](trained, lr=learning_rate, weight_decay=weight_decay)  # type: ignore[call-arg]


def check_learning_rates(learning_rates: float | Sequence[float]) -> list[float]:
    """Return the learning rates as a list, one an epoch; the last one holds for the epochs that follow.

    Raises
    ------
    ValueError
        When there is none, or one is not positive.
    """
    rates = list(learning_rates) if isinstance(learning_rates, Sequence) else [learning_rates]
    if not rates or any(not isinstance(rate, (int, float)) or not 0 < rate < float("inf") for rate in rates):
        raise ValueError(f"learning_rates must be a positive number, or a list of them by epoch, got {learning_rates}.")
    return [float(rate) for rate in rates]


def set_learning_rate(optimizer: torch.optim.Optimizer, rates: Sequence[float], epoch: int) -> float:
    """Give the optimizer the learning rate of an epoch, and return it."""
    rate = rates[min(epoch, len(rates) - 1)]
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
