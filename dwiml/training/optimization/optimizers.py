"""Optimizers by name, and the learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import Parameter

from dwiml.arguments import check_number
from dwiml.training.experiment.plain import check_like, value_or_type

OptimizerFactory = Callable[[list[Parameter]], torch.optim.Optimizer]
"""Takes the parameters to train and returns an optimizer of them."""
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RAdam": torch.optim.RAdam,
    "SGD": torch.optim.SGD,
}
# Outside of this range, no training works: a step would change nothing in float32, or diverge.
SMALLEST_RATE, LARGEST_RATE = 1e-12, 100.0
# Values of an optimizer's groups that cannot change.
_FIXED = frozenset({"params", "capturable", "differentiable"})
# Values that depend on the machine (see load_optimizer_state).
_OF_THE_MACHINE = frozenset({"fused", "foreach"})
# Optimizers with a version in torch that updates all weights in one CUDA kernel.
FUSED = frozenset({"Adam", "AdamW", "SGD"})


def build_optimizer(
    name: str, parameters: Iterable[Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer of :data:`OPTIMIZERS`, in its fused version if possible (:func:`can_be_fused`).

    Parameters
    ----------
    name
        Name of the optimizer.
    parameters
        Parameters of the model; only those that require a gradient are used.
    learning_rate
        Initial learning rate.
    weight_decay
        L2 penalty for Adam, RAdam and SGD; for AdamW, decoupled from the gradient.

    Raises
    ------
    ValueError
        If the name is unknown, or the model has no parameter to train.
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
    """Return whether the fused implementation of an optimizer is used: it exists, and all parameters are on CUDA.

    On the CPU it is not used, although torch has one, so that results stay the same as with earlier versions.
    """
    return name in FUSED and all(each.is_cuda and each.is_floating_point() for each in parameters)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the state of an optimizer, but keep its implementation (fused or not) for the current machine.

    torch would take the implementation from the state: a run started on a GPU would use the fused one on a CPU, and a
    run started on a CPU would be slow on a GPU. ``state`` is not modified.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the state is that of another optimizer or of other parameters (the errors of torch's ``load_state_dict``).
    """
    if "param_groups" not in state:
        # A class of the user's, whose state has another form.
        optimizer.load_state_dict(dict(state))
        return
    # torch then raises an error if the number of groups differs.
    own = [group.get("fused") for group in optimizer.param_groups]
    groups = [dict(group) for group in state["param_groups"]]
    for group, fused in zip(groups, own, strict=False):
        if "fused" in group:
            group["fused"] = fused
    optimizer.load_state_dict({**state, "param_groups": groups})


def check_group_value(key: str, value: Any, own: Any) -> None:
    """Check a value of a group of parameters; a schedule or the user may have changed it to another of its kind.

    Parameters
    ----------
    key, value
        Name and value.
    own
        The initial value of the optimizer.

    Raises
    ------
    ValueError
        If the value is of another kind, is negative or not finite, or cannot be changed.
    """
    check_like(f"'{key}'", value, None if key in _OF_THE_MACHINE else own)
    numbers = value if type(value) in (list, tuple) else [value]
    if any(type(each) in (int, float) and not 0 <= each < math.inf for each in numbers):
        raise ValueError(f"'{key}' should be a finite number, 0 or more, but is {value_or_type(value)}")
    if key in _FIXED and value != own:
        raise ValueError(f"'{key}' should be {value_or_type(own)} but is {value_or_type(value)}")


def to_python(value: Any) -> Any:
    """Return a NumPy number or a 0-d tensor as a Python number, also in lists, tuples and dictionaries."""
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(to_python, value))
    return {key: to_python(each) for key, each in value.items()} if type(value) is dict else value


def check_learning_rates(learning_rates: Any) -> list[float]:
    """Return the learning rates as a list, one per epoch; the last one is used for all further epochs.

    Raises
    ------
    ValueError
        If the list is empty, or a value is not a Python or NumPy number from 1e-12 to 100.
    """
    hint = "; use its tolist()" if isinstance(learning_rates, torch.Tensor) else ""
    try:
        given = learning_rates.tolist() if isinstance(learning_rates, np.ndarray) else learning_rates
        rates = list(given) if isinstance(given, Sequence) else [given]
        if rates:
            return [check_number("learning_rates", rate, low=SMALLEST_RATE, high=LARGEST_RATE) for rate in rates]
    except ValueError:
        pass
    raise ValueError(
        f"learning_rates must be a positive number, or a list of one per epoch, each from {SMALLEST_RATE:g} to "
        f"{LARGEST_RATE:g}, got {learning_rates!r}{hint}."
    )
