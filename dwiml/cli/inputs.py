"""Find and name the input files of commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def experiment_hdf5_file(experiment: str, hdf5_file: str | None = None) -> str | None:
    """Return the HDF5 file of an experiment: `hdf5_file` if given, or else the recorded one; None if it is invalid.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder is not an experiment folder.
    """
    from dwiml.training.loading import recorded_parameters

    path = hdf5_file or recorded_parameters(experiment)["data"]["hdf5_file"]
    return path if isinstance(path, str) else None


def short_names(tractograms: Sequence[str]) -> dict[str, Path]:
    """Return {name: path}, with the shortest names that differ: without extension, with it, or with parent folders.

    Raises
    ------
    ValueError
        If a tractogram is given twice.
    """
    paths = [Path(tractogram) for tractogram in tractograms]
    full_paths = [Path(os.path.abspath(path)) for path in paths]
    for path, full in zip(paths, full_paths, strict=True):
        if full_paths.count(full) > 1:
            raise ValueError(f"The tractogram '{path}' is given twice; give it once.")
    for depth in range(1, 1 + max(len(full.parts) for full in full_paths)):
        for candidates in ([full.with_suffix("") for full in full_paths], full_paths):
            # Without the root, because a name may be used as a folder inside another one.
            names = [str(Path(*candidate.parts[1:][-depth:])) for candidate in candidates]
            if len(set(names)) == len(names):
                return dict(zip(names, paths, strict=True))
    raise AssertionError("Different files have different full paths.")
