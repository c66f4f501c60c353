"""What of the logs is drawn, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dwiml.arguments import check_choice, check_whole, counted, shown
from dwiml.training.reporting.metrics import VALID_LOSS
from dwiml.viz.curves.log import IN_BATCHES, Floats, Log, check_names, in_words
from dwiml.viz.curves.panels import Line, Panel, Style, choose_panels

X_AXES = ("epoch", "time", "points")
_STYLES: tuple[Style, ...] = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """What of the logs is drawn, and how; see :func:`dwiml.visualize_logs`.

    Raises
    ------
    ValueError, TypeError
        If a value is invalid. Names are checked with the logs (:meth:`choose`).
    """

    panels: Sequence[str] = ()
    graphs: Sequence[Sequence[str]] = ()
    epochs: str = ":"
    per_batch: bool = False
    smooth: int = 1
    ylim: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    log_scale: Sequence[str] = ()
    linear_scale: Sequence[str] = ()
    remove_outliers: bool = False
    x: str = "epoch"
    figsize: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("panels", "graphs", "log_scale", "linear_scale"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("x", self.x, X_AXES)
        check_whole("smooth", self.smooth, low=1)
        _ = self.epoch_range
        for name, limits in self.ylim.items():
            if len(limits) != 2 or not limits[0] < limits[1]:
                raise ValueError(f"ylim of '{name}' must be two numbers, the lower one first, got {shown(limits)}.")
        if self.figsize is not None and not (len(self.figsize) == 2 and all(1 <= size <= 100 for size in self.figsize)):
            raise ValueError(
                f"figsize must be a width and a height in inches, from 1 to 100, got {shown(self.figsize)}."
            )
        for graph in self.graphs:
            if not 2 <= len(graph) <= 1 + len(_STYLES):
                raise ValueError(
                    f"A graph needs a title and one to {len(_STYLES)} metrics or expressions, got {shown(list(graph))}."
                )

    @property
    def epoch_range(self) -> tuple[int, int | None]:
        """The first epoch and the one after the last; None: all further ones."""
        found = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", self.epochs)
        if found is None:
            raise ValueError(f"epochs must be FIRST:END, such as '2:' or '0:10', got {shown(self.epochs)}.")
        first, end = int(found[1] or 0), int(found[2]) if found[2] else None
        if end is not None and end <= first:
            raise ValueError(f"epochs must be FIRST:END with an END after FIRST, got {shown(self.epochs)}.")
        return first, end

    @property
    def counts_done(self) -> bool:
        """Whether the x axis is what was done, and not the index of the epoch."""
        return self.per_batch or self.x != "epoch"

    def check_epochs(self, logs: Sequence[Log]) -> None:
        """Raise ValueError if no log has one of the epochs to draw."""
        first, _ = self.epoch_range
        most = max((log.nb_epochs for log in logs), default=0.0)
        if first and first >= most:
            raise ValueError(
                f"No epoch of '{self.epochs}' is finished: there are {counted(int(most), 'epoch')}, counted from 0."
            )

    def choose(self, logs: Sequence[Log]) -> list[Panel]:
        """Return the panels to draw.

        Raises
        ------
        ValueError
            If a panel or a metric does not exist, or a logarithmic scale is impossible.
        """
        known = {panel.key: panel for panel in choose_panels(logs)}
        if self.per_batch:
            known = {key: of_batches for key, panel in known.items() if (of_batches := _of_batches(panel)) is not None}
        for option, keys in (
            ("panels", self.panels),
            ("ylim", [key for key in self.ylim if key not in {graph[0] for graph in self.graphs}]),
            ("log_scale", [key for key in self.log_scale if key not in {graph[0] for graph in self.graphs}]),
            ("linear_scale", [key for key in self.linear_scale if key not in {graph[0] for graph in self.graphs}]),
        ):
            for key in keys:
                if key not in known:
                    raise ValueError(f"Unknown panel '{key}' in {option}; choose among: {', '.join(known)}.")
        wanted = [known[key] for key in self.panels] if self.panels or self.graphs else list(known.values())
        for title, *names in self.graphs:
            check_names(names, logs, f"graph '{title}'")
            lines = tuple(Line(name, in_words(name), style) for name, style in zip(names, _STYLES, strict=False))
            wanted.append(Panel(title, title, lines))
        self._check_scales(wanted, logs)
        return wanted

    def _drawn(self, log: Log, metric: str) -> Floats:
        """Return the values of a metric in the chosen epochs."""
        first, end = self.epoch_range
        epochs, values = log.columns(metric)
        return values[(epochs >= first) & (epochs < (np.inf if end is None else end))]

    def _check_scales(self, panels: Sequence[Panel], logs: Sequence[Log]) -> None:
        for key in self.log_scale:
            if key in self.linear_scale:
                raise ValueError(f"Panel '{key}' is both in log_scale and in linear_scale; remove it from one of them.")
            if key in self.ylim and self.ylim[key][0] <= 0:
                raise ValueError(
                    f"Panel '{key}' cannot have a logarithmic scale from {self.ylim[key][0]:g}: give another ylim."
                )
            for line in [line for panel in panels if panel.key == key for line in panel.lines]:
                if any((self._drawn(log, line.metric) <= 0).any() for log in logs):
                    raise ValueError(
                        f"'{line.metric}' has values that are not positive: it cannot have a logarithmic scale."
                    )


def _of_batches(panel: Panel) -> Panel | None:
    """Return a panel with the metrics that batches have, and the validation loss; None if there are none."""
    lines = tuple(line for line in panel.lines if line.metric in (*IN_BATCHES, VALID_LOSS))
    return replace(panel, lines=lines) if any(line.metric in IN_BATCHES for line in lines) else None
