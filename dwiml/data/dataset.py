"""The data of many subjects, in three subsets: what the HDF5 file holds, eager or lazy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import check_whole, quoted
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import FileIdentity, StoredFile, StoredGroup, open_hdf5
from dwiml.hdf5.stored.fingerprint import fingerprint_of
from dwiml.hdf5.stored.layout import checked_group, groups_config, groups_of_type, subject_lists
from dwiml.params import Parameterized
from dwiml.signals import ended_by_signals

if TYPE_CHECKING:
    import numpy.typing as npt

SUBSETS = tuple(schema.SUBJECT_LISTS)
"""``training``, ``validation``, ``testing``."""


@dataclass(frozen=True)
class SubjectData:
    """One subject's groups, by name."""

    subject_id: str
    volumes: dict[str, SubjectVolume]
    streamlines: dict[str, SubjectStreamlines]


@dataclass
class MultisubjectSubset(Sequence[SubjectData]):
    """The subjects of one subset (training, validation or testing), in the file's order.

    ``subset[i]`` is the :class:`SubjectData` of subject i; ``subset.subjects[i]`` is its name.
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
        """For each streamlines group, each subject's lengths in mm, shape (S,)."""
        return {
            group: [subject.streamlines[group].lengths_mm for subject in self.subjects_data] for group in self._groups()
        }

    @property
    def total_nb_streamlines(self) -> dict[str, int]:
        """For each streamlines group, the number of streamlines of all subjects together."""
        return {
            group: sum(len(subject.streamlines[group]) for subject in self.subjects_data) for group in self._groups()
        }

    def _groups(self) -> list[str]:
        return list(self.subjects_data[0].streamlines) if self.subjects_data else []


class MultiSubjectDataset(Parameterized):
    """An HDF5 file made by ``dwiml create_hdf5`` (or by dwi_ml), ready to be read.

    Parameters
    ----------
    hdf5_file
        The HDF5 file of all subjects.
    lazy
        Leave the data in the file: memory-mapped, read when needed. Otherwise all of it is read by
        :meth:`load_data`.
    cache_size
        How many subjects' volumes are kept on the training device at once, at least those of one batch.

    Attributes
    ----------
    volume_groups, streamline_groups : list of str
        The groups' names, those of every subject.
    nb_features : dict of int
        The number of features of each volume group.
    groups_config : dict of dict
        What the file was made from, for each group; empty where the file does not say.
    training_set, validation_set, testing_set : MultisubjectSubset
        Empty until :meth:`load_data`.
    nb_loads : int
        How often :meth:`load_data` was called: what was derived from the data before is out of date.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing, is not one of ours, or its subjects do not have the same groups.
    """

    def __init__(self, hdf5_file: str | Path, *, lazy: bool = False, cache_size: int = 1) -> None:
        self.hdf5_file = Path(hdf5_file)
        self.lazy = lazy
        self.cache_size = check_whole("cache_size", cache_size, low=1)
        with open_hdf5(self.hdf5_file) as file:
            self._read_structure(file)
        self.training_set = MultisubjectSubset("training")
        self.validation_set = MultisubjectSubset("validation")
        self.testing_set = MultisubjectSubset("testing")
        self.nb_loads = 0

    def _read_structure(self, file: StoredFile) -> None:
        subjects = {name: file.root.group(name) for names in subject_lists(file).values() for name in names}
        self.volume_groups = self._read_groups(subjects, schema.TYPE_VOLUME)
        self.streamline_groups = self._read_groups(subjects, schema.TYPE_STREAMLINES)
        self.nb_features = self._read_nb_features(subjects)
        self.groups_config = groups_config(file)
        self._identity: FileIdentity = file.identity
        # Of the file with this identity: a trainer asks several times.
        self._fingerprint: str | None = None

    @ended_by_signals(library="the data were loaded: nothing was trained yet")
    def load_data(
        self,
        load_training: bool = True,
        load_validation: bool = True,
        load_testing: bool = True,
        subj_id: str | None = None,
        volume_groups: Sequence[str] | str | None = None,
        streamline_groups: Sequence[str] | str | None = None,
    ) -> None:
        """Read the data (eager) or note where they are (lazy).

        Parameters
        ----------
        load_training, load_validation, load_testing
            Which subsets; the others stay empty.
        subj_id
            Only this subject, in whichever of the subsets it is.
        volume_groups, streamline_groups
            Only these groups, or this one; None for all.

        Raises
        ------
        ValueError
            When a group or the subject does not exist, or something is damaged or implausible: see the page
            "Making the HDF5 file" for what is checked when. The sentence names the subject and the group.
        """
        wanted = {"training": load_training, "validation": load_validation, "testing": load_testing}
        self.nb_loads += 1
        with open_hdf5(self.hdf5_file) as file:
            if file.identity != self._identity:
                self._read_structure(file)
            volume_groups = self._check_names("Volume", volume_groups, self.volume_groups)
            streamline_groups = self._check_names("Streamlines", streamline_groups, self.streamline_groups)
            lists = {name: subjects for name, subjects in subject_lists(file).items() if wanted[name]}
            if subj_id is not None:
                known = [subject for subjects in lists.values() for subject in subjects]
                if subj_id not in known:
                    raise ValueError(f"Subject '{subj_id}' not found in {self.hdf5_file}; it has: {quoted(known)}.")
                lists = {name: [subj_id] if subj_id in subjects else [] for name, subjects in lists.items()}
            for name, subjects in lists.items():
                data = [
                    self._load_subject(file.root.group(subject), volume_groups, streamline_groups)
                    for subject in subjects
                ]
                setattr(self, f"{name}_set", MultisubjectSubset(name, data, loaded=True))

    def subset(self, phase: str) -> MultisubjectSubset:
        """Return the subset by its name: ``training``, ``validation`` or ``testing``."""
        subset: MultisubjectSubset = getattr(self, f"{phase}_set")
        return subset

    def check_volume_group(self, group: str) -> None:
        """Raise the sentence that names the volume groups that exist, when ``group`` is not one of them."""
        self._check_names("Volume", [group], self.volume_groups)

    def check_streamline_group(self, group: str) -> None:
        """Raise the sentence that names the streamlines groups that exist, when ``group`` is not one of them."""
        self._check_names("Streamlines", [group], self.streamline_groups)

    def fingerprint(self) -> str:
        """Return the fingerprint of the file, by which two files hold the same data: the same for a copy.

        See :func:`dwiml.hdf5.stored.fingerprint.fingerprint_of` for what it covers.

        Raises
        ------
        ValueError
            When the file is no longer the one that was loaded.
        """
        self._identity.check(self.hdf5_file)
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.hdf5_file)
        return self._fingerprint

    def _load_subject(self, subject: StoredGroup, volumes: Sequence[str], streamlines: Sequence[str]) -> SubjectData:
        return SubjectData(
            subject_id=subject.name,
            volumes={group: SubjectVolume(subject, group, lazy=self.lazy) for group in volumes},
            streamlines={group: SubjectStreamlines(subject, group, lazy=self.lazy) for group in streamlines},
        )

    def _check_names(self, kind: str, asked: Sequence[str] | str | None, known: list[str]) -> list[str]:
        if asked is None:
            return known
        asked = [asked] if isinstance(asked, str) else asked
        for name in asked:
            if name not in known:
                raise ValueError(f"{kind} group '{name}' not found in {self.hdf5_file}; it has: {quoted(known)}.")
        return list(asked)

    def _read_groups(self, subjects: Mapping[str, StoredGroup], group_type: str) -> list[str]:
        groups = {name: groups_of_type(subject, group_type) for name, subject in subjects.items()}
        first = next(iter(subjects), None)
        for name, found in groups.items():
            if found != groups[first or name]:
                raise ValueError(
                    f"'{self.hdf5_file}': subject '{name}' has the {group_type} groups {quoted(found)}, "
                    f"subject '{first}' has {quoted(groups[first or name])}; all must have the same."
                )
        return groups[first] if first is not None else []

    def _read_nb_features(self, subjects: Mapping[str, StoredGroup]) -> dict[str, int]:
        nb_features: dict[str, int] = {}
        for name, subject in subjects.items():
            for group in self.volume_groups:
                # Its digest is compared when it is loaded.
                node = checked_group(subject, group, [schema.DATA], [], verify=False)
                shape = node.dataset(schema.DATA).shape
                found = shape[-1] if shape else 0
                expected = nb_features.setdefault(group, found)
                if found != expected:
                    raise ValueError(
                        f"'{self.hdf5_file}': volume group '{group}' has {found} features for subject '{name}' and "
                        f"{expected} for the subjects before it; all must have the same number."
                    )
        return nb_features
