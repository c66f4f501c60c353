"""Find and name the input files of commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwiml.data.dataset import MultiSubjectDataset


def experiment_files(experiment: str, hdf5_file: str | None = None) -> list[Path]:
    """Return the HDF5 files of an experiment: those of `hdf5_file` (a file or a folder), or else the recorded ones.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder is not an experiment folder, or `hdf5_file` is a folder without HDF5 files.
    """
    from dwiml.hdf5.stored.collection import files_of
    from dwiml.training.experiment.parameters import recorded_files
    from dwiml.training.loading import recorded_parameters

    return files_of(hdf5_file) if hdf5_file else recorded_files(recorded_parameters(experiment))


def check_subset(subset: str | None) -> None:
    """Raise ValueError if the value of --subset is neither a subset nor None."""
    from dwiml.arguments import check_choice
    from dwiml.data.dataset import SUBSETS

    if subset is not None:
        check_choice("--subset", subset, SUBSETS)


def find_subject(dataset: MultiSubjectDataset, subject: str, subset: str | None = None) -> tuple[str, int]:
    """Return the subset of a subject, and its index in it.

    Parameters
    ----------
    dataset
        The dataset, with all subsets loaded.
    subject
        Name of the subject.
    subset
        The subset to look in; None for all.

    Raises
    ------
    ValueError
        If there is no such subset, or the subject is not in it.
    """
    from dwiml.data.dataset import SUBSETS

    check_subset(subset)
    phases = SUBSETS if subset is None else (subset,)
    for phase in phases:
        if subject in dataset.subset(phase).subjects:
            return phase, dataset.subset(phase).subjects.index(subject)
    known = "; ".join(f"{phase}: {', '.join(dataset.subset(phase).subjects) or 'none'}" for phase in phases)
    raise ValueError(f"Subject '{subject}' not found in {dataset.files_shown}; it has: {known}.")


def refuse_repeated(tractograms: Sequence[str]) -> None:
    """Refuse a tractogram that is given twice; symbolic and hard links are resolved.

    Raises
    ------
    ValueError
        If a tractogram is given twice.
    """
    from dwiml.files import identity_of

    first: dict[object, Path] = {}
    for path in map(Path, tractograms):
        identity = identity_of(path) or os.path.realpath(path)
        if identity in first:
            also = "" if first[identity] == path else f" (also as '{path}')"
            raise ValueError(f"The tractogram '{first[identity]}' is given twice{also}; give it once.")
        first[identity] = path


def short_names(tractograms: Sequence[str]) -> dict[str, Path]:
    """Return {name: path}, with the shortest names that differ: without extension, with it, or with parent folders.

    Raises
    ------
    ValueError
        If a tractogram is given twice, also under two names.
    """
    refuse_repeated(tractograms)
    paths = [Path(tractogram) for tractogram in tractograms]
    full_paths = [Path(os.path.abspath(path)) for path in paths]
    for depth in range(1, 1 + max(len(full.parts) for full in full_paths)):
        for candidates in ([full.with_suffix("") for full in full_paths], full_paths):
            # Without the root, because a name may be used as a folder inside another one.
            names = [str(Path(*candidate.parts[1:][-depth:])) for candidate in candidates]
            if len(set(names)) == len(names):
                return dict(zip(names, paths, strict=True))
    raise AssertionError("Different files have different full paths.")
