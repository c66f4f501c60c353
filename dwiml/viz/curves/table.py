"""Write the values of curves as a table, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from dwiml.files import atomic_write
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.options import CurveOptions
from dwiml.viz.curves.panels import Panel
from dwiml.viz.curves.series import points_of

COLUMNS = ("experiment", "panel", "metric", "epochs_done", "x", "value")


def write_table(path: Path, logs: Sequence[Log], panels: Sequence[Panel], options: CurveOptions) -> None:
    """Write the values that a figure shows, one in each row, without smoothing (CSV, RFC 4180).

    Parameters
    ----------
    path
        File to write. An existing file is replaced.
    logs, panels, options
        As in :func:`~dwiml.viz.curves.drawing.draw_curves`.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for log in logs:
        for panel in panels:
            for line in panel.lines:
                x, values, done = points_of(log, line.metric, options)
                for row in zip(done.tolist(), x.tolist(), values.tolist(), strict=True):
                    writer.writerow([log.label, panel.key, line.metric, *row])
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())
