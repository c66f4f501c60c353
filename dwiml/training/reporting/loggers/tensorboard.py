"""Logging for TensorBoard, in ``tensorboard/`` of the experiment folder; an optional package of that name writes it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics
from dwiml.training.reporting.loggers.lines_file import rewrite
from dwiml.training.reporting.loggers.replay import replay
from dwiml.training.reporting.metrics import BATCH, EPOCH, STEP

TENSORBOARD_FOLDER = "tensorboard"
INSTALL = 'pip install "dwiml[tensorboard]"'
"""How the user installs the package."""
_EVENTS_FILE = re.compile(r"events\.out\.tfevents\.[\w.-]+")
_FILES = "files"


class TensorBoardLogger(Logger):
    """Writes the metrics of epochs and batches to files that TensorBoard shows.

    Metrics of epochs are called ``epoch/NAME``, with the epoch (from 0) as step; those of batches ``batch/NAME``, with
    the number of batches so far. The parameters are a text.

    Parameters
    ----------
    folder
        The experiment folder; the files are in ``tensorboard/`` in it.

    Notes
    -----
    The state in a checkpoint is the size of each file: a resumed run cuts the files back to it, and removes those that
    were begun after it, so that no value appears twice.
    """

    name = "tensorboard"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._experiment = Path(folder)
        self.folder = self._experiment / TENSORBOARD_FOLDER
        self._writer: Any = None
        self._continues = self._begins = False

    def begin_anew(self) -> None:
        """Remove the files of an earlier run."""
        self._remove_files()
        self._begins = True

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Write the parameters, and the values of the previous runs if they were not written for TensorBoard."""
        if not (self._continues or self._begins):
            # Otherwise, values after the checkpoint would be there twice.
            self._remove_files()
        self._start()
        if not self._continues:
            text = json.dumps(dict(params), indent=2, default=str)
            self._writer.add_text("parameters", "".join(f"    {line}\n" for line in text.splitlines()), 0)
        if not (self._continues or self._begins):
            replay(self._experiment, self)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Write the metrics of an epoch."""
        epoch = plain_epoch(epoch)
        for name, value in plain_metrics(metrics, epoch).items():
            self._writer.add_scalar(f"epoch/{name}", value, epoch)
        self._writer.flush()

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Write the values of batches."""
        for record in records:
            for name, value in record.items():
                if name not in (EPOCH, BATCH, STEP):
                    self._writer.add_scalar(f"batch/{name}", value, record[STEP])

    def log_figure(self, name: str, figure: Any) -> None:
        """Write a figure of matplotlib as an image."""
        self._writer.add_figure(name, figure, close=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the size of each file, once it is written."""
        if self._writer is not None:
            self._writer.flush()
        return {_FILES: {path.name: path.stat().st_size for path in self._files()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the files back to their sizes in a checkpoint.

        Raises
        ------
        ValueError
            If the state is not one of this logger.
        OSError
            If a file cannot be written.
        """
        check_tensorboard_state(state)
        self._continues = True
        for path in self._files():
            _cut(path, state[_FILES].get(path.name))

    def close(self) -> None:
        """Finish writing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _start(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"the package tensorboard cannot be imported ({error}): {INSTALL}") from error
        self._writer = SummaryWriter(str(self.folder))

    def _remove_files(self) -> None:
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        if self.folder.is_symlink():
            raise OSError(f"'{self.folder}' is a link: files elsewhere are not changed")
        return sorted(path for path in self.folder.glob("events.out.tfevents.*") if _EVENTS_FILE.fullmatch(path.name))


def _cut(path: Path, size: int | None) -> None:
    """Cut a file back to a size; remove it if that is None."""
    if size is None:
        path.unlink()
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"'{path}' is not a regular file")
        if status.st_nlink == 1:
            os.ftruncate(descriptor, min(size, status.st_size))
    finally:
        os.close(descriptor)
    if status.st_nlink > 1:
        # The other name might be a backup, which must not change.
        with path.open("rb") as stream:
            kept = stream.read(size)
        rewrite(path, kept)


def check_tensorboard_state(state: Any) -> None:
    """Check a state of :meth:`TensorBoardLogger.state_dict`, which may come from an untrusted file.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    if state == {}:
        # TensorBoard has failed.
        return
    if type(state) is not dict or state.keys() != {_FILES} or type(state[_FILES]) is not dict:
        raise ValueError(f"The state of TensorBoard must have the sizes of its files, '{_FILES}'.")
    for name, size in state[_FILES].items():
        # Files of these names are cut.
        if type(name) is not str or not _EVENTS_FILE.fullmatch(name):
            raise ValueError("The state of TensorBoard names a file that is not one of its files.")
        if type(size) is not int or size < 0:
            raise ValueError("The sizes of the files of TensorBoard must be numbers of bytes.")
