"""Optimizers by name, and the learning rate of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import Parameter

from dwiml.arguments import check_number

OptimizerFactory = Callable[[list[Parameter]], torch.optim.Optimizer]
"""Takes the parameters to train and returns an optimizer of them."""
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RAdam": torch.optim.RAdam,
    "SGD": torch.optim.SGD,
}
# Beyond these no training can work: a step would change nothing in float32, or end in infinity.
SMALLEST_RATE, LARGEST_RATE = 1e-12, 100.0
# Those of which torch has a version that updates all weights in one CUDA kernel.
FUSED = frozenset({"Adam", "AdamW", "SGD"})


def build_optimizer(
    name: str, parameters: Iterable[Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return one of :data:`OPTIMIZERS`.

    ``weight_decay`` is an L2 penalty for Adam, RAdam and SGD, and decoupled from the gradient for AdamW, as torch has
    it. Where torch has a fused one for the parameters' device it is used (:func:`can_be_fused`).

    Raises
    ------
    ValueError
        For an unknown name, or a model without a parameter to train.
    """
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}.")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("The model has no parameter to train.")
    # Plain floats: the optimizer's state goes into the checkpoint as it is.
    options: dict[str, Any] = {"lr": float(learning_rate), "weight_decay": float(weight_decay)}
    if can_be_fused(name, trained):
        options["fused"] = True
    return OPTIMIZERS[name](trained, **options)


def can_be_fused(name: str, parameters: Iterable[torch.Tensor]) -> bool:
    """Tell whether torch's fused implementation of an optimizer is used: it has one, and all parameters are on CUDA.

    On the CPU it is left alone, though torch has it there too: runs keep the numbers that they have had.
    """
    return name in FUSED and all(each.is_cuda and each.is_floating_point() for each in parameters)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up an optimizer's state, with the implementation (fused or not) that suits the machine of today.

    torch would take that from the state: a run that began on a GPU would go on with the fused one on a CPU, and one
    that began on a CPU would be slow on a GPU. ``state`` stays as it is.

    Raises
    ------
    ValueError, KeyError, TypeError
        As torch's ``load_state_dict``, when the state is of another optimizer or other parameters.
    """
    # A state with another number of groups is refused by torch, after this.
    own = [group.get("fused") for group in optimizer.param_groups]
    groups = [dict(group) for group in state["param_groups"]]
    for group, fused in zip(groups, own, strict=False):
        if "fused" in group:
            group["fused"] = fused
    optimizer.load_state_dict({**state, "param_groups": groups})


def check_learning_rates(learning_rates: float | Sequence[float]) -> list[float]:
    """Return the learning rates as a list, one an epoch; the last one holds for the epochs that follow.

    Raises
    ------
    ValueError
        When there is none, or one is not from 1e-12 to 100.
    """
    try:
        rates = list(learning_rates) if isinstance(learning_rates, (Sequence, np.ndarray)) else [learning_rates]
        if rates:
            return [check_number("learning_rates", rate, low=SMALLEST_RATE, high=LARGEST_RATE) for rate in rates]
    except ValueError:
        pass
    raise ValueError(
        f"learning_rates must be a positive number, or a list of them by epoch, each from {SMALLEST_RATE:g} to "
        f"{LARGEST_RATE:g}, got {learning_rates!r}."
    )
