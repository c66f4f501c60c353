"""An experiment's folder: what is where, whose it is, and that nothing is written into another's."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dwiml.arguments import quoted, shown
from dwiml.files import atomic_write, read_json, remove_unfinished
from dwiml.files.tensors import ends_in_digest
from dwiml.models.saving import PARAMETERS_FILE, STATE_FILE
from dwiml.training.experiment.checkpoint import LATEST, PREVIOUS, has_checkpoint
from dwiml.training.experiment.lock import LOCK_FILE, is_lock
from dwiml.training.reporting.loggers.local import METRICS_FILE

# Sections of parameters.json by which an experiment of dwiml is known.
SECTIONS = ("trainer", "sampler", "loader", "model", "data")
CONFIG_FILE = "config.yaml"
CHECKPOINT, BEST_MODEL, LOGS, BAD_BATCHES = "checkpoint", "best_model", "logs", "bad_batches"
# Bytes, on all disks in use.
_LONGEST_NAME = 255
# What is written in each folder, under these names and no others.
_WRITTEN = {
    "": (PARAMETERS_FILE, CONFIG_FILE, LOCK_FILE),
    CHECKPOINT: (LATEST, PREVIOUS),
    BEST_MODEL: (PARAMETERS_FILE, STATE_FILE),
    LOGS: (METRICS_FILE.name,),
    BAD_BATCHES: (),
}


@dataclass(frozen=True)
class ExperimentFolder:
    """Where an experiment keeps what it makes.

    Attributes
    ----------
    path
        ``experiments_path/experiment_name``.
    """

    path: Path

    @property
    def parameters(self) -> Path:
        """Everything that was chosen (JSON)."""
        return self.path / PARAMETERS_FILE

    @property
    def config(self) -> Path:
        """Options of ``dwiml train`` that make the same experiment again (YAML); absent for one of a script."""
        return self.path / CONFIG_FILE

    def write_config(self, text: str) -> None:
        """Write :attr:`config`."""
        with atomic_write(self.config, follow_links=False) as stream:
            stream.write(text.encode())

    @property
    def checkpoint(self) -> Path:
        """Folder of ``latest.pt`` and ``previous.pt``."""
        return self.path / CHECKPOINT

    @property
    def best_model(self) -> Path:
        """Folder from which the best model can be built again."""
        return self.path / BEST_MODEL

    @property
    def bad_batches(self) -> Path:
        """Folder of the batches that gave a NaN or infinite value."""
        return self.path / BAD_BATCHES

    @property
    def logs(self) -> Path:
        """Folder of ``metrics.jsonl``."""
        return self.path / LOGS

    @property
    def is_ours(self) -> bool:
        """Whether an experiment of dwiml is here: its parameters, or a checkpoint, are of dwiml's form.

        Raises
        ------
        OSError
            When the system refuses to say (no permission).
        """
        return self._has_our_parameters() or any(ends_in_digest(self.checkpoint / name) for name in (LATEST, PREVIOUS))

    def is_used(self) -> bool:
        """Tell whether an experiment was started here before."""
        return self.parameters.exists() or has_checkpoint(self.checkpoint) or self.logs.exists()

    def refuse_used(self) -> None:
        """Raise FileExistsError when an experiment was started here before."""
        self.refuse_foreign()
        if self.is_used():
            raise FileExistsError(
                f"Experiment '{self.path}' exists already: go on with it (resume='auto'), choose "
                "another experiment_name, or delete it."
            )

    def refuse_foreign(self) -> None:
        """Check that an experiment may write here: the folder is new, empty, or has one of dwiml's; no link leads away.

        Raises
        ------
        FileExistsError
            When it holds anything else, which is named.
        ValueError
            When one of its own folders or its log is a link, or is neither a folder nor a file.
        OSError
            When the system refuses to say.
        """
        if not self.path.exists():
            return
        found = sorted(entry.name for entry in self.path.iterdir() if not self._is_passing(entry))
        if found and not self.is_ours:
            kind = "an experiment of dwi_ml, which dwiml cannot go on with" if self._is_dwi_ml() else "not of dwiml's"
            raise FileExistsError(
                f"The folder '{self.path}' holds something that is {kind} ({quoted(found, limit=5)}): nothing is "
                "written into it. Choose another experiment_name, whose folder is then made, or move these away."
            )
        for name in (CHECKPOINT, BEST_MODEL, LOGS, BAD_BATCHES):
            folder = self.path / name
            if folder.is_symlink():
                raise ValueError(
                    f"'{folder}' is a symbolic link: an experiment writes into its own folder only. Make the whole "
                    "experiment's folder a link instead, or replace this one by a folder."
                )
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"'{folder}' should be a folder and is a file; move it away.")
        log = self.path / METRICS_FILE
        if os.path.lexists(log) and (log.is_symlink() or not log.is_file()):
            kind = "a symbolic link" if log.is_symlink() else "not a regular file"
            raise ValueError(f"'{log}' is {kind}: an experiment adds to a file of its own only; move it away.")

    def make(self) -> None:
        """Make the folder; remove what a killed process left half-written in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        for folder, names in _WRITTEN.items():
            remove_unfinished(self.path / folder, names)

    @contextmanager
    def left_only_with_results(self) -> Iterator[None]:
        """In the block, make the folder; after an error that came before any result, remove it, if it is new."""
        made = [each for each in (self.path, *self.path.parents) if not each.exists()]
        was_used = self.is_used()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if not was_used and not self._has_results():
                    self.parameters.unlink(missing_ok=True)
                    self.config.unlink(missing_ok=True)
                    for name in filter(None, _WRITTEN):
                        if (self.path / name).is_dir():
                            (self.path / name).rmdir()
                    for each in made:
                        each.rmdir()
            raise

    def _has_results(self) -> bool:
        """Tell whether there is more than what was chosen: files in our folders, or anything unknown."""
        for entry in self.path.iterdir():
            if entry.name in _WRITTEN and entry.is_dir():
                if any(entry.iterdir()):
                    return True
            elif entry.name not in _WRITTEN[""]:
                return True
        return False

    def _has_our_parameters(self) -> bool:
        try:
            recorded = read_json(self.parameters)
        except (FileNotFoundError, IsADirectoryError, ValueError):
            return False
        return isinstance(recorded, dict) and all(isinstance(recorded.get(name), dict) for name in SECTIONS)

    def _is_dwi_ml(self) -> bool:
        marks = ("best_model/model_type.txt", "checkpoint/model", "checkpoint/checkpoint_state.pkl")
        return any((self.path / mark).exists() for mark in marks)

    @staticmethod
    def _is_passing(entry: Path) -> bool:
        """Tell whether a process that ended without a word leaves such a file: a lock, or a half of a file."""
        if entry.name == LOCK_FILE:
            return is_lock(entry)
        ours = tuple(f".{name}." for name in _WRITTEN[""])
        return entry.name.startswith(ours) and entry.name.endswith(".tmp") and not entry.is_symlink()


def check_place(experiments_path: str | Path, name: str) -> None:
    """Check that a name is that of a folder of its own in experiments_path.

    Raises
    ------
    ValueError, NotADirectoryError
        When it is not, or a file is in the way.
    """
    is_name = isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
    if not is_name or not name.isprintable() or len(os.fsencode(name)) > _LONGEST_NAME:
        raise ValueError(
            "experiment_name must be the name of a folder, without slashes, line breaks or too many letters, got "
            f"{shown(name)}."
        )
    if not isinstance(experiments_path, (str, Path)):
        raise ValueError(f"experiments_path must be the path of a folder, got {experiments_path!r}.")
    folder = Path(experiments_path) / name
    first = next(path for path in (folder, *folder.parents) if path.exists())
    if not first.is_dir():
        raise NotADirectoryError(f"The experiment's folder cannot be '{folder}': '{first}' is a file.")


def trial_folder(name: str) -> ExperimentFolder:
    """Return a folder for a trial run (``fast_dev_run``), which is removed with the object or at the program's end."""
    path = Path(tempfile.mkdtemp(prefix="dwiml_fast_dev_run_"))
    folder = ExperimentFolder(path / name)
    weakref.finalize(folder, remove_trial, path)
    return folder


def remove_trial(experiments_path: Path) -> None:
    """Remove the folder that a trial run was in; a bad batch that the user was told of stays."""
    if not any(experiments_path.glob(f"*/{BAD_BATCHES}/*")):
        shutil.rmtree(experiments_path, ignore_errors=True)


def experiment_folder(experiment: str | os.PathLike[str]) -> ExperimentFolder:
    """Return the folder that a user names, also as ``.`` from inside it.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        When there is no such folder, or it has no ``parameters.json``.
    """
    path = Path(experiment)
    folder = ExperimentFolder(path.resolve() if path.name in ("", "..") else path)
    if not folder.path.exists():
        raise FileNotFoundError(f"Experiment's folder '{path}' does not exist.")
    if not folder.path.is_dir():
        raise NotADirectoryError(f"'{path}' is not an experiment's folder but a file; give the folder.")
    if not os.path.lexists(folder.parameters):
        raise FileNotFoundError(f"'{path}' is not an experiment's folder: it has no {PARAMETERS_FILE}.")
    return folder
