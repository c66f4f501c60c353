"""Saving a figure: what is wrong with its name is said before the work, and it is written whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from dwiml.files import atomic_write, check_target


def check_figure_format(path: str | os.PathLike[str]) -> Path:
    """Return the path of a figure whose extension is a format that matplotlib writes.

    Raises
    ------
    ValueError
        For another one.
    """
    path = Path(path)
    # A .pgf needs TeX.
    formats = sorted(FigureCanvasBase.get_supported_filetypes().keys() - {"pgf"})
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(f"Figure '{path}' must end in one of: {', '.join('.' + each for each in formats)}.")
    return path


def check_figure_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return the path of a figure that can be written.

    Raises
    ------
    ValueError, OSError
        For a format that matplotlib cannot write, and as :func:`dwiml.files.check_target`: a folder that does not
        exist, a file that does.
    """
    path = check_figure_format(path)
    check_target(path, "Figure", overwrite=overwrite)
    return path


def save_figure(figure: Figure, path: Path, *, dpi: float) -> None:
    """Write a figure in the format that its name ends in, whatever window or notebook matplotlib is set to."""
    # Drawn before the file is touched.
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lower().removeprefix("."), dpi=dpi, facecolor=figure.get_facecolor())
    with atomic_write(path) as stream:
        stream.write(drawn.getvalue())
