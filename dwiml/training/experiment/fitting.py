"""Does a checkpoint's state fit the run that takes it up? All of it is looked at before any of it is used.

A checkpoint may be a stranger's, or of another version of torch: whatever it holds, the answer is a sentence. Each
function raises ValueError with the reason, in a few words.
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
from dwiml.training.experiment.plain import check_json, check_keys, check_like, said
from dwiml.training.optimization.optimizers import OPTIMIZERS
from dwiml.training.reporting.own_metrics import check_metric_name
from dwiml.training.state import GENERATION, MOST_EPOCHS, PHASES, TRAINING, Position

_MOST_POINTS = 2**62
# What changes in an optimizer's groups while it trains: schedules set them.
_EVOLVING = frozenset({"lr", "betas", "momentum", "initial_lr", "max_momentum", "base_momentum"})
# Chosen by torch for the machine of today (see load_optimizer_state).
_OF_THE_MACHINE = frozenset({"fused", "foreach"})
_MEASURED = ("values", "weights", "batches")


def check_parameters(parameters: Any) -> None:
    """Check what a checkpoint recorded of the run's choices: sections, with the seeds and the data's fingerprint."""
    check_json("'parameters'", parameters)
    sections = {**dict.fromkeys(SECTIONS), **parameters}
    for name, section in sections.items():
        if type(section) is not dict:
            raise ValueError(f"the section '{name[:60]}' of 'parameters' should be a dictionary and is {said(section)}")
    for name in ("trainer", "sampler", "loader"):
        check_whole(f"the seed of the {name}", sections[name].get("seed"), low=0, high=2**64)
    if "fingerprint" not in sections["data"]:
        raise ValueError("the section 'data' of 'parameters' has no fingerprint")
    if type(sections["data"].get("hdf5_file")) is not str:
        raise ValueError("the section 'data' of 'parameters' names no HDF5 file")


def refuse_unknown(params: Mapping[str, Any], trainer_class: type[Any], experiment: str) -> None:
    """Check that a trainer has all recorded parameters.

    Raises
    ------
    ValueError
        The sentence for those that it does not have.
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
    """Check where the run that was stopped is."""
    check_keys("'position'", state, [each.name for each in fields(Position)])
    check_whole("the epoch", state["epoch"], low=0, high=MOST_EPOCHS)
    check_whole("the batch", state["batch"], low=0, high=_MOST_POINTS)
    if type(state["phase"]) is not str or state["phase"] not in PHASES:
        raise ValueError(f"the phase should be one of {quoted(PHASES)} and is {said(state['phase'])}")
    if state["batch"] and state["phase"] == GENERATION:
        raise ValueError("a phase that is always done from its beginning should have no batch that is done")
    if type(state["metrics"]) is not dict:
        raise ValueError(f"the metrics should be a dictionary and are {described(state['metrics'])}")
    for name, value in state["metrics"].items():
        if type(name) is not str or type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"the metric {said(name)} should be a finite number and is {said(value)}")


def check_batches(
    state: Mapping[str, Any],
    sampler: DWIMLBatchIDSampler,
    *,
    same_batches: bool,
    limit: Callable[[str], int | None],
) -> None:
    """Check that no more batches are done than the phase has, on the data that the run began with.

    Parameters
    ----------
    state
        Of the position.
    sampler
        Of the training.
    same_batches
        Whether each epoch trains on the batches of the first one.
    limit
        Of a phase: after how many batches it ends.
    """
    phase, done = state["phase"], state["batch"]
    if not done:
        return
    same = phase != TRAINING or same_batches
    sampler.set_position(phase, 0 if same else state["epoch"], max_batches=limit(phase))
    if done > len(sampler):
        raise ValueError(f"{done} batches are done of the {len(sampler)} that the phase has")


def check_model(model: torch.nn.Module, state: Any) -> None:
    """Check that weights have the model's names, shapes and dtypes, and are finite."""
    if not isinstance(state, dict):
        raise ValueError(f"the weights should be a dictionary and are {described(state)}")
    check_fit(model, state, "the weights", any_precision=False)
    check_finite(model, state, "the weights")


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Check an optimizer's groups against its own, and the tensors that it keeps against its parameters."""
    own = optimizer.state_dict()
    check_keys("its state", state, own)
    groups, kept = state["param_groups"], state["state"]
    if type(groups) is not list or len(groups) != len(own["param_groups"]):
        raise ValueError(f"it should have {len(own['param_groups'])} groups of parameters and has {said(groups)}")
    # What another one changes in its groups and keeps for its parameters, only that one knows.
    is_known = type(optimizer) in OPTIMIZERS.values()
    for theirs, ours in zip(groups, own["param_groups"], strict=True):
        _check_group(theirs, ours, values=is_known)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if type(kept) is not dict:
        raise ValueError(f"what it keeps should be a dictionary and is {described(kept)}")
    names: set[frozenset[Any]] = set()
    for number, values in kept.items():
        if type(number) is not int or not 0 <= number < len(parameters) or type(values) is not dict:
            raise ValueError(f"it keeps {described(values)} for parameter {said(number)} of {len(parameters)}")
        if is_known:
            _check_kept(values, parameters[number], number)
            names.add(frozenset(values))
    if is_known and not names <= _names_kept(optimizer) | {frozenset()}:
        raise ValueError(f"what it keeps for each parameter is not what {type(optimizer).__name__} keeps")


def _check_group(theirs: Any, ours: Mapping[str, Any], *, values: bool) -> None:
    if type(theirs) is not dict:
        raise ValueError(f"a group of parameters should be a dictionary and is {described(theirs)}")
    unknown = [str(key)[:60] for key in theirs if key not in ours]
    if unknown or "params" not in theirs or "lr" not in theirs:
        raise ValueError(f"a group of parameters lacks 'params' or 'lr', or has unknown {quoted(unknown, limit=5)}")
    # What a later torch has added keeps this run's own value.
    for key, value in theirs.items() if values else ():
        if key in _OF_THE_MACHINE:
            check_like(f"'{key}'", value, None)
            continue
        check_like(f"'{key}'", value, ours[key])
        if key in _EVOLVING:
            numbers = value if type(value) in (list, tuple) else [value]
            if any(type(each) in (int, float) and not 0 <= each < math.inf for each in numbers):
                raise ValueError(f"'{key}' should be a finite number, 0 or more, and is {said(value)}")
        elif value != ours[key]:
            raise ValueError(f"'{key}' should be {said(ours[key])} and is {said(value)}")


def _check_kept(values: Mapping[Any, Any], parameter: torch.Tensor, number: int) -> None:
    for name, value in values.items():
        what = f"'{str(name)[:60]}' of parameter {number}"
        if value is None or type(name) is not str:
            if type(name) is not str:
                raise ValueError(f"{what} has a name that is not a text")
            continue
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{what} should be a tensor and is {said(value)}")
        shape = () if name == "step" else tuple(parameter.shape)
        is_number = value.is_floating_point() or (value.is_complex() and parameter.is_complex())
        if tuple(value.shape) != shape or not is_number:
            raise ValueError(f"{what} should be a tensor of numbers of shape {shape} and is {described(value)}")
        real = torch.view_as_real(value) if value.is_complex() else value
        if not bool(torch.isfinite(real).all()) or (name in ("step", "exp_avg_sq") and bool((real < 0).any())):
            raise ValueError(f"{what} has values that it cannot have (NaN, infinite or negative)")


def _names_kept(optimizer: torch.optim.Optimizer) -> set[frozenset[Any]]:
    """Return the names of what an optimizer keeps for a parameter, as a step on trial shows them."""
    trial = torch.nn.Parameter(torch.zeros(1))
    trial.grad = torch.ones(1)
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "fused")}
    of_this_kind: Any = type(optimizer)
    stepped = of_this_kind([{"params": [trial], **settings}])
    stepped.step()
    return {frozenset(values) for values in stepped.state.values()}


def check_averaged(own: Any, state: Any) -> None:
    """Check that averaged weights are there where this run has some; their own class checks the rest."""
    if (own is None) != (state is None):
        has, lacks = ("the checkpoint", "this run") if own is None else ("this run", "the checkpoint")
        raise ValueError(f"{has} has averaged weights and {lacks} has none")
    if own is not None:
        own.check_state(state)


def check_best(state: Any, own: Mapping[str, Any], epoch: int) -> None:
    """Check the best value so far, and the epochs that are counted since."""
    check_keys("'best'", state, own)
    for name, value in state.items():
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"'{name}' should be a finite number and is {said(value)}")
        counted = isinstance(own[name], int) or "epoch" in name
        if counted and (value is not None or own[name] is not None):
            check_whole(f"'{name}'", value, low=0, high=epoch)


def check_generators(states: Any) -> None:
    """Check the states of torch's generators, one for each rank, on a generator that nobody uses."""
    if type(states) is not list or not states:
        raise ValueError(f"there should be the state of a generator for each process, and there is {said(states)}")
    for state in states:
        check_keys("a generator's state", state, ("cpu", "cuda"))
        _check_generator(state["cpu"], torch.Generator())
        cuda = state["cuda"]
        if cuda is None:
            continue
        if not _is_bytes(cuda) or cuda.numel() != 16:
            raise ValueError(f"the state of a GPU's generator should be 16 bytes and is {described(cuda)}")


def _check_generator(state: Any, trial: torch.Generator) -> None:
    size = trial.get_state().numel()
    if not _is_bytes(state) or state.numel() != size:
        raise ValueError(f"a generator's state should be {size} bytes and is {described(state)}")
    try:
        trial.set_state(state)
    except RuntimeError as error:
        raise ValueError("a generator's state is not one that torch can have") from error


def _is_bytes(state: Any) -> bool:
    return isinstance(state, torch.Tensor) and state.dtype == torch.uint8 and state.ndim == 1


def check_monitors(state: Any, own: Mapping[str, Any], nb_batches: int) -> None:
    """Check what was measured in a phase that was stopped.

    Parameters
    ----------
    state
        None where the run was stopped between two epochs.
    own
        The state of a phase that has not begun.
    nb_batches
        How many batches of the phase were done.
    """
    if state is None:
        if nb_batches:
            raise ValueError(f"nothing is there of the {nb_batches} batches that are done")
        return
    check_keys("what was measured", state, own)
    check_keys("what was measured", state["means"], own["means"])
    for name, mean in state["means"].items():
        _check_mean(name, mean, nb_batches)
        if len(mean["batches"]) > nb_batches or sorted(set(mean["batches"])) != list(mean["batches"]):
            raise ValueError(f"'{name}' should have a value a batch, in their order")
    if type(state["own"]) is not list:
        raise ValueError(f"the metrics of the user's should be a list and are {described(state['own'])}")
    for rank in state["own"]:
        if type(rank) is not dict:
            raise ValueError(f"the metrics of a process should be a dictionary and are {described(rank)}")
        for name, mean in rank.items():
            _check_mean(check_metric_name(name), mean, nb_batches)
    check_whole("'nb_points'", state["nb_points"], low=0, high=_MOST_POINTS)
    check_whole("'nb_skipped'", state["nb_skipped"], low=0, high=nb_batches)
    for name in ("data_wait_s", "duration_s"):
        if type(state[name]) not in (int, float) or not 0 <= state[name] < math.inf:
            raise ValueError(f"'{name}' should be a time in seconds and is {said(state[name])}")


def _check_mean(name: str, state: Any, nb_batches: int) -> None:
    check_keys(f"'{name}'", state, _MEASURED)
    values, weights, batches = (state[each] for each in _MEASURED)
    if not isinstance(values, torch.Tensor) or values.ndim != 1 or not values.is_floating_point():
        raise ValueError(f"the values of '{name}' should be numbers in a row and are {described(values)}")
    if type(weights) is not list or type(batches) is not list or not len(weights) == len(batches) == len(values):
        raise ValueError(f"'{name}' should have as many weights and batches as values, which are {len(values)}")
    if any(type(each) is not int or not 0 < each < _MOST_POINTS for each in weights):
        raise ValueError(f"a weight of '{name}' is not a positive number")
    if any(type(each) is not int or not 0 <= each < nb_batches for each in batches):
        raise ValueError(f"'{name}' is of other batches than the {nb_batches} that are done")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"'{name}' has values that are NaN or infinite")


def check_all(checkpoint: Mapping[str, Any], checks: Mapping[str, Callable[[Any], object]], experiment: str) -> None:
    """Run the check of each part of a checkpoint.

    Raises
    ------
    ValueError
        The sentence for the first that does not fit.
    """
    for name, check in checks.items():
        try:
            check(checkpoint[name])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"The checkpoint of '{experiment}' does not fit: '{name}' cannot be taken up ({reason})."
            ) from error
