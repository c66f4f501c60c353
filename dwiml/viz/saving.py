"""Saving a figure: what is wrong with its name is said before the work, and it is written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from dwiml.files import written_whole


def check_figure_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return the path of a figure that can be written.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError
        For a format that matplotlib cannot write, a folder that does not exist, a file that does.
    """
    path = Path(path)
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(f"Figure '{path}' must end in one of: {', '.join('.' + each for each in formats)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Folder '{path.parent}' of the figure does not exist.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists already; use -f (in Python: overwrite=True) to replace it.")
    return path


def save_figure(figure: Figure, path: Path, *, dpi: float) -> None:
    """Write a figure in the format that its name ends in."""
    # Drawn before the file is touched.
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lower().removeprefix("."), dpi=dpi, facecolor=figure.get_facecolor())
    with written_whole(path) as stream:
        stream.write(drawn.getvalue())
