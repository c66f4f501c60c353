"""Check arguments given by users; each error is one sentence with the name and the value received."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

RENAMED = {
    "wander_size": "noise_correlated_size",
    "wander_nb_points": "noise_correlated_nb_points",
    "wander_nb_steps_back": "nb_recovery_steps",
    "both_ways": "antipodal",
    "latest": "weights",
    "reference": "grid",
}
"""{old name of a parameter: its new name}, reported by the error for the old name for one release."""
USUAL_NAMES = {
    **dict.fromkeys(("lr", "learning_rate"), "learning_rates"),
    **dict.fromkeys(("epochs", "nb_epochs", "num_epochs", "n_epochs"), "max_epochs"),
    "batch_size": "batch_size_training",
    **dict.fromkeys(("num_workers", "nb_workers", "workers"), "nb_cpu_processes"),
    **dict.fromkeys(("device", "gpu", "gpus", "cuda"), "use_gpu"),
    **dict.fromkeys(("scheduler", "lr_schedule"), "lr_scheduler"),
    **dict.fromkeys(("logger", "callbacks"), "loggers"),
    **dict.fromkeys(("clip_grad_norm", "gradient_clip_val", "max_grad_norm"), "clip_grad"),
}
"""{name of a parameter in other libraries: its name in dwiml}."""
_OF_PREVIOUS_DIRS = (
    "nb_previous_dirs",
    "normalize_prev_dirs",
    *(f"prev_dirs_{name}" for name in ("embedding_key", "embedded_size", "embedding_args")),
)
_OF_TRANSFORMERS = "nb_heads"

RENAMED_METHODS = {
    "trainer": {
        "judged_by": "selection_metric",
        "judged_value": "selection_value",
        "_loss": "compute_loss",
        "_model_streamlines": "model_batch",
    },
    "loader": {
        "add_noise_forward": "preparer().add_noise_forward",
        "add_noise_loss": "preparer().add_noise_loss",
        "inputs_under": "volumes.inputs_at",
    },
}
"""{old name of a method that a subclass may override: its new name}, reported for one release."""
_MAX_SHOWN = 200
MAX_LAYERS = 1_000
"""Maximum number of layers, far above any trained network, so that an untrusted file cannot ask for a huge one."""
_FLAGS = {"bool": "True or False", "bool | None": "True, False or None"}


def check_flags(call: inspect.BoundArguments, prefix: str = "") -> None:
    """Check that the arguments annotated as ``bool`` or ``bool | None`` are: in Python, the string ``"false"`` is true.

    Parameters
    ----------
    call
        The arguments of a call, bound to the signature. Python's and NumPy's bool are accepted, and the default.
    prefix
        Beginning of the error message, for instance ``"dg_args: "``.

    Raises
    ------
    ValueError
        If one of them has another type.
    """
    for name, value in call.arguments.items():
        parameter = call.signature.parameters[name]
        annotation = parameter.annotation
        kind = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        types = (bool, np.bool_, type(None)) if "None" in kind else (bool, np.bool_)
        if kind in _FLAGS and not isinstance(value, types) and value is not parameter.default:
            raise ValueError(f"{prefix}{name} must be {_FLAGS[kind]}, got {shown(value)}.")


def check_number(name: str, value: Any, *, low: float, high: float = math.inf, low_included: bool = True) -> float:
    """Return a finite number within bounds as a Python float.

    Parameters
    ----------
    name
        Name of the parameter, for the error message.
    value
        A Python or NumPy number; bool is rejected.
    low, high
        The bounds; ``high`` is included if it is finite.
    low_included
        Whether ``low`` itself is allowed.

    Raises
    ------
    ValueError
        If the value is not such a number.
    """
    if not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating)):
        number = float(value)
        if math.isfinite(number) and (number >= low if low_included else number > low) and number <= high:
            return number
    if math.isfinite(high):
        wanted = f"a number from {low:g} to {high:g}" if low_included else f"above {low:g} and at most {high:g}"
    elif low == 0:
        wanted = "a number, 0 or more" if low_included else "positive"
    else:
        wanted = f"a number of at least {low:g}"
    raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")


def check_whole(name: str, value: Any, *, low: int, high: int | None = None) -> int:
    """Return an integer within bounds as a Python int.

    Parameters
    ----------
    name
        Name of the parameter, for the error message.
    value
        A Python or NumPy integer; bool and float are rejected.
    low, high
        The bounds, both included; None for no upper bound.

    Raises
    ------
    ValueError
        If the value is not such an integer.
    """
    is_whole = not isinstance(value, bool) and isinstance(value, (int, np.integer))
    if is_whole and value >= low and (high is None or value <= high):
        return int(value)
    wanted = f"of at least {low}" if high is None or not is_whole or value < low else f"of at most {high}"
    raise ValueError(f"{name} must be a whole number {wanted}, got {shown(value)}.")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return a string that is one of the allowed choices.

    Parameters
    ----------
    name
        Name of the parameter, for the error message.
    value
        The value to check.
    allowed
        The choices, in the order in which the error message lists them.

    Raises
    ------
    ValueError
        If the value is not one of the choices.
    """
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {shown(value)}.")
    return value


def check_sizes(name: str, value: Any, *, high: int, example: str = "[256, 256]") -> list[int]:
    """Return the sizes of a network's layers, any sequence of positive integers, as a list of Python integers.

    Parameters
    ----------
    name
        Name of the parameter, for the error message.
    value
        The value to check; at least one size, and at most 1000.
    high
        The largest size of a layer.
    example
        A value that the error message suggests.

    Raises
    ------
    ValueError
        If the value is not such a sequence.
    """
    try:
        # A string is a sequence too, of characters.
        listed = [] if isinstance(value, (str, bytes)) else list(value)
        checked = [check_whole(name, size, low=1) for size in listed]
    except (TypeError, ValueError):
        checked = []
    if not checked:
        received = list(value) if isinstance(value, tuple) else value
        raise ValueError(
            f"{name} must hold one positive size per layer, got {shown(received)}: give a list such as {example}."
        )
    if len(checked) > MAX_LAYERS:
        raise ValueError(f"{name} must hold at most {MAX_LAYERS} sizes, one per layer; got {len(checked)}.")
    return [check_whole(name, size, low=1, high=high) for size in checked]


def check_options(
    name: str,
    value: Any,
    receiver: Callable[..., Any],
    *,
    key: str,
    own: Collection[str],
    example: Mapping[str, Any],
) -> dict[str, Any]:
    """Return options for a class that was chosen by its key, after checking their names and those that are bool.

    Parameters
    ----------
    name
        Name of the parameter that holds the options, for the error message.
    value
        The options by name, or None for no options.
    receiver
        The class; its parameters are the known options.
    key
        The key of the class.
    own
        Parameters of the class that are not options.
    example
        A value that the error message suggests.

    Raises
    ------
    ValueError
        If the value is not a dict, the class does not have one of the options, or one should be bool and is not.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict of options such as {dict(example)}, got {shown(value)}.")
    signature = inspect.signature(receiver)
    allowed = [each for each in signature.parameters if each not in own]
    unknown = sorted(set(value or {}) - set(allowed), key=str)
    if unknown:
        known = f"it has: {allowed}" if allowed else "it has no options"
        raise ValueError(f"{name} of {key!r} has no option {unknown[0]!r}; {known}.")
    check_flags(signature.bind_partial(**(value or {})), f"{name}: ")
    return dict(value or {})


def check_dropout(name: str, value: Any) -> float:
    """Return a dropout probability, at least 0 and less than 1, as a Python float.

    Parameters
    ----------
    name
        Name of the parameter, for the error message.
    value
        A Python or NumPy number; bool is rejected.

    Raises
    ------
    ValueError
        If the value is not such a number.
    """
    try:
        probability = check_number(name, value, low=0)
    except ValueError:
        probability = 1.0
    if probability >= 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {shown(value)}.")
    return probability


def similar_names(unknown: str, known: Iterable[str]) -> list[str]:
    """Return up to three names that may be meant by an unknown one: one of their words, or else a similar name.

    Parameters
    ----------
    unknown
        The unknown name, without dashes.
    known
        The known names. Those that begin with `unknown` are preferred.
    """
    known = sorted(known, key=lambda name: not name.startswith(unknown))
    word = unknown.removesuffix("s")
    parts = [name for name in known if f"_{word}" in f"_{name}"] if len(word) > 2 else []
    return parts[:3] or difflib.get_close_matches(unknown, known, cutoff=0.7)


def did_you_mean(names: Iterable[str]) -> str:
    """Return the question whether one of similar names is meant, for an error message; empty without names."""
    listed = " or ".join(map(repr, names))
    return f"did you mean {listed}?" if listed else ""


def why_absent(unknown: str, known: Collection[str]) -> str:
    """Return why a model does not have a parameter that others have, and what to do; empty if there is no such reason.

    Parameters
    ----------
    unknown, known
        The name that was given, and the parameters of the model, without dashes.
    """
    if unknown in _OF_PREVIOUS_DIRS and _OF_TRANSFORMERS in known:
        return (
            "a transformer attends to all previous points instead of a number of previous directions, so leave it out."
        )
    return ""


def unknown_parameter(
    class_name: str, unknown: str, known: Iterable[str], usual: Mapping[str, str] | None = None
) -> TypeError:
    """Return the error for a parameter that a class or a function does not have, with suggestions.

    Parameters
    ----------
    class_name, unknown
        Names of the class (or function) and of the unknown parameter.
    known
        Names of its parameters.
    usual
        {name of a parameter in other libraries: what to give in dwiml}.
    """
    known = sorted(known)
    similar = similar_names(unknown, known)
    if RENAMED.get(unknown) in known:
        hint = f"it was renamed to {RENAMED[unknown]!r}."
    elif usual and unknown in usual:
        hint = f"did you mean {usual[unknown]}?"
    elif why := why_absent(unknown, known):
        hint = why
    elif similar:
        hint = did_you_mean(similar)
    else:
        hint = f"it has: {', '.join(repr(name) for name in known)}."
    return TypeError(f"{class_name} has no parameter {unknown!r}; {hint}")


def shown(value: Any) -> str:
    """Return the text of a value for a message: strings in quotes, NumPy scalars as plain numbers, long text cut."""
    try:
        text = repr(_without_numpy(value))
    except ValueError:
        # Python refuses to print integers of thousands of digits.
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _without_numpy(value: Any) -> Any:
    """Return a value with its NumPy scalars, also those in lists, tuples and dictionaries, as Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_without_numpy, value))
    if type(value) is dict:
        return {_without_numpy(key): _without_numpy(each) for key, each in value.items()}
    return value


def grouped(number: float, decimals: int = 0) -> str:
    """Return a number for a message, with spaces between groups of three digits: ``12 345``."""
    return f"{number:,.{decimals}f}".replace(",", " ")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or plural: ``1 batch``, ``12 345 streamlines``."""
    # "batches", but "epochs".
    plural = f"{noun}es" if noun.endswith("tch") else f"{noun}s"
    return f"{grouped(number)} {noun if number == 1 else plural}"


def duration(seconds: float | None) -> str:
    """Return a duration in the units that a user thinks in: ``4.2 s``, ``12 min``, ``3 h 20 min``, ``2 d 5 h``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def kind_shown(value: Any) -> str:
    """Return the description of an object of the wrong type, for a message."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


def quoted(names: Iterable[object], limit: int | None = None) -> str:
    """Return names for a message: ``'a', 'b'``, or ``none``; after ``limit`` names, only the number of the others."""
    texts = [f"'{name}'" for name in names]
    if limit is not None and len(texts) > limit:
        return f"{', '.join(texts[:limit])} and {len(texts) - limit} more"
    return ", ".join(texts) or "none"
