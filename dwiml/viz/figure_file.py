"""Check the format of a figure before the work, and save it atomically: the file is complete or unchanged."""

from __future__ import annotations

import io
import os
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from dwiml.files import atomic_write


def check_figure_format(path: str | os.PathLike[str]) -> Path:
    """Return the path of a figure, if its extension is a format that matplotlib can write.

    Raises
    ------
    ValueError
        If matplotlib cannot write this format.
    """
    path = Path(path)
    # The format pgf requires a TeX installation.
    formats = sorted(FigureCanvasBase.get_supported_filetypes().keys() - {"pgf"})
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(f"Figure '{path}' must end in one of: {', '.join('.' + extension for extension in formats)}.")
    return path


def shorten(name: str, length: int) -> str:
    """Return a name for a figure; of one that has more than ``length`` characters, the beginning and the end."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def save_figure(figure: Figure, path: Path, *, dpi: float) -> None:
    """Write a figure in the format given by its extension, independently of the backend of matplotlib.

    Parameters
    ----------
    figure
        The figure.
    path
        File to write. An existing file is replaced.
    dpi
        Resolution, dots per inch.
    """
    # Draw first, so that an error while drawing leaves an existing file unchanged.
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower().removeprefix("."), dpi=dpi, facecolor=figure.get_facecolor())
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())
