"""The files that a command is given, and those that it reads without being given their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def data_of(experiment: str, hdf5_file: str | None = None) -> str | None:
    """Return the HDF5 file of an experiment: the one given, or the one recorded; None where that is damaged.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is not an experiment.
    """
    from dwiml.training.loading import recorded_parameters

    path = hdf5_file or recorded_parameters(experiment)["data"]["hdf5_file"]
    return path if isinstance(path, str) else None


def names_of(tractograms: Sequence[str]) -> dict[str, Path]:
    """Return the files by name: without extension, with it, or with folders above, the shortest by which they differ.

    Raises
    ------
    ValueError
        When one is given twice.
    """
    paths = [Path(each) for each in tractograms]
    full = [Path(os.path.abspath(path)) for path in paths]
    for path, each in zip(paths, full, strict=True):
        if full.count(each) > 1:
            raise ValueError(f"The tractogram '{path}' is given twice; give it once.")
    for depth in range(1, 1 + max(len(each.parts) for each in full)):
        for candidates in ([each.with_suffix("") for each in full], full):
            # A name may become a folder's, and leads nowhere else: without the root.
            names = [str(Path(*each.parts[1:][-depth:])) for each in candidates]
            if len(set(names)) == len(names):
                return dict(zip(names, paths, strict=True))
    raise AssertionError("Files that differ differ by their full names.")
