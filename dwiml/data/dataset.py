"""The data of many subjects in three subsets, read from the HDF5 file into memory or lazily."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import check_whole, counted, quoted, shown
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.hdf5 import schema
from dwiml.hdf5.directions.recorded import check_same_directions
from dwiml.hdf5.stored import StoredGroup, open_hdf5
from dwiml.hdf5.stored.collection import Structure, files_of, files_shown, read_structure
from dwiml.hdf5.stored.fingerprint import fingerprint_of
from dwiml.hdf5.stored.provenance import read_provenance
from dwiml.params import Parameterized, checks_arguments
from dwiml.signals import ended_by_signals

if TYPE_CHECKING:
    import numpy.typing as npt

SUBSETS = tuple(schema.SUBJECT_LISTS)
"""``training``, ``validation``, ``testing``."""


def not_loaded(group: str) -> ValueError:
    """Return the error for a group of the file that was not loaded; `group` names it: ``Volume group 'input'``."""
    return ValueError(f"{group} was not loaded; give it to dataset.load_data().")


def check_phase(phase: str) -> str:
    """Check that a subset of this name exists, and return the name.

    Raises
    ------
    ValueError
        If there is no such subset.
    """
    if phase not in SUBSETS:
        raise ValueError(f"phase must be one of {SUBSETS}, got {shown(phase)}.")
    return phase


def check_subject(subject: Any, nb_subjects: int, phase: str) -> int:
    """Check that the index of a subject of a batch exists, and return it.

    Parameters
    ----------
    subject
        A Python or NumPy integer, from 0: with a negative one, a batch could have the same subject twice.
    nb_subjects
        Number of subjects of the subset.
    phase
        Name of the subset, for the error message.

    Raises
    ------
    TypeError
        If it is not an integer.
    IndexError
        If there is no such subject.
    """
    if not isinstance(subject, (int, np.integer)) or isinstance(subject, bool):
        raise TypeError(
            f"A subject of a batch must be a whole number, its index in the {phase} set, got {shown(subject)}."
        )
    if not 0 <= subject < nb_subjects:
        raise IndexError(
            f"Subject {shown(subject)} of a batch does not exist: the {phase} set has "
            f"{counted(nb_subjects, 'subject')}, numbered from 0."
        )
    return int(subject)


@dataclass(frozen=True, repr=False)
class SubjectData:
    """The data of one subject.

    Attributes
    ----------
    subject_id
        The subject's name.
    volumes, streamlines
        {name of the group: its data}.
    """

    subject_id: str
    volumes: dict[str, SubjectVolume]
    streamlines: dict[str, SubjectStreamlines]

    def __repr__(self) -> str:
        volumes = ", ".join(f"{group} {volume.shape}" for group, volume in self.volumes.items()) or "none"
        lines = ", ".join(f"{group} ({len(lines)})" for group, lines in self.streamlines.items()) or "none"
        return f"SubjectData('{self.subject_id}', volumes: {volumes}; streamlines: {lines})"


@checks_arguments
@dataclass(repr=False)
class MultisubjectSubset(Sequence[SubjectData]):
    """The subjects of one subset (training, validation or testing), in the order of the file.

    ``subset[i]`` is the :class:`SubjectData` of subject i; ``subset.subjects[i]`` is its name.

    Attributes
    ----------
    name
        ``"training"``, ``"validation"`` or ``"testing"``.
    subjects_data
        The data of each subject.
    loaded
        Whether :meth:`MultiSubjectDataset.load_data` loaded this subset.
    """

    name: str
    subjects_data: list[SubjectData] = field(default_factory=list)
    loaded: bool = False

    def __len__(self) -> int:
        return len(self.subjects_data)

    def __iter__(self) -> Iterator[SubjectData]:
        return iter(self.subjects_data)

    def __getitem__(self, index: Any) -> Any:
        return self.subjects_data[index]

    def __repr__(self) -> str:
        return f"MultisubjectSubset({self._content()})"

    def _content(self) -> str:
        if not self.loaded and not self.subjects_data:
            return f"{self.name}: not loaded"
        names = f" ({quoted(self.subjects, 5)})" if self.subjects_data else ""
        counts = "".join(f"; {group}: {counted(nb, 'streamline')}" for group, nb in self.total_nb_streamlines.items())
        return f"{self.name}: {counted(len(self), 'subject')}{names}{counts}"

    def data_of(self, subject: int) -> SubjectData:
        """Return the data of a subject of a batch, by its index from 0.

        Raises
        ------
        IndexError
            If there is no such subject. Unlike in ``subset[index]``, a negative index is one of them.
        """
        return self.subjects_data[check_subject(subject, len(self), self.name)]

    @property
    def subjects(self) -> list[str]:
        """The subjects' names."""
        return [subject.subject_id for subject in self.subjects_data]

    @property
    def nb_subjects(self) -> int:
        """The number of subjects."""
        return len(self)

    @property
    def streamline_lengths_mm(self) -> dict[str, list[npt.NDArray[np.float32]]]:
        """{streamlines group: length of each streamline in mm, shape (S,), float32, for each subject}."""
        return {
            group: [subject.streamlines[group].lengths_mm for subject in self.subjects_data] for group in self._groups()
        }

    @property
    def total_nb_streamlines(self) -> dict[str, int]:
        """{streamlines group: total number of streamlines of all subjects}."""
        return {
            group: sum(len(subject.streamlines[group]) for subject in self.subjects_data) for group in self._groups()
        }

    def _groups(self) -> list[str]:
        return list(self.subjects_data[0].streamlines) if self.subjects_data else []


class MultiSubjectDataset(Parameterized):
    """The volumes and streamlines of many subjects, in HDF5 files created by ``dwiml create_hdf5`` or by dwi_ml.

    Parameters
    ----------
    hdf5_file
        The HDF5 file with the data of all subjects, or a folder of such files. A folder stands for its files ``*.hdf5``
        in the order of their names. A list of files is united in its order. The subjects of all files are one data set;
        they must have the same groups, features, resampling and standardization.
    lazy
        Leave the data in the file and read them when they are needed, through a memory map. By default,
        :meth:`load_data` reads all data into memory.
    cache_size
        Number of subjects whose volumes are kept on the training device at the same time (at least those of one batch).

    Attributes
    ----------
    hdf5_files : list of Path
        The HDF5 files, in order.
    volume_groups, streamline_groups : list of str
        Names of the groups, which are the same for all subjects.
    nb_features : dict of int
        The number of features of each volume group.
    groups_config : dict of dict
        The groups config that the (first) file was created from; empty if it is not recorded. See
        :func:`dwiml.hdf5.stored.provenance.recorded_config`.
    training_set, validation_set, testing_set : MultisubjectSubset
        The three subsets; empty until :meth:`load_data` is called.
    nb_loads : int
        Number of calls to :meth:`load_data`; anything derived from the data is outdated when it changes.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or does not have the expected layout, its subjects do not have the same groups, their
        directional features do not have the same convention (:mod:`dwiml.ops.axes.conventions`), or the files do not
        fit together. The message names the files.
    """

    def __init__(
        self,
        hdf5_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        lazy: bool = False,
        cache_size: int = 1,
    ) -> None:
        self.hdf5_files = files_of(hdf5_file)
        self.lazy = lazy
        self.cache_size = check_whole("cache_size", cache_size, low=1)
        self._adopt(read_structure(self.hdf5_files))
        self.training_set = MultisubjectSubset("training")
        self.validation_set = MultisubjectSubset("validation")
        self.testing_set = MultisubjectSubset("testing")
        self.nb_loads = 0

    @property
    def hdf5_file(self) -> Path | list[Path]:
        """The HDF5 file, or the list of them if there are several."""
        return self.hdf5_files[0] if len(self.hdf5_files) == 1 else list(self.hdf5_files)

    @property
    def files_shown(self) -> str:
        """The files for a message: the name of the first one, and the number of the others."""
        return files_shown(self.hdf5_files)

    def _adopt(self, structure: Structure) -> None:
        for group in structure.volume_groups:
            check_same_directions(structure.directions[group], group)
        self._structure = structure
        self.volume_groups = structure.volume_groups
        self.streamline_groups = structure.streamline_groups
        self.nb_features = structure.nb_features
        self.groups_config = structure.groups_config
        # Cached for these versions of the files, because a trainer needs it several times.
        self._fingerprint: str | None = None

    @checks_arguments
    @ended_by_signals(activity="loading the data; nothing was trained yet")
    def load_data(
        self,
        load_training: bool = True,
        load_validation: bool = True,
        load_testing: bool = True,
        subj_id: str | None = None,
        volume_groups: Sequence[str] | str | None = None,
        streamline_groups: Sequence[str] | str | None = None,
    ) -> None:
        """Read the data into memory, or only their location in the file if the dataset is lazy.

        Parameters
        ----------
        load_training, load_validation, load_testing
            Which subsets to load; the others are empty.
        subj_id
            Load only this subject, in any of these subsets.
        volume_groups, streamline_groups
            Load only these groups (a name or several); None for all.

        Raises
        ------
        ValueError
            If a group or the subject does not exist, or data are damaged or implausible. The message names the subject
            and the group. The page "Creating the HDF5 file" lists all checks.
        """
        wanted = {"training": load_training, "validation": load_validation, "testing": load_testing}
        self.nb_loads += 1
        if not self._structure.is_current:
            self._adopt(read_structure(self.hdf5_files))
        volume_groups = self._check_names("Volume", volume_groups, self.volume_groups)
        streamline_groups = self._check_names("Streamlines", streamline_groups, self.streamline_groups)
        if subj_id is not None:
            listed = [lists[name] for name in wanted if wanted[name] for lists in self._structure.subjects]
            known = [subject for subjects in listed for subject in subjects]
            if subj_id not in known:
                raise ValueError(f"Subject '{subj_id}' not found in {self.files_shown}; it has: {quoted(known)}.")
        data: dict[str, list[SubjectData]] = {name: [] for name in wanted if wanted[name]}
        for place in range(len(self.hdf5_files)):
            chosen = {
                subject: name
                for name in data
                for subject in self._structure.subjects[place][name]
                if subj_id in (None, subject)
            }
            for loaded in self._load_file(place, list(chosen), volume_groups, streamline_groups):
                data[chosen[loaded.subject_id]].append(loaded)
        for name, subjects in data.items():
            setattr(self, f"{name}_set", MultisubjectSubset(name, subjects, loaded=True))

    def __repr__(self) -> str:
        volumes = ", ".join(f"{group} ({counted(nb, 'feature')})" for group, nb in self.nb_features.items()) or "none"
        groups = f"volumes: {volumes}; streamlines: {', '.join(self.streamline_groups) or 'none'}"
        sets = [self.subset(name)._content() for name in SUBSETS] if self.nb_loads else ["not loaded: call load_data()"]
        files = quoted(self.hdf5_file if isinstance(self.hdf5_file, list) else [self.hdf5_file], 2)
        return "\n  ".join([f"MultiSubjectDataset({files}, lazy={self.lazy})", groups, *sets])

    def subset(self, phase: str) -> MultisubjectSubset:
        """Return a subset by its name: ``"training"``, ``"validation"`` or ``"testing"``.

        Raises
        ------
        ValueError
            If there is no such subset.
        """
        subset: MultisubjectSubset = getattr(self, f"{check_phase(phase)}_set")
        return subset

    def check_volume_group(self, group: str) -> None:
        """Check that a volume group exists.

        Raises
        ------
        ValueError
            If it does not. The message lists the existing volume groups.
        """
        self._check_names("Volume", [group], self.volume_groups)

    def check_streamline_group(self, group: str) -> None:
        """Check that a streamlines group exists.

        Raises
        ------
        ValueError
            If it does not. The message lists the existing streamlines groups.
        """
        self._check_names("Streamlines", [group], self.streamline_groups)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the (first) file was created, from what: see :func:`~dwiml.hdf5.stored.provenance.read_provenance`."""
        found = [read_provenance(path) for path in self.hdf5_files]
        return {**found[0], "subjects": {name: groups for each in found for name, groups in each["subjects"].items()}}

    def fingerprint(self) -> str:
        """Return the fingerprint of the data, which is the same for the same subjects in one file or in several.

        See :func:`dwiml.hdf5.stored.fingerprint.fingerprint_of` for what it covers.

        Raises
        ------
        ValueError
            If a file is no longer the one that was loaded.
        """
        self._structure.check_files()
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(*self.hdf5_files)
        return self._fingerprint

    def _load_file(
        self, place: int, subjects: Sequence[str], volumes: Sequence[str], streamlines: Sequence[str]
    ) -> Iterator[SubjectData]:
        """Yield the data of some subjects of one of the files."""
        if not subjects:
            return
        path = self.hdf5_files[place]
        with open_hdf5(path) as file:
            if file.identity != self._structure.identities[place]:
                self._structure.identities[place].check(path)
            for name in subjects:
                yield self._load_subject(file.root.group(name), volumes, streamlines)

    def _load_subject(self, subject: StoredGroup, volumes: Sequence[str], streamlines: Sequence[str]) -> SubjectData:
        return SubjectData(
            subject_id=subject.name,
            volumes={group: SubjectVolume(subject, group, lazy=self.lazy) for group in volumes},
            streamlines={group: SubjectStreamlines(subject, group, lazy=self.lazy) for group in streamlines},
        )

    def _check_names(self, kind: str, requested: Sequence[str] | str | None, known: list[str]) -> list[str]:
        if requested is None:
            return known
        requested = [requested] if isinstance(requested, str) else requested
        for name in requested:
            if name not in known:
                raise ValueError(f"{kind} group '{name}' not found in {self.files_shown}; it has: {quoted(known)}.")
        return list(requested)
