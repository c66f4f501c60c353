"""The interface of loggers."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any


class Logger:
    """Base class of loggers, which receive the parameters at the start of each run, and the metrics of each epoch.

    The trainer calls, in this order: ``begin_anew`` or, when resuming, ``load_state_dict``, then ``log_parameters``,
    ``log_batches`` during an epoch and ``log_metrics`` at its end, ``state_dict`` at each checkpoint, ``log_figure``
    once the training has finished, and finally ``close``.
    Under ``torchrun``, only the loggers of the first process are called. A subclass must define ``log_metrics``; the
    other methods do nothing by default. If a method raises an exception, the training continues without the logger.
    """

    # A subclass need not call the constructor of its superclass. A private name, which no subclass uses for its own.
    __name: str | None = None

    @property
    def name(self) -> str:
        """The unique name of this logger in the checkpoints; it is read once, when the trainer is built.

        It is the name of the class, unless it is set (``self.name = "x"``) or a subclass defines it.
        """
        return type(self).__name__ if self.__name is None else self.__name

    @name.setter
    def name(self, name: str) -> None:
        self.__name = name

    def begin_anew(self) -> None:
        """Remove what an earlier run of this experiment has logged, if it was killed before its first checkpoint."""

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Record the parameters of the training, by section (nested dictionaries of JSON types)."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record the metrics of an epoch (counted from 0). A metric that was not computed is absent."""
        raise NotImplementedError(f"{type(self).__name__} has no log_metrics.")

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Record training batches; each record stands for a few of them (the trainer's ``log_batches``).

        Parameters
        ----------
        records
            Each has ``epoch``, ``batch`` (index of its last batch in the epoch, from 0), ``step`` (number of batches so
            far, in all epochs), ``learning_rate``, ``points_per_s``, ``duration_s`` (of the epoch's training so far)
            and, if there are any, the means ``train_loss`` and ``grad_norm``. Some records come again in a resumed run,
            if the previous one was killed after its last checkpoint.
        """

    def log_figure(self, name: str, figure: Any) -> None:
        """Record a figure of the whole training: ``curves``, as ``dwiml visualize_logs`` draws them.

        Parameters
        ----------
        name
            Its name.
        figure
            A :class:`matplotlib.figure.Figure`, which is drawn only if a logger defines this method.
        """

    def _takes_figures(self) -> bool:
        """Return whether this logger defines :meth:`log_figure`."""
        return type(self).log_figure is not Logger.log_figure

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs to continue the log (JSON types)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`state_dict` returned."""

    def close(self) -> str | None:
        """Close the log; return a sentence for the user, or None."""
        return None


def plain_metrics(metrics: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """Return the metrics as plain, finite Python numbers.

    Parameters
    ----------
    metrics
        Values by name: Python numbers, or numpy or torch values with a single element.
    epoch
        Index of the epoch, for the error messages.

    Raises
    ------
    ValueError
        If a value is not a number, or is NaN or infinite, or if a metric is called ``epoch``.
    """
    if "epoch" in metrics:
        raise ValueError("A metric cannot be called 'epoch': that is the key of the epoch itself; rename it.")
    return {name: _plain_number(name, value, epoch) for name, value in metrics.items()}


def plain_epoch(epoch: Any) -> int:
    """Return the epoch as a Python integer.

    Raises
    ------
    ValueError
        If it is not an integer, or is negative.
    """
    try:
        number = operator.index(epoch)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"epoch must be an integer, 0 or more, got {epoch!r}.")
    return number


def _plain_number(name: str, value: Any, epoch: int) -> float:
    # Duck-typed, so that reading logs does not load torch.
    if hasattr(value, "item") and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"Metric '{name}' of epoch {epoch} must be a single number, got {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"Metric '{name}' of epoch {epoch} must be finite, got {value}; omit metrics without a value.")
    return value
