"""A finished HDF5 file to which subjects are added: what it holds, and whether the new subjects agree with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from dwiml.arguments import quoted
from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.inputs.inspection import SubjectPlan
from dwiml.hdf5.stored import StoredFile, open_hdf5
from dwiml.hdf5.stored.digests import digest_of_group
from dwiml.hdf5.stored.identity import FileIdentity
from dwiml.hdf5.stored.layout import subject_lists

# Root attributes that may differ between the file and a new creation.
_MAY_DIFFER = (
    *schema.SUBJECT_LISTS.values(),
    schema.CHOSEN_SUBJS,
    schema.DATE_AND_TIME,
    schema.DIGEST,
    schema.GROUPS_FILES,
    schema.GROUPS_CONFIG,
    schema.PROVENANCE,
)
# Options that are part of the provenance, and that must not differ.
_SAME_OPTIONS = ("remove_invalid", "allow_missing")
_ADVICE = "give the same config and options as for the file, or create another file"


class FinishedFile:
    """A file that was created by ``dwiml create_hdf5``, and whose links and digests of groups are checked.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    subjects
        {subset: its subjects}.
    nb_bytes
        Size of the file, in bytes.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ValueError
        If it is damaged, or has no digests, as files of dwi_ml.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"'{path}' was not found; add=True adds subjects to an existing file.")
        with open_hdf5(path) as file:
            self._identity = file.identity
            self.nb_bytes = file.identity.nb_bytes
            if not file.root.has_attribute(schema.DIGEST):
                raise ValueError(
                    f"'{path}' has no digests, so it was not created by 'dwiml create_hdf5'; recreate it, or create "
                    "another file."
                )
            self._root = file.root.attributes()
            self.subjects = subject_lists(file)
            self._features: dict[str, int] = {}
            self._directions: dict[str, Any] = {}
            for names in self.subjects.values():
                for name in names:
                    self._check_subject(file, name)

    @property
    def groups_config(self) -> str:
        """The groups config of the file, as text."""
        return schema.read_text(self._root.get(schema.GROUPS_CONFIG, ""))

    @property
    def groups_files(self) -> str | None:
        """The files of the first subject, as text; None if they are not recorded."""
        found = self._root.get(schema.GROUPS_FILES)
        return None if found is None else schema.read_text(found)

    def check_new(self, subjects: Mapping[str, Iterable[str]]) -> None:
        """Check that none of the new subjects is in the file.

        Raises
        ------
        ValueError
            If one is.
        """
        existing = {name for names in self.subjects.values() for name in names}
        repeated = [name for names in subjects.values() for name in names if name in existing]
        if repeated:
            raise ValueError(f"'{self.path}' already holds {quoted(repeated, 5)}; list only new subjects.")

    @property
    def history(self) -> list[dict[str, Any]]:
        """How the file was created, and how subjects were added to it before, as far as it is recorded."""
        recorded = self._provenance(self._root)
        earlier = recorded.pop(schema.EARLIER, [])
        return [*(earlier if isinstance(earlier, list) else []), *([recorded] if recorded else [])]

    def check_options(self, write: Callable[[h5py.File], None]) -> None:
        """Check that new subjects can be added with the options of a creation.

        Parameters
        ----------
        write
            Function that writes the root attributes of a new file.

        Raises
        ------
        ValueError
            If an option differs from that of the file. The message names it.
        """
        with h5py.File("root.hdf5", "w", driver="core", backing_store=False) as handle:
            write(handle)
            new = dict(handle.attrs)
        for name in dict.fromkeys([*new, *self._root]):
            same = digest_of_group({name: self._root.get(name)}, []) == digest_of_group({name: new.get(name)}, [])
            if name not in _MAY_DIFFER and not same:
                how = _difference(name, self._root.get(name), new.get(name))
                raise ValueError(f"'{self.path}' was created {how}; {_ADVICE}.")
        before: Any = self._provenance(self._root).get(schema.OPTIONS)
        asked: dict[str, Any] = self._provenance(new).get(schema.OPTIONS, {})
        for name in _SAME_OPTIONS if isinstance(before, dict) else ():
            if name in before and before[name] != asked.get(name):
                how = f"with {name}, not without it" if before[name] else f"without {name}, not with it"
                raise ValueError(f"'{self.path}' was created {how}; {_ADVICE}.")

    @staticmethod
    def _provenance(root: Mapping[str, Any]) -> dict[str, Any]:
        with suppress(ValueError, RecursionError):
            found = json.loads(schema.read_text(root.get(schema.PROVENANCE, "{}")))
            return found if isinstance(found, dict) else {}
        return {}

    def check_features(self, plan: SubjectPlan) -> None:
        """Check that the features of a new subject are those of the subjects in the file.

        Raises
        ------
        ValueError
            If their number or their convention differs. The message names the group.
        """
        for group, features in plan.features.items():
            existing, files = self._features.get(group), self._features_of_files().get(group, features)
            if existing != sum(features):
                raise ValueError(
                    f"Group '{group}' has {sum(features)} features for subject '{plan.name}', and {existing} in "
                    f"'{self.path}'; all subjects must have the same number."
                )
            if files != features:
                raise ValueError(
                    f"Group '{group}': the files of subject '{plan.name}' have {features} features, and those of "
                    f"'{self.path}' {files}; list the files one by one, in the same order."
                )
            text = file_writer.directions_text(list(zip(features, plan.directions[group], strict=True)))
            convention = json.loads(text)[schema.DIRECTIONS_STORED]
            known = self._directions.get(group, [{schema.NB_FEATURES: nb} for nb in features])
            if convention != known:
                raise ValueError(
                    f"Group '{group}': the convention of the directional features of subject '{plan.name}' is "
                    f"{convention}, and in '{self.path}' {known}; state it as 'directions' in the groups config."
                )

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was read.

        Raises
        ------
        ValueError
            If it was replaced or modified.
        """
        if FileIdentity.of(self.path) != self._identity:
            raise ValueError(f"'{self.path}' was changed while subjects were added to it; run the same again.")

    def _check_subject(self, file: StoredFile, name: str) -> None:
        """Check the groups of a subject, and note the features of its volumes."""
        subject = file.root.group(name)
        for group in subject.names:
            stored = subject.group(group)
            stored.check_digest()
            if stored.has_attribute(schema.NB_FEATURES):
                self._features[group] = int(stored.attribute(schema.NB_FEATURES))
            with suppress(ValueError, TypeError, KeyError):
                text = schema.read_text(stored.attribute(schema.DIRECTIONS, ""))
                self._directions[group] = json.loads(text)[schema.DIRECTIONS_STORED]

    def check_config(self, text: str) -> None:
        """Check that a groups config, as text, is that of the file.

        Raises
        ------
        ValueError
            If it is not. The message names the groups that differ.
        """
        old, new = {}, json.loads(text)
        with suppress(ValueError, RecursionError):
            found = json.loads(self.groups_config)
            old = found if isinstance(found, dict) else {}
        differing = [name for name in dict.fromkeys([*new, *old]) if new.get(name) != old.get(name)]
        if differing:
            raise ValueError(
                f"'{self.path}' was created with another config ({quoted(differing, 5)} differ); {_ADVICE}."
            )

    def _features_of_files(self) -> dict[str, list[int]]:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            found = json.loads(self.groups_files or "{}")
            return {group: [int(file[schema.NB_FEATURES]) for file in files] for group, files in found.items()}
        return {}


def _difference(name: str, old: Any, now: Any) -> str:
    """Return the values of an option of the file and of a new creation: ``with NAME = 1.0, not 0.5``."""
    before, after = (_shown(value) for value in (old, now))
    if before is None:
        return f"without {name}, not with {after}"
    return f"with {name} = {before}, not {after}" if after is not None else f"with {name} = {before}, not without it"


def _shown(value: Any) -> str | None:
    """Return a root attribute as text; None if the file has none, or the option was not given."""
    text = None if value is None else schema.read_text(value)
    if text == schema.NOT_DEFINED:
        return None
    return repr(text) if isinstance(value, (str, bytes)) else text
