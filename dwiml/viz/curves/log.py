"""The log of an experiment, as it is drawn."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import quoted
from dwiml.training.reporting.metrics import (
    BATCH,
    DIFFERENCE_FROM_BEST,
    DURATION,
    EPOCH,
    GRAD_NORM,
    LEARNING_RATE,
    SELECTION_VALUE,
    SPEED,
    TRAIN_LOSS,
    VALID_LOSS,
    is_comparable,
    name_of,
)

Floats = NDArray[np.float64]
OPERATIONS = ("diff", "ratio", "sum")
"""What can be computed from two metrics: ``diff(a,b)`` is a - b, ``ratio(a,b)`` is a / b, ``sum(a,b)`` is a + b."""
_SIGNS = {"diff": "\N{MINUS SIGN}", "ratio": "/", "sum": "+"}
# Names of what is computed once.
_DONE, _POINTS = "epochs done after each line of batches", "points of each epoch"
IN_BATCHES = {TRAIN_LOSS: TRAIN_LOSS, GRAD_NORM: GRAD_NORM, LEARNING_RATE: LEARNING_RATE, f"train_{SPEED}": SPEED}
"""{metric of epochs: metric of batches}"""
_EXPRESSION = re.compile(rf"({'|'.join(OPERATIONS)})\(\s*([^(),\s]+)\s*,\s*([^(),\s]+)\s*\)")


@dataclass(frozen=True)
class Log:
    """The log of an experiment.

    Attributes
    ----------
    label
        Name of the experiment in the figure.
    records
        One per epoch: ``epoch`` (from 0) and the metrics by name.
    selection_metric
        Model-selection metric: the best model is selected by its value.
    has_own_selection
        Whether a class of the user chooses the metric; the log then has ``selection_value``, which is minimized.
    batches
        The columns of :func:`dwiml.training.reporting.loggers.batches.read_batches`; empty without a log of batches.
    resumed
        Where the training was resumed: number of epochs done, with the part of the epoch in progress.
    loss
        How the loss is defined, in words; empty if it is unknown.
    note
        What to say beside the name: ``running``.
    """

    label: str
    records: Sequence[dict[str, Any]]
    selection_metric: str = VALID_LOSS
    has_own_selection: bool = False
    batches: Mapping[str, Floats] = field(default_factory=dict)
    resumed: tuple[float, ...] = ()
    loss: str = ""
    note: str = ""
    _known: dict[str, tuple[Floats, Floats]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def named(self, label: str) -> Log:
        """Return the log under another name."""
        renamed = copy.copy(self)
        object.__setattr__(renamed, "label", label)
        return renamed

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the epochs (from 0) in which a metric was computed, and its values."""
        epochs, values = self.columns(metric)
        return epochs.astype(int).tolist(), values.tolist()

    def columns(self, name: str) -> tuple[Floats, Floats]:
        """Return the epochs (from 0) in which a metric, or an expression, was computed, and its values: arrays (E,)."""
        if name not in self._known:
            expression = _EXPRESSION.fullmatch(name.strip())
            self._known[name] = self._computed(*expression.groups()) if expression else self._recorded(name)
        return self._known[name]

    @functools.cached_property
    def _table(self) -> dict[str, tuple[Floats, Floats]]:
        """Epochs and values of all metrics, from a single pass over the records."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for record in self.records:
            epoch = record[EPOCH]
            for name, value in record.items():
                if is_number(value):
                    epochs, values = found.setdefault(name, ([], []))
                    epochs.append(epoch)
                    values.append(value)
        return {name: (np.array(each[0], np.float64), np.array(each[1], np.float64)) for name, each in found.items()}

    def _recorded(self, metric: str) -> tuple[Floats, Floats]:
        return self._table.get(metric, (np.zeros(0), np.zeros(0)))

    def _computed(self, operation: str, first: str, second: str) -> tuple[Floats, Floats]:
        (epochs, a), (others, b) = self._recorded(first), self._recorded(second)
        common, one, two = np.intersect1d(epochs, others, return_indices=True)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            values = {"diff": a[one] - b[two], "ratio": a[one] / b[two], "sum": a[one] + b[two]}[operation]
        finite = np.isfinite(values)
        return common[finite], values[finite]

    @property
    def nb_epochs(self) -> float:
        """Number of epochs done, with the part of the one in progress, if batches are logged."""
        done = float(max((record[EPOCH] + 1 for record in self.records), default=0))
        return max([done, *map(float, self.batch_epochs()[-1:])])

    def batch_epochs(self) -> Floats:
        """Return, for each line of the log of batches, the number of epochs done after it, shape (L,)."""
        if not len(self.batches.get(EPOCH, ())):
            return np.zeros(0)
        if _DONE not in self._known:
            done = self._epochs_of_batches()
            self._known[_DONE] = done, done
        return self._known[_DONE][0]

    def _epochs_of_batches(self) -> Floats:
        epochs, batches = self.batches[EPOCH], self.batches[BATCH]
        names, inverse = np.unique(epochs, return_inverse=True)
        nb_batches = np.zeros(len(names))
        np.maximum.at(nb_batches, inverse, batches + 1)
        finished = max((record[EPOCH] for record in self.records), default=-1)
        if len(names) > 1 and names[-1] > finished:
            # The last epoch is not finished: it probably has as many batches as the one before.
            nb_batches[-1] = max(nb_batches[-1], nb_batches[-2])
        return epochs + (batches + 1) / nb_batches[inverse]

    def seconds(self, epochs: Floats) -> Floats:
        """Return the time of the training after numbers of epochs (with parts of them), in seconds."""
        return self._cumulated([f"train_{DURATION}", f"valid_{DURATION}"], DURATION, epochs)

    def points(self, epochs: Floats) -> Floats:
        """Return the number of streamline points that the training has seen after numbers of epochs."""
        (places, speed), (others, seconds) = self._recorded(f"train_{SPEED}"), self._recorded(f"train_{DURATION}")
        common, one, two = np.intersect1d(places, others, return_indices=True)
        self._known[_POINTS] = common, speed[one] * seconds[two]
        return self._cumulated([_POINTS], None, epochs)

    def _cumulated(self, names: Sequence[str], in_batches: str | None, epochs: Floats) -> Floats:
        totals: dict[float, float] = {}
        for name in names:
            for epoch, value in zip(*self.columns(name), strict=True):
                totals[epoch] = totals.get(epoch, 0.0) + value
        last = int(max(totals, default=-1))
        usual = float(np.mean(list(totals.values()))) if totals else 0.0
        steps = [totals.get(epoch, usual) for epoch in range(last + 1)]
        places: list[float] = list(range(last + 2))
        sums: list[float] = [0.0, *np.cumsum(steps).tolist()]
        beyond = self.batch_epochs() > last + 1
        if in_batches and beyond.any() and in_batches in self.batches:
            places.append(float(self.batch_epochs()[beyond][-1]))
            sums.append(sums[-1] + float(np.nan_to_num(self.batches[in_batches][beyond][-1])))
        elif self.nb_epochs > last + 1:
            places.append(self.nb_epochs)
            sums.append(sums[-1] + usual * (self.nb_epochs - last - 1))
        found: Floats = np.interp(epochs, places, sums)
        return found

    def best(self) -> tuple[int, float] | None:
        """Return the epoch (from 0) of the best model and the value of :attr:`selection_metric`, or None.

        It is the first epoch with the best value, as in the training. Epochs in which batches were skipped are not
        candidates if the metric is a loss, since their losses are not comparable.
        """
        metric = SELECTION_VALUE if self.has_own_selection else self.selection_metric
        incomparable = {record[EPOCH] for record in self.records if not is_comparable(metric, record)}
        pairs = [pair for pair in zip(*self.series(metric), strict=True) if pair[0] not in incomparable]
        to_minimize = DIFFERENCE_FROM_BEST.get(metric, float)
        best = min(pairs, key=lambda pair: to_minimize(pair[1]), default=None)
        if best is None or not self.has_own_selection:
            return best
        shown = dict(zip(*self.series(self.selection_metric), strict=True))
        return best[0], shown.get(best[0], best[1])

    def metrics(self) -> dict[str, None]:
        """Return the names of the metrics that were computed, in the order of the log, then those of batches only."""
        return dict.fromkeys(self._table) | {
            name: None for name, column in IN_BATCHES.items() if len(self.batches.get(column, ()))
        }


def in_words(name: str) -> str:
    """Return a metric or an expression for the user: ``validation loss - training loss``."""
    expression = _EXPRESSION.fullmatch(name.strip())
    if expression:
        operation, first, second = expression.groups()
        return f"{in_words(first)} {_SIGNS[operation]} {in_words(second)}"
    words = name_of(name)
    for short, long in (("train ", "training "), ("valid ", "validation ")):
        if words.startswith(short):
            words = long + words.removeprefix(short)
    return words


def check_names(names: Iterable[str], logs: Sequence[Log], option: str) -> None:
    """Check that metrics, or those of expressions, are in the logs.

    Raises
    ------
    ValueError
        If one is in none of them, or an expression is invalid. The message lists those that exist.
    """
    known = {name: None for log in logs for name in log.metrics() if name != EPOCH}
    for name in names:
        expression = _EXPRESSION.fullmatch(name.strip())
        if expression is None and re.search(r"[()]", name) and name not in known:
            raise ValueError(
                f"{option}: '{name}' is not one of {', '.join(f'{each}(A,B)' for each in OPERATIONS)} of two metrics."
            )
        for metric in expression.groups()[1:] if expression else (name,):
            if metric not in known:
                raise ValueError(f"{option}: no log has the metric '{metric}'; there are: {quoted(known)}.")


def is_number(value: Any) -> bool:
    """Return whether a value of a log is a number."""
    return type(value) is float or type(value) is int
