"""Find the subjects of a dataset, and the sets that they are in, as the arguments of ``create_hdf5`` say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dwiml.hdf5.config import GroupsConfig
from dwiml.hdf5.inputs.subjects import SubjectList, folders_of_subjects, read_subject_lists
from dwiml.hdf5.layouts.finding import find_subjects, with_files
from dwiml.hdf5.layouts.layout import FOLDERS, Layout
from dwiml.hdf5.layouts.sets import (
    LISTS,
    ChosenSubjects,
    by_folders,
    by_fractions,
    by_lists,
    by_participants,
    table_of_participants,
)


def choose_subjects(
    root: Path,
    layout: Layout | None,
    groups: GroupsConfig,
    lists: Mapping[str, SubjectList],
    *,
    split: Sequence[float] | None = None,
    split_seed: int = 0,
    may_lack_training: bool = False,
    may_lack_folders: bool = False,
) -> ChosenSubjects:
    """Return the subjects of each set, with their folders.

    The sets are those of the lists; without lists, those of `split`; without either, those of the layout: of the
    folders that the subjects are in, or of a table of the participants.

    Parameters
    ----------
    root
        The folder of the dataset.
    layout
        Its layout; None for one folder for each subject.
    groups
        The groups of the HDF5 file. Without lists, a folder that has no file of any group is left out.
    lists
        {"training": ..., "validation": ..., "testing": ...}; see
        :func:`dwiml.hdf5.inputs.subjects.read_subject_lists`.
    split, split_seed
        See :func:`dwiml.hdf5.layouts.sets.by_fractions`; None for no split by fractions.
    may_lack_training
        Whether there may be no training subject, but only others (not with `split`).
    may_lack_folders
        Whether lists may name subjects that have no folder.

    Raises
    ------
    FileNotFoundError
        If a folder or a file is missing.
    ValueError
        If the lists, the fractions or the table are invalid, or nothing says which subjects are in which set.
    """
    lists = {name: each if isinstance(each, (str, os.PathLike)) else list(each) for name, each in lists.items()}
    has_lists = any(isinstance(each, (str, os.PathLike)) or each for each in lists.values())
    if has_lists and split is not None:
        raise ValueError("Give either lists of subjects or fractions (split=(0.8, 0.1, 0.1)), not both.")
    if layout is None and split is None:
        subjects = read_subject_lists(lists, may_lack=may_lack_training)
        names = [name for listed in subjects.values() for name in listed]
        folders = folders_of_subjects(root, names, may_lack=may_lack_folders)
        return ChosenSubjects(subjects, folders, LISTS)
    layout = layout or FOLDERS
    found = find_subjects(root, layout)
    if has_lists:
        return by_lists(
            found, lists, may_lack_training=may_lack_training, missing_in=root if may_lack_folders else None
        )
    found = with_files(found, groups)
    if split is not None:
        return by_fractions(found, split, split_seed)
    if layout.sets:
        return by_folders(found, layout.sets, may_lack_training=may_lack_training)
    table = table_of_participants(root, layout.participants)
    chosen = None if table is None else by_participants(found, table, may_lack_training=may_lack_training)
    if chosen is None:
        why = f"'{table}' has no column 'split' or 'set'" if table is not None else f"{len(found)} subjects were found"
        raise ValueError(
            f"{layout.name} does not say which subjects are for training ({why}); give lists of subjects, or the "
            "fractions of a random split, for instance split=(0.8, 0.1, 0.1)."
        )
    return chosen
