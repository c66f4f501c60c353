"""The user's loggers: checked when the trainer is built, and unable to stop a training."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dwiml
from dwiml.arguments import kind_shown, shown
from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics

logger = logging.getLogger(__name__)

# How the trainer calls the methods of a logger.
_CALLS = {
    "begin_anew": (),
    "log_parameters": ("params",),
    "log_metrics": ("metrics", "epoch"),
    "log_batches": ("records",),
    "log_figure": ("name", "figure"),
    "state_dict": (),
    "load_state_dict": ("state",),
    "close": (),
}
_LIBRARIES = tuple({sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_LONGEST_REASON = 300


class GuestLogger(Logger):
    """Wraps a user's logger; if it fails, one warning is shown, and it is not called until the run is resumed.

    Parameters
    ----------
    guest
        The user's logger.
    name
        Its name, as read when the trainer was built.
    """

    name = ""

    def __init__(self, guest: Logger, name: str) -> None:
        self._guest = guest
        self.name = name
        self._failed = False
        # Its last valid state, kept if it fails later.
        self._state: dict[str, Any] = {}

    def begin_anew(self) -> None:
        """Pass on that the training starts from the beginning."""
        self._attempt(self._guest.begin_anew)

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Pass on the parameters."""
        self._attempt(lambda: self._guest.log_parameters(params))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Pass on the metrics of an epoch, as plain numbers."""
        plain = plain_metrics(metrics, plain_epoch(epoch))
        self._attempt(lambda: self._guest.log_metrics(plain, epoch))

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Pass on copies of the records of batches."""
        self._attempt(lambda: self._guest.log_batches([dict(record) for record in records]))

    def log_figure(self, name: str, figure: Any) -> None:
        """Pass on a figure; if this fails, the logger is still closed."""
        if self._failed:
            return
        try:
            self._guest.log_figure(name, figure)
        except Exception as error:
            logger.warning("Logger '%s' has no figure of the %s (%s).", self.name, name, _reason(error))

    def _takes_figures(self) -> bool:
        """Return whether the user's logger records figures, and has not failed."""
        return self._guest._takes_figures() and not self._failed

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the user's logger; its last valid one if it failed or the state cannot be saved."""
        self._attempt(self._ask_state)
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pass on a copy of the state of a checkpoint, if there is one."""
        self._state = state
        if state:
            self._attempt(lambda: self._guest.load_state_dict(copy.deepcopy(state)))

    def close(self) -> str | None:
        """Close the user's logger; return its sentence for the user."""
        sentence = self._attempt(self._guest.close)
        return sentence if isinstance(sentence, str) else None

    def stop(self, error: Exception) -> None:
        """Stop calling the user's logger, and leave out its state, after an error that is reported in a warning."""
        self._state = {}
        self._fail(error)

    def _ask_state(self) -> None:
        # Imported here so that reading logs does not load torch.
        from dwiml.files.tensors import as_plain

        state = self._guest.state_dict()
        if type(state) is not dict:
            raise TypeError(f"its state_dict must return a dictionary, got {kind_shown(state)}")
        # A copy, because the logger may still change the returned object.
        self._state = copy.deepcopy(as_plain(state))

    def _attempt(self, action: Callable[[], Any]) -> Any:
        if self._failed:
            return None
        try:
            return action()
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self._failed = True
        logger.warning(
            "Logger '%s' failed (%s); the training continues without it, and the metrics are in the local log.",
            self.name,
            _reason(error),
        )
        logger.debug("Traceback of logger '%s':", self.name, exc_info=error)


def name_of_logger(given: Logger) -> str:
    """Check a user's logger, and return its name.

    Raises
    ------
    TypeError
        If its name is not a string, it does not define ``log_metrics``, or one of its methods cannot be called as the
        trainer calls it.
    ValueError
        If its name is empty or has a line break.
    """
    kind = type(given).__name__
    try:
        name = given.name
    except Exception as error:
        raise TypeError(f"The name of logger {kind} cannot be read ({_reason(error)}).") from error
    if not isinstance(name, str):
        raise TypeError(f"The name of logger {kind} must be a string (an attribute or a property), got {shown(name)}.")
    if not name.strip() or not name.isprintable():
        raise ValueError(f"The name of logger {kind} must be a printable string, got {shown(name)}.")
    if type(given).log_metrics is Logger.log_metrics:
        raise TypeError(f"Logger {kind} has no log_metrics(metrics, epoch), the method that every logger must define.")
    for method, arguments in _CALLS.items():
        try:
            inspect.signature(getattr(given, method)).bind(*arguments)
        except TypeError as error:
            call = f"{method}({', '.join(arguments)})"
            raise TypeError(f"Logger {kind} must have a method that can be called as {call}: {error}.") from error
        except ValueError:
            # A function of C, whose arguments are unknown.
            continue
    # A subclass of str could not be read from a checkpoint.
    return str.__str__(name)


def _reason(error: Exception) -> str:
    """Return an error in one line, with the place in the user's code."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    text = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
    kind = type(error).__name__
    return f"{kind}: {text}{_place(error)}" if text else f"{kind}{_place(error)}"


def _place(error: Exception) -> str:
    """Return the last line of the user's own code in a traceback: outside dwiml, Python and installed packages."""
    ours = f"{Path(dwiml.__file__).parent}{os.sep}"
    outside = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    own = [frame for frame in outside if not frame.filename.startswith(_LIBRARIES)]
    # The logger itself may be that of an installed package.
    frames = own or outside[:1]
    return f", in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
