"""The experiment folder: the paths in it, and checks that nothing is written into a folder of anything else."""

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
from dwiml.training.experiment.lock import LOCK_FILE, ExperimentGoneError, ExperimentInUseError, is_lock
from dwiml.training.reporting.events import EVENTS_FILE
from dwiml.training.reporting.loggers import SERVICE_FOLDERS
from dwiml.training.reporting.loggers.batches import BATCHES_FILE
from dwiml.training.reporting.loggers.local import METRICS_FILE

# Sections of parameters.json that identify an experiment of dwiml.
SECTIONS = ("trainer", "sampler", "loader", "model", "data")
CONFIG_FILE = "config.yaml"
CHECKPOINT, BEST_MODEL, LOGS, BAD_BATCHES = "checkpoint", "best_model", "logs", "bad_batches"
_LOG_FILES = (METRICS_FILE, BATCHES_FILE, EVENTS_FILE)
# In bytes, on all common file systems.
_LONGEST_NAME = 255
# Names of the files written in each folder.
_WRITTEN = {
    "": (PARAMETERS_FILE, CONFIG_FILE, LOCK_FILE),
    CHECKPOINT: (LATEST, PREVIOUS),
    BEST_MODEL: (PARAMETERS_FILE, STATE_FILE),
    LOGS: tuple(path.name for path in _LOG_FILES),
    BAD_BATCHES: (),
}
# Files that may exist before the first checkpoint.
_NO_RESULTS = {LOGS: (BATCHES_FILE.name, EVENTS_FILE.name)}


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of an experiment, and the paths in it.

    Attributes
    ----------
    path
        ``experiments_path/experiment_name``.
    """

    path: Path

    @property
    def parameters(self) -> Path:
        """File of all recorded parameters (JSON)."""
        return self.path / PARAMETERS_FILE

    @property
    def config(self) -> Path:
        """File of the options of ``dwiml train`` that repeat the experiment (YAML); absent if a script created it."""
        return self.path / CONFIG_FILE

    def write_config(self, text: str) -> None:
        """Write the file :attr:`config`."""
        with atomic_write(self.config, follow_links=False) as stream:
            stream.write(text.encode())

    @property
    def checkpoint(self) -> Path:
        """Folder of ``latest.pt`` and ``previous.pt``."""
        return self.path / CHECKPOINT

    @property
    def best_model(self) -> Path:
        """Folder from which the best model can be loaded."""
        return self.path / BEST_MODEL

    @property
    def bad_batches(self) -> Path:
        """Folder of saved batches that gave a NaN or infinite value."""
        return self.path / BAD_BATCHES

    @property
    def logs(self) -> Path:
        """Folder of ``metrics.jsonl``."""
        return self.path / LOGS

    @property
    def is_ours(self) -> bool:
        """Whether this is an experiment of dwiml, according to its parameters or to a checkpoint.

        Raises
        ------
        OSError
            If the files cannot be read (no permission).
        """
        return self._has_our_parameters() or any(ends_in_digest(self.checkpoint / name) for name in (LATEST, PREVIOUS))

    def is_used(self) -> bool:
        """Return whether an experiment was started here before.

        One that a NaN ended before it had any result is not counted: only its parameters and the bad batch are there.
        """
        if has_checkpoint(self.checkpoint) or self._has_results_in(LOGS):
            return True
        return self.parameters.exists() and not self._has_bad_batch_only()

    def refuse_used(self) -> None:
        """Check that no experiment was started here before, and that one may write here (:meth:`refuse_foreign`).

        Raises
        ------
        FileExistsError
            If an experiment exists, or the folder holds anything else.
        ValueError, OSError
            As in :meth:`refuse_foreign`.
        """
        self.refuse_foreign()
        if self.is_used():
            raise FileExistsError(
                f"Experiment '{self.path}' already exists: resume it (resume='auto'), choose another experiment_name, "
                "or delete it."
            )

    def refuse_foreign(self) -> None:
        """Check that an experiment may write here.

        The folder must be new, empty or an experiment of dwiml, and nothing in it may be a link to another place.

        Raises
        ------
        FileExistsError
            If it holds anything else; the message names it.
        ValueError
            If one of its folders, or its log, is a link or of the wrong type.
        OSError
            If the files cannot be read (no permission).
        """
        if not self.path.exists():
            return
        found = sorted(entry.name for entry in self.path.iterdir() if not self._is_leftover(entry))
        if found and not self.is_ours:
            kind = (
                "an experiment of dwi_ml, which dwiml can import ('dwiml import_dwi_ml') but not resume"
                if self.is_dwi_ml
                else "not a dwiml experiment"
            )
            raise FileExistsError(
                f"The folder '{self.path}' is {kind} (it holds {quoted(found, limit=5)}): nothing is written into it. "
                "Choose another experiment_name, or move these files away."
            )
        for name in (CHECKPOINT, BEST_MODEL, LOGS, BAD_BATCHES, *SERVICE_FOLDERS):
            folder = self.path / name
            if folder.is_symlink():
                raise ValueError(
                    f"'{folder}' is a symbolic link: an experiment writes only into its own folder. Replace the link "
                    "by a folder, or make the whole experiment folder a link."
                )
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"'{folder}' should be a folder but is a file; move it away.")
        for log in (self.path / name for name in _LOG_FILES):
            if os.path.lexists(log) and (log.is_symlink() or not log.is_file()):
                kind = "a symbolic link" if log.is_symlink() else "not a regular file"
                raise ValueError(f"'{log}' is {kind}: an experiment writes only to its own log; move it away.")

    def make(self) -> None:
        """Create the folder, and remove unfinished files of a killed process."""
        self.path.mkdir(parents=True, exist_ok=True)
        for folder, names in _WRITTEN.items():
            remove_unfinished(self.path / folder, names)

    @contextmanager
    def removed_without_results(self) -> Iterator[None]:
        """Create the folder for the block; if the block fails before any result, remove the folder if it is new."""
        made = [each for each in (self.path, *self.path.parents) if not each.exists()]
        was_used = self.is_used()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except (ExperimentInUseError, ExperimentGoneError):
            # It belongs to another process.
            raise
        except BaseException:
            with suppress(OSError):
                if not was_used and not self._has_results():
                    self.parameters.unlink(missing_ok=True)
                    self.config.unlink(missing_ok=True)
                    for name in filter(None, _WRITTEN):
                        if (self.path / name).is_dir():
                            for file in _NO_RESULTS.get(name, ()):
                                (self.path / name / file).unlink(missing_ok=True)
                            (self.path / name).rmdir()
                    for name in SERVICE_FOLDERS:
                        if (self.path / name).is_dir() and not (self.path / name).is_symlink():
                            shutil.rmtree(self.path / name)
                    for each in made:
                        each.rmdir()
            raise

    def _has_results(self) -> bool:
        """Return whether there is more than the parameters: files in the folders of results, or unknown entries."""
        for entry in self.path.iterdir():
            if entry.name in _WRITTEN and entry.is_dir():
                if self._has_results_in(entry.name):
                    return True
            elif entry.name not in (*_WRITTEN[""], *SERVICE_FOLDERS):
                return True
        return False

    def _has_results_in(self, name: str) -> bool:
        """Return whether one of the folders has a file that makes the experiment worth to be kept."""
        folder = self.path / name
        return folder.is_dir() and any(entry.name not in _NO_RESULTS.get(name, ()) for entry in folder.iterdir())

    def _has_bad_batch_only(self) -> bool:
        """Return whether the only results are bad batches."""
        others = (CHECKPOINT, BEST_MODEL, LOGS)
        return not any(map(self._has_results_in, others)) and self._has_results_in(BAD_BATCHES)

    def _has_our_parameters(self) -> bool:
        try:
            recorded = read_json(self.parameters)
        except (FileNotFoundError, IsADirectoryError, ValueError):
            return False
        return isinstance(recorded, dict) and all(isinstance(recorded.get(name), dict) for name in SECTIONS)

    @property
    def is_dwi_ml(self) -> bool:
        """Whether this is an experiment of dwi_ml."""
        marks = ("best_model/model_type.txt", "checkpoint/model", "checkpoint/checkpoint_state.pkl")
        return any((self.path / mark).exists() for mark in marks)

    @property
    def is_saved_model(self) -> bool:
        """Whether this is the folder of a saved model, such as :attr:`best_model`."""
        try:
            recorded = read_json(self.parameters)
        except (OSError, ValueError):
            return False
        return isinstance(recorded, dict) and "class" in recorded and "trainer" not in recorded

    @staticmethod
    def _is_leftover(entry: Path) -> bool:
        """Return whether a file may be a leftover of a killed process: a lock, or an unfinished file."""
        if entry.name == LOCK_FILE:
            return is_lock(entry)
        ours = tuple(f".{name}." for name in _WRITTEN[""])
        return entry.name.startswith(ours) and entry.name.endswith(".tmp") and not entry.is_symlink()


def check_experiment_path(experiments_path: str | Path, name: str) -> None:
    """Check that ``experiments_path/name`` can be the folder of an experiment.

    Raises
    ------
    ValueError
        If the name is not that of a single folder, or `experiments_path` is not a path.
    NotADirectoryError
        If a file is in the way.
    """
    is_name = isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
    if not is_name or not name.isprintable() or len(os.fsencode(name)) > _LONGEST_NAME:
        raise ValueError(
            "experiment_name must be the name of a folder, without slashes or line breaks and not too long, got "
            f"{shown(name)}."
        )
    if not isinstance(experiments_path, (str, Path)):
        raise ValueError(f"experiments_path must be the path of a folder, got {experiments_path!r}.")
    folder = Path(experiments_path) / name
    first = next(path for path in (folder, *folder.parents) if path.exists())
    if not first.is_dir():
        raise NotADirectoryError(f"The experiment folder cannot be '{folder}': '{first}' is a file.")


def trial_folder(name: str) -> ExperimentFolder:
    """Return a folder for a trial run (``fast_dev_run``), removed with the object or when the program ends."""
    path = Path(tempfile.mkdtemp(prefix="dwiml_fast_dev_run_"))
    folder = ExperimentFolder(path / name)
    weakref.finalize(folder, remove_trial, path)
    return folder


def remove_trial(experiments_path: Path) -> None:
    """Remove the folder of a trial run, unless it holds a bad batch, which was reported to the user."""
    if not any(experiments_path.glob(f"*/{BAD_BATCHES}/*")):
        shutil.rmtree(experiments_path, ignore_errors=True)


def experiment_folder(experiment: str | os.PathLike[str]) -> ExperimentFolder:
    """Return the experiment folder at a path; ``.`` from inside the folder works too.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it has no ``parameters.json``.
    NotADirectoryError
        If it is a file.
    ValueError
        If it is the folder of a saved model, or an empty text.
    """
    if os.fspath(experiment) == "":
        raise ValueError("The path of the experiment folder is empty; for the current folder, give '.'.")
    path = Path(experiment)
    folder = ExperimentFolder(path.resolve() if path.name in ("", "..") else path)
    if not folder.path.exists():
        raise FileNotFoundError(f"Experiment folder '{path}' does not exist.")
    if not folder.path.is_dir():
        raise NotADirectoryError(f"'{path}' is a file, not an experiment folder; give the folder.")
    if not os.path.lexists(folder.parameters):
        if folder.is_dwi_ml:
            raise FileNotFoundError(
                f"'{path}' is an experiment of dwi_ml: import it first, with 'dwiml import_dwi_ml'."
            )
        raise FileNotFoundError(f"'{path}' is not an experiment folder: it has no {PARAMETERS_FILE}.")
    if folder.is_saved_model:
        above = ExperimentFolder(Path(os.path.abspath(folder.path)).parent)
        where = f", '{above.path}'" if above.is_ours else ""
        raise ValueError(
            f"'{path}' holds a saved model, not an experiment: give the experiment folder above it{where}."
        )
    return folder
