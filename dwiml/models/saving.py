"""Saved models: parameters, and weights with a digest; a model is recreated only if its size is that of its weights."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

import dwiml
from dwiml.arguments import kind_shown
from dwiml.files import atomic_write, read_json, write_json
from dwiml.files.tensors import as_plain, read_tensors, write_tensors
from dwiml.user_classes.finding import class_path, is_dwiml_class, is_dwiml_path
from dwiml.user_classes.source import source_digest

PARAMETERS_FILE = "parameters.json"
STATE_FILE = "model_state.pt"

_ADVICE = "copy it again from an intact copy, or train the model again"
_MAX_NAMED = 3

CLASS_PATH = "class_path"
"""Key of where a saved class was defined, for the user; nothing is imported from there."""
CLASS_DIGEST = "class_digest"
"""Key of the digest of the file of a saved class of the user."""

Model = TypeVar("Model", bound=nn.Module)

logger = logging.getLogger(__name__)


def write_model(folder: Path, described: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write ``parameters.json`` and ``model_state.pt``, each completely or not at all; a link of that name is replaced.

    Parameters
    ----------
    folder
        Created if needed.
    described
        The value returned by :func:`describe`.
    state
        The model's ``state_dict``.

    Raises
    ------
    OSError
        If a file cannot be written.
    ValueError
        If the state holds anything other than plain values and tensors, which could not be read again.
    """
    state = as_plain(state)
    write_json(folder / PARAMETERS_FILE, described, follow_links=False)
    with atomic_write(folder / STATE_FILE, follow_links=False) as stream:
        write_tensors(state, stream, kind="weights")


class SavedParameters(NamedTuple):
    """The class and the parameters of a saved model.

    Attributes
    ----------
    class_name
        Name of the class.
    params
        Arguments of its constructor.
    class_path
        Where the class was defined (:func:`dwiml.user_classes.finding.class_path`); None if it was not recorded.
    class_digest
        Digest of its file (:func:`dwiml.user_classes.source.source_digest`); None if it was not recorded.
    """

    class_name: str
    params: dict[str, Any]
    class_path: str | None
    class_digest: str | None


def describe(model: Any) -> dict[str, Any]:
    """Return the content of ``parameters.json``: a model's class and parameters, and dwiml's version."""
    name, params = type(model).__name__, model.params
    described = {"class": name, "params": params, "dwiml_version": dwiml.__version__, "digest": _digest(name, params)}
    digest = source_digest(type(model))
    return {**described, CLASS_PATH: class_path(type(model)), **({} if digest is None else {CLASS_DIGEST: digest})}


def read_params(path: Path, model_class: type[Any] | None = None, *, warn: bool = True) -> SavedParameters:
    """Return the class and the parameters of a saved model.

    Parameters
    ----------
    path
        The model's ``parameters.json``.
    model_class
        The required class; None for any class.
    warn
        Whether to warn if the parameters were changed; False if the file will be read again.

    Raises
    ------
    FileNotFoundError, OSError
        If the file is missing or cannot be read.
    ValueError
        If it is damaged, or of another class.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"No model in '{path.parent}': it has no {path.name}.")
    described = read_json(path, "The model's description")
    if isinstance(described, dict) and "class" not in described and "trainer" in described:
        raise ValueError(
            f"'{path.parent}' is an experiment folder; its best model is in '{path.parent / 'best_model'}', once an "
            "epoch is finished: load that folder."
        )
    try:
        saved_class, params = described["class"], described["params"]
    except (KeyError, TypeError):
        saved_class, params = None, None
    if not isinstance(saved_class, str) or not isinstance(params, dict):
        raise ValueError(
            f"'{path}' is damaged or does not describe a model: it must have 'class' (a string) and 'params' (an "
            "object)."
        )
    saved_path = recorded_text(described.get(CLASS_PATH))
    if model_class is not None:
        check_class(
            model_class,
            saved_class,
            saved_path,
            f"The model in '{path.parent}' is",
            f": use {_named_class(saved_class)}.load",
        )
    if warn and "digest" in described and described["digest"] != _digest(saved_class, params):
        logger.warning(
            "The model's parameters in '%s' have changed since they were saved. If you did not change them, restore "
            "the file from an intact copy.",
            path,
        )
    return SavedParameters(saved_class, params, saved_path, recorded_text(described.get(CLASS_DIGEST)))


def recorded_text(value: object) -> str | None:
    """Return a recorded path or digest of a class; None if it is not text (an older file, or a damaged one)."""
    return value if isinstance(value, str) and value.isprintable() else None


def check_class(given: type[Any], name: str, path: str | None, beginning: str, advice: str = "") -> None:
    """Check that a class is the recorded one, by its name, and by whether it is a class of dwiml.

    Parameters
    ----------
    given
        The class.
    name, path
        Name and path of the recorded class; the path is None if it was not recorded.
    beginning, advice
        Beginning of the error message, what has the recorded class, and end of that for another name.

    Raises
    ------
    ValueError
        If it is another class.
    """
    saved = _named_class(name)
    if name != given.__name__:
        raise ValueError(f"{beginning} of class {saved}, not {given.__name__}{advice}.")
    if path is not None and is_dwiml_path(path) != is_dwiml_class(given):
        raise ValueError(
            f"{beginning} of class {saved} ({path[:200]}), which is another class than {class_path(given)}, of the "
            "same name."
        )


def read_state(path: Path) -> dict[str, Any]:
    """Return the weights of a saved model, on the CPU.

    Raises
    ------
    FileNotFoundError, OSError
        If the file is missing or cannot be read.
    ValueError
        If it is damaged (its content does not match its digest), or holds anything other than tensors by name.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"No weights in '{path.parent}': it has no {path.name}.")
    state, has_digest = read_tensors(path, "The weights file", advice=_ADVICE)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"The weights file '{path}' does not hold weights by name; {_ADVICE}.")
    if not has_digest:
        logger.warning(
            "'%s' has no digest (it was written by an older dwiml or another program), so damage that only changes "
            "numbers cannot be detected. Saving the model again adds a digest.",
            path,
        )
    return state


def build_like(make: Callable[[], Model], state: Mapping[str, Any], *, parameters: Path, weights: Path) -> Model:
    """Recreate a model with its weights, after checking that it has the size of these weights.

    Parameters
    ----------
    make
        Function that builds the model, with untrained weights.
    state
        The weights, by name.
    parameters, weights
        The files of the parameters and of the weights, for the error messages.

    Raises
    ------
    ValueError
        If the parameters do not describe a model, or describe one with other weights, or if weights are NaN or
        infinite.
    """
    check_own(lambda own: check_fit(own, state, f"The weights in '{weights}'"), make, parameters=parameters)
    model: Model = built(make, parameters=parameters)
    check_fit(model, state, f"The weights in '{weights}'")
    check_finite(model, state, f"The weights in '{weights}'")
    load_state(model, state)
    return model


def check_own(check: Callable[[nn.Module], None], make: Callable[[], Model], *, parameters: Path) -> None:
    """Check a model before memory is allocated for it, on torch's "meta" device, which has sizes but no values.

    Parameters
    ----------
    check
        Function that raises ValueError for an unsuitable model.
    make
        Function that builds the model. A class that cannot be built without values is not checked.
    parameters
        The file of the model's parameters, for the error messages.
    """
    model = built(make, parameters=parameters, device=torch.device("meta"))
    if model is not None:
        check(model)


def built(make: Callable[[], Model], *, parameters: Path, device: torch.device | None = None) -> Any:
    """Build a model from the parameters of a file; None if it cannot be built on a device without values."""
    try:
        # Nothing is drawn on that device, but the user's own class may draw.
        if device is None:
            return make()
        with torch.random.fork_rng(devices=[]), device:
            return make()
    except (TypeError, ValueError, OverflowError) as error:
        if device is not None and isinstance(error, TypeError) and "meta device" in str(error):
            # torch's error for numpy(), where there are no values.
            return None
        raise ValueError(f"'{parameters}' does not describe a model: {_reason(error)}.") from error
    except Exception as error:
        # A class of the user may raise any error.
        if device is not None and not isinstance(error, MemoryError):
            return None
        is_named = not isinstance(error, (RuntimeError, MemoryError))
        reason = f"{type(error).__name__}: {_one_line(error)}" if is_named else _reason(error)
        raise ValueError(f"The model that '{parameters}' describes cannot be built: {reason}.") from error


def check_fit(model: nn.Module, state: Mapping[str, Any], what: str, *, any_precision: bool = True) -> None:
    """Check that a state has the names and shapes of a model's weights; nothing is changed.

    Parameters
    ----------
    model
        On any device, including torch's "meta" device.
    state
        Values by name.
    what
        Beginning of the error message, in the plural.
    any_precision
        Whether the precision may differ from that of the model, such as float16 instead of float32.

    Raises
    ------
    ValueError
        If any differ; the message names the first ones.
    """
    own = model.state_dict()
    missing, unknown = [name for name in own if name not in state], [name for name in state if name not in own]
    named = (("missing", missing), ("unknown", unknown))
    reasons = [f"{len(names)} {how} ({_named(names)})" for how, names in named if names]
    reasons += [
        f"'{name}' should be {described(mine)} but is {described(state[name])}"
        for name, mine in own.items()
        if name in state and not _alike(mine, state[name], any_precision=any_precision)
    ][:_MAX_NAMED]
    if reasons:
        raise ValueError(f"{what} do not fit the model {type(model).__name__}: {'; '.join(reasons)}.")


def check_finite(model: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Check that no weight is NaN or infinite, and no saved buffer NaN (a mask may hold infinity).

    Raises
    ------
    ValueError
        If there is one; the message names the first.
    """
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, value in state.items():
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        good = torch.isfinite(value) if name in trained else ~torch.isnan(value)
        if not bool(good.all()):
            kind = "NaN or infinite" if name in trained else "NaN"
            raise ValueError(
                f"{what} cannot be used: {int((~good).sum())} of the {value.numel()} values of '{name}' are {kind}."
            )


def load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load weights that were checked by :func:`check_fit` into a model."""
    own = model.state_dict()
    # Into the model's own dictionary, so that attributes of a dictionary from an untrusted file are dropped.
    own.update(state)
    model.load_state_dict(own)


def described(value: Any) -> str:
    """Return a description of a value of a state, for messages."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)}"
    return kind_shown(value)


def _digest(name: str, params: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a model's class and parameters, which does not depend on the layout of the file."""
    return hashlib.sha256(json.dumps([name, params], sort_keys=True).encode()).hexdigest()


def _named_class(name: str) -> str:
    return " ".join(name.split())[:80] or "nameless class"


def _alike(mine: Any, theirs: Any, *, any_precision: bool) -> bool:
    if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
        return type(mine) is type(theirs)
    both_real = mine.is_floating_point() and theirs.is_floating_point()
    return mine.shape == theirs.shape and (mine.dtype == theirs.dtype or (any_precision and both_real))


def _named(names: list[Any]) -> str:
    shown = ", ".join(repr(" ".join(str(name).split())[:60]) for name in names[:_MAX_NAMED])
    return f"{shown}, ..." if len(names) > _MAX_NAMED else shown


def _reason(error: BaseException) -> str:
    """Return the message of an error for the middle of a sentence: a first word that is not a name in lower case."""
    text = _one_line(error)
    word = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if word.isalpha() and word == word.capitalize() else text


def _one_line(error: BaseException) -> str:
    # The message of torch's allocator continues with a C++ stack trace.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(". ")
