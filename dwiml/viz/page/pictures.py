"""Pictures of streamlines for a report."""

from __future__ import annotations

import io
from pathlib import Path

from dwiml.arguments import grouped
from dwiml.tractograms.reading import open_tractogram
from dwiml.viz.page.html import Picture
from dwiml.viz.pieces import DIRECTION, DrawnTractogram
from dwiml.viz.slices import Background
from dwiml.viz.tractograms import plot_tractograms

_MOST_STREAMLINES = 1500
_DPI = 80
LOSS = "loss"


def picture_of(path: Path, background: Background | None) -> Picture:
    """Return a picture of a tractogram from three sides.

    Parameters
    ----------
    path
        The tractogram; at most 1500 of its streamlines are drawn.
    background
        The image behind the streamlines; None for black.

    Raises
    ------
    FileNotFoundError, ValueError
        See :meth:`DrawnTractogram.from_file` and :func:`~dwiml.viz.tractograms.plot_tractograms`.
    """
    color = LOSS if LOSS in open_tractogram(path).overview().per_point else DIRECTION
    drawn = DrawnTractogram.from_file(path, color=color, max_streamlines=_MOST_STREAMLINES)
    figure = plot_tractograms([drawn], background=background, color=color)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor=figure.get_facecolor())
    nb = len(drawn.lengths) if drawn.nb_in_file is None else drawn.nb_in_file
    by = "colored by the loss" if color == LOSS else "colored by direction"
    return Picture(f"{path.name}: {grouped(nb)} streamlines, {by}", buffer.getvalue())
