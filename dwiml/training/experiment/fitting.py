"""Checking that a checkpoint fits the run that resumes from it, before any of its state is used.

A checkpoint may be untrusted, or written with another version of torch; whatever it holds, the user gets one clear
sentence. Each check raises ValueError with a short reason.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from dwiml.arguments import check_whole, quoted
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.models.saving import check_finite, check_fit, described
from dwiml.training.experiment.folder import SECTIONS
from dwiml.training.experiment.plain import check_json, check_keys, value_or_type
from dwiml.training.optimization.optimizers import OPTIMIZERS, check_group_value
from dwiml.training.reporting.metrics import PADDING
from dwiml.training.reporting.user_metrics import check_metric_name
from dwiml.training.state import GENERATION, MAX_EPOCH, PHASES, TRAINING, Position

_MOST_POINTS = 2**62
_MEASURED = ("values", "weights", "batches")


def check_parameters(parameters: Any) -> None:
    """Check the recorded parameters: their sections, the seeds and the fingerprint of the data."""
    check_json("'parameters'", parameters)
    sections = {**dict.fromkeys(SECTIONS), **parameters}
    for name, section in sections.items():
        if type(section) is not dict:
            raise ValueError(
                f"the section '{name[:60]}' of 'parameters' should be a dictionary but is {value_or_type(section)}"
            )
    for name in ("trainer", "sampler", "loader"):
        check_whole(f"the seed of the {name}", sections[name].get("seed"), low=0, high=2**64)
    if "fingerprint" not in sections["data"]:
        raise ValueError("the section 'data' of 'parameters' has no fingerprint")
    if not are_files(sections["data"].get("hdf5_file")):
        raise ValueError("the section 'data' of 'parameters' names no HDF5 file")


def are_files(recorded: Any) -> bool:
    """Return whether a recorded value names the HDF5 files of an experiment: one path, or a list of paths."""
    listed = recorded if type(recorded) is list else [recorded]
    return bool(listed) and all(type(each) is str for each in listed)


def refuse_unknown(params: Mapping[str, Any], trainer_class: type[Any], experiment: str) -> None:
    """Check that a trainer class has all recorded parameters.

    Raises
    ------
    ValueError
        If some are unknown; the message names them.
    """
    constructors = [vars(each)["__init__"] for each in trainer_class.__mro__ if "__init__" in vars(each)]
    known = {name for each in constructors[:-1] for name in inspect.signature(each).parameters}
    known |= {each.name for settings_class in trainer_class.settings_classes for each in fields(settings_class)}
    unknown = [" ".join(name.split())[:60] for name in params if name not in known]
    if unknown:
        raise ValueError(
            f"The checkpoint of '{experiment}' does not fit: {trainer_class.__name__} has no parameter "
            f"{quoted(unknown, limit=5)}."
        )


def check_position(state: Any) -> None:
    """Check the recorded position."""
    check_keys("'position'", state, [each.name for each in fields(Position)])
    check_whole("the epoch", state["epoch"], low=0, high=MAX_EPOCH)
    check_whole("the batch", state["batch"], low=0, high=_MOST_POINTS)
    if type(state["phase"]) is not str or state["phase"] not in PHASES:
        raise ValueError(f"the phase should be one of {quoted(PHASES)} but is {value_or_type(state['phase'])}")
    if state["batch"] and state["phase"] == GENERATION:
        raise ValueError("the generation-validation phase always starts over, so no batch should be done")
    if type(state["metrics"]) is not dict:
        raise ValueError(f"the metrics should be a dictionary but are {described(state['metrics'])}")
    for name, value in state["metrics"].items():
        if type(name) is not str or type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(
                f"the metric {value_or_type(name)} should be a finite number but is {value_or_type(value)}"
            )


def check_batches(
    state: Mapping[str, Any],
    sampler: DWIMLBatchIDSampler,
    *,
    same_batches: bool,
    limit: Callable[[str], int | None],
) -> None:
    """Check that the number of batches done is at most that of the phase, if the data are unchanged.

    Parameters
    ----------
    state
        State of the position.
    sampler
        Sampler of the training.
    same_batches
        Whether each epoch trains on the batches of the first one.
    limit
        Returns the maximum number of batches of a phase, or None.
    """
    phase, done = state["phase"], state["batch"]
    if not done:
        return
    same = phase != TRAINING or same_batches
    nb_batches = sampler.nb_batches(phase, 0 if same else state["epoch"], max_batches=limit(phase))
    if done > nb_batches:
        raise ValueError(f"{done} batches are done of the {nb_batches} that the phase has")


def check_weights(model: torch.nn.Module, state: Any) -> None:
    """Check that the weights have the model's names, shapes and dtypes, and are finite."""
    if not isinstance(state, dict):
        raise ValueError(f"the weights should be a dictionary but are {described(state)}")
    check_fit(model, state, "the weights", any_precision=False)
    check_finite(model, state, "the weights")


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Check the state of an optimizer: its groups against those of this run, its tensors against the parameters."""
    own = optimizer.state_dict()
    is_known = type(optimizer) in OPTIMIZERS.values()
    if is_known:
        check_keys("its state", state, own)
    elif not isinstance(state, dict) or any((key in own) != (key in state) for key in ("param_groups", "state")):
        raise ValueError(f"its state should be that of {type(optimizer).__name__} but is {described(state)}")
    if "param_groups" in own:
        _check_groups(state["param_groups"], own["param_groups"], values=is_known)
    # The values of an optimizer of the user's cannot be checked.
    if not is_known:
        return
    kept = state["state"]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if type(kept) is not dict:
        raise ValueError(f"its state of each parameter should be in a dictionary but is {described(kept)}")
    names: set[frozenset[Any]] = set()
    for number, values in kept.items():
        if type(number) is not int or not 0 <= number < len(parameters) or type(values) is not dict:
            raise ValueError(f"it has {described(values)} for parameter {value_or_type(number)} of {len(parameters)}")
        _check_kept(values, parameters[number], number)
        names.add(frozenset(values))
    if not names <= _names_kept(type(optimizer), state["param_groups"]) | {frozenset()}:
        raise ValueError(f"the values for each parameter are not those of {type(optimizer).__name__}")


def _check_groups(groups: Any, own: list[dict[str, Any]], *, values: bool) -> None:
    if type(groups) is not list or len(groups) != len(own):
        raise ValueError(f"it should have {len(own)} groups of parameters but has {value_or_type(groups)}")
    for group, own_group in zip(groups, own, strict=True):
        if type(group) is not dict:
            raise ValueError(f"a group of parameters should be a dictionary but is {described(group)}")
        if any(key not in group for key in ("params", "lr") if key in own_group):
            raise ValueError("a group of parameters lacks 'params' or 'lr'")
        # Keys may be added by a later torch, or by the user.
        for key in group.keys() & own_group.keys() if values else ():
            check_group_value(key, group[key], own_group[key])


def _check_kept(values: Mapping[Any, Any], parameter: torch.Tensor, number: int) -> None:
    for name, value in values.items():
        what = f"'{str(name)[:60]}' of parameter {number}"
        if value is None or type(name) is not str:
            if type(name) is not str:
                raise ValueError(f"{what} has a name that is not a string")
            continue
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{what} should be a tensor but is {value_or_type(value)}")
        shape = () if name == "step" else tuple(parameter.shape)
        is_number = value.is_floating_point() or (value.is_complex() and parameter.is_complex())
        if tuple(value.shape) != shape or not is_number:
            raise ValueError(f"{what} should be a tensor of numbers of shape {shape} but is {described(value)}")
        real = torch.view_as_real(value) if value.is_complex() else value
        if not bool(torch.isfinite(real).all()) or (name in ("step", "exp_avg_sq") and bool((real < 0).any())):
            raise ValueError(f"{what} has invalid values (NaN, infinite or negative)")


def _names_kept(of_this_kind: Any, groups: list[dict[str, Any]]) -> set[frozenset[Any]]:
    """Return the names of the values that an optimizer keeps for each parameter, found by trial steps."""
    names = set()
    for group in groups:
        trial = torch.nn.Parameter(torch.zeros(1))
        trial.grad = torch.ones(1)
        settings = {key: value for key, value in group.items() if key not in ("params", "fused")}
        stepped = of_this_kind([{"params": [trial], **settings}])
        stepped.step()
        names |= {frozenset(values) for values in stepped.state.values()}
    return names


def check_averaged(own: Any, state: Any) -> None:
    """Check that the checkpoint has averaged weights exactly if this run does, and that they fit."""
    if (own is None) != (state is None):
        has, lacks = ("the checkpoint", "this run") if own is None else ("this run", "the checkpoint")
        raise ValueError(f"{has} has averaged weights and {lacks} has none")
    if own is not None:
        own.check_state(state)


def check_best(state: Any, own: Mapping[str, Any], epoch: int) -> None:
    """Check the state of the best value and of early stopping."""
    check_keys("'best'", state, own)
    for name, value in state.items():
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"'{name}' should be a finite number but is {value_or_type(value)}")
        counted = isinstance(own[name], int) or "epoch" in name
        if counted and (value is not None or own[name] is not None):
            check_whole(f"'{name}'", value, low=0, high=epoch)


def check_generators(states: Any) -> None:
    """Check the states of torch's generators, one for each rank, on a generator that is not used otherwise."""
    if type(states) is not list or not states:
        raise ValueError(f"it should be a list of one state for each process but is {value_or_type(states)}")
    for state in states:
        check_keys("a generator's state", state, ("cpu", "cuda"))
        _check_generator(state["cpu"], torch.Generator())
        cuda = state["cuda"]
        if cuda is None:
            continue
        if not _is_bytes(cuda) or cuda.numel() != 16:
            raise ValueError(f"the state of a GPU's generator should be 16 bytes but is {described(cuda)}")


def _check_generator(state: Any, trial: torch.Generator) -> None:
    size = trial.get_state().numel()
    if not _is_bytes(state) or state.numel() != size:
        raise ValueError(f"a generator's state should be {size} bytes but is {described(state)}")
    try:
        trial.set_state(state)
    except RuntimeError as error:
        raise ValueError("torch does not accept the state of a generator") from error


def _is_bytes(state: Any) -> bool:
    return isinstance(state, torch.Tensor) and state.dtype == torch.uint8 and state.ndim == 1


def check_monitors(state: Any, own: Mapping[str, Any], nb_batches: int) -> None:
    """Check the measurements of a phase that was stopped.

    Parameters
    ----------
    state
        State of the monitor; None if the run was stopped between two epochs.
    own
        State of a monitor that has measured nothing.
    nb_batches
        Number of batches of the phase that are done.
    """
    if state is None:
        if nb_batches:
            raise ValueError(f"the measurements of the {nb_batches} batches that are done are missing")
        return
    check_keys("the state of the monitor", state, own)
    # That of an earlier version has no share of padding.
    check_keys("the state of the monitor", {PADDING: None, **state["means"]}, own["means"])
    for name, mean in state["means"].items():
        _check_mean(name, mean, nb_batches)
        if len(mean["batches"]) > nb_batches or sorted(set(mean["batches"])) != list(mean["batches"]):
            raise ValueError(f"'{name}' should have one value per batch, in order")
    if type(state["own"]) is not list:
        raise ValueError(f"the user's metrics should be a list but are {described(state['own'])}")
    for rank in state["own"]:
        if type(rank) is not dict:
            raise ValueError(f"the metrics of a process should be a dictionary but are {described(rank)}")
        for name, mean in rank.items():
            _check_mean(check_metric_name(name), mean, nb_batches)
    check_whole("'nb_points'", state["nb_points"], low=0, high=_MOST_POINTS)
    check_whole("'nb_skipped'", state["nb_skipped"], low=0, high=nb_batches)
    for name in ("data_wait_s", "duration_s"):
        if type(state[name]) not in (int, float) or not 0 <= state[name] < math.inf:
            raise ValueError(f"'{name}' should be a time in seconds but is {value_or_type(state[name])}")


def _check_mean(name: str, state: Any, nb_batches: int) -> None:
    check_keys(f"'{name}'", state, _MEASURED)
    values, weights, batches = (state[each] for each in _MEASURED)
    if not isinstance(values, torch.Tensor) or values.ndim != 1 or not values.is_floating_point():
        raise ValueError(f"the values of '{name}' should be a 1-d tensor of numbers but are {described(values)}")
    if type(weights) is not list or type(batches) is not list or not len(weights) == len(batches) == len(values):
        raise ValueError(f"'{name}' should have as many weights and batches as values ({len(values)})")
    if any(type(each) is not int or not 0 < each < _MOST_POINTS for each in weights):
        raise ValueError(f"a weight of '{name}' is not a positive number")
    if any(type(each) is not int or not 0 <= each < nb_batches for each in batches):
        raise ValueError(f"'{name}' has values of batches other than the {nb_batches} that are done")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"'{name}' has values that are NaN or infinite")


def check_all(checkpoint: Mapping[str, Any], checks: Mapping[str, Callable[[Any], object]], experiment: str) -> None:
    """Run a check, or another function, on each part of a checkpoint.

    Parameters
    ----------
    checkpoint
        The parts, by name.
    checks
        The function for each part that is checked.
    experiment
        Name of the experiment for the message.

    Raises
    ------
    ValueError
        If a part does not fit; the message names the first one and gives the reason.
    """
    for name, check in checks.items():
        try:
            check(checkpoint[name])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"The checkpoint of '{experiment}' does not fit: '{name}' cannot be restored ({reason}). Resume with "
                "the script that started the training, or start another experiment."
            ) from error
