"""Logging to Weights & Biases, an optional package (``wandb``): offline without a network, each value once."""

from __future__ import annotations

import io
import logging
import netrc
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics
from dwiml.training.reporting.loggers.network import can_reach, within
from dwiml.training.reporting.loggers.replay import replay
from dwiml.training.reporting.metrics import BATCH, EPOCH, STEP

INSTALL = 'pip install "dwiml[wandb]"'
"""How the user installs the package."""
WANDB_FOLDER = "wandb"
_BATCH_STEP = f"batch_{STEP}"
_ID, _ROWS = "id", "rows"
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
_PROBE_S = 5.0
_END_S = 60.0
# Only the parameters and metrics of the trainer are sent: not the code, the console or the machine.
_NOTHING_AUTOMATIC = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "host": "",
    "init_timeout": 60.0,
    # Without them, the end of the program would wait for a lost network.
    "finish_timeout": _END_S,
    "finish_timeout_raises": True,
}

logger = logging.getLogger(__name__)


class WandbLogger(Logger):
    """Sends parameters and metrics to Weights & Biases, or saves them in ``wandb/`` for a later upload.

    Each epoch is a row with ``epoch`` (from 0) on its horizontal axis; each record of batches a row of names that start
    with ``batch_``, over ``batch_step``, the number of batches so far. It runs offline if no API key is configured or
    the server does not respond in time.

    Parameters
    ----------
    project, entity
        Project on Weights & Biases, and the user or team that owns it; None for the user's default one.
    folder
        The experiment folder. Its name is that of the run.
    verbose
        Whether to report in a warning that it is offline (otherwise in a message of level INFO).

    Notes
    -----
    Rows are counted. A resumed run reads those of the previous runs from the local logs, and sends what the server does
    not have yet; offline, it saves all of them again, and its folder replaces those of the runs that it continues.
    """

    name = "wandb"

    def __init__(
        self, project: str, entity: str | None, folder: str | os.PathLike[str], *, verbose: bool = True
    ) -> None:
        self.project, self.entity, self.verbose = project, entity, verbose
        # Absolute, because the message that names it must be valid in any folder.
        self.experiment = Path(folder).absolute()
        self.online: bool | None = None
        self._id = uuid.uuid4().hex
        self._run: Any = None
        self._begins = False
        self._nb_rows = 0
        # Number of rows in the checkpoint.
        self._nb_expected: int | None = None
        self._nb_on_server = 0
        self._defined: set[str] = set()
        self._waiting: list[Mapping[str, Any]] = []
        self._superseded: list[Path] = []

    def begin_anew(self) -> None:
        """Start a new run, without values of an earlier one."""
        self._begins = True

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Start a run, or continue the one of the checkpoint, with these parameters."""
        if not self._begins:
            # Rows wait until the run has started.
            replay(self.experiment, self)
            if self._nb_expected is not None and len(self._waiting) != self._nb_expected:
                # The rows of the server cannot be told from others.
                self._id, self._superseded = uuid.uuid4().hex, []
        self._start(dict(params))
        rows, self._waiting = self._waiting, []
        for row in rows:
            self._send(row)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Send the metrics of an epoch."""
        epoch = plain_epoch(epoch)
        self._send({EPOCH: epoch, **plain_metrics(metrics, epoch)})

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Send records of batches."""
        for record in records:
            self._send(_row_of_batch(record))

    def log_figure(self, name: str, figure: Any) -> None:
        """Send a figure of matplotlib as an image, with the last row, so that the number of rows stays the same.

        It is left out if the server already has all rows, as when a finished training is started again: it takes
        nothing more for them.
        """
        if 0 < self._nb_rows <= self._nb_on_server:
            return
        import PIL.Image
        import wandb

        # As an image: given the figure itself, the package needs pyplot, which dwiml does not import.
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self._run.log({name: wandb.Image(PIL.Image.open(file))}, step=max(self._nb_rows - 1, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the identifier of the run, and the number of its rows, which are in the local logs."""
        return {_ID: self._id, _ROWS: self._nb_rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint, to which the local logs have been cut back.

        Raises
        ------
        ValueError
            If the state is not one of this logger.
        """
        check_wandb_state(state)
        self._id, self._nb_expected = state[_ID], state[_ROWS]
        self._superseded = self._offline_folders()

    def close(self) -> str | None:
        """End the run; return where to see it, or how to upload it."""
        run, self._run = self._run, None
        if run is None:
            return None
        within(_END_S, run.finish)
        new = [path for path in self._offline_folders() if path not in self._superseded]
        if self.online or new:
            # Their content is now on the server or in the new folder.
            for path in self._superseded:
                shutil.rmtree(path, ignore_errors=True)
        if self.online:
            return f"Weights & Biases shows this run at {run.url}"
        if not new:
            return f"Weights & Biases was offline, and has saved nothing in '{self.experiment / WANDB_FOLDER}'."
        folders = " ".join(shlex.quote(str(path)) for path in new)
        return (
            f"Weights & Biases was offline; from a computer with internet and your API key, run: wandb sync {folders}"
        )

    def _start(self, params: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(f"the package wandb cannot be imported ({error}): {INSTALL}") from error
        reason = _why_offline(wandb.setup().settings)
        self.online = not reason
        if reason:
            level = logging.WARNING if self.verbose else logging.INFO
            folder = self.experiment / WANDB_FOLDER
            logger.log(level, "Weights & Biases is offline: %s. Its data are saved in '%s'.", reason, folder)
        self.experiment.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.experiment.name,
            id=self._id,
            resume="allow" if self.online else None,
            dir=str(self.experiment),
            mode="online" if self.online else "offline",
            config=params,
            settings=wandb.Settings(**_known(wandb.Settings)),
        )
        if self._run.id != self._id:
            # It is the script's own, which must not be ended.
            self._run = None
            raise RuntimeError("another run of Weights & Biases is active in this process")
        # Of a resumed run, the package knows the first step before the next one.
        steps = (self._run.step, getattr(self._run, "starting_step", 0))
        self._nb_on_server = max(steps) if self.online else 0

    def _send(self, row: Mapping[str, Any]) -> None:
        if self._run is None:
            self._waiting.append(row)
            return
        axis = EPOCH if EPOCH in row else _BATCH_STEP
        for name in [each for each in row if each not in self._defined]:
            self._defined.add(name)
            # Rows have their own value of the axis, which must not be added to others.
            self._run.define_metric(name, **({} if name == axis else {"step_metric": axis, "step_sync": False}))
        if self._nb_rows >= self._nb_on_server:
            self._run.log(dict(row), step=self._nb_rows)
        self._nb_rows += 1

    def _offline_folders(self) -> list[Path]:
        pattern = re.compile(rf"offline-run-\d+_\d+-{self._id}")
        if (self.experiment / WANDB_FOLDER).is_symlink():
            return []
        found = (self.experiment / WANDB_FOLDER).glob(f"offline-run-*-{self._id}")
        return sorted(path for path in found if pattern.fullmatch(path.name) and not path.is_symlink())


def check_wandb_state(state: Any) -> None:
    """Check a state of :meth:`WandbLogger.state_dict`, which may come from an untrusted file.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    if state == {}:
        # It has failed.
        return
    if type(state) is not dict or state.keys() != {_ID, _ROWS}:
        raise ValueError(f"The state of Weights & Biases must have the keys '{_ID}' and '{_ROWS}'.")
    if type(state[_ROWS]) is not int or state[_ROWS] < 0:
        raise ValueError("The rows of Weights & Biases must be a number of rows.")
    # Folders whose name ends with it are removed.
    if type(state[_ID]) is not str or not re.fullmatch(r"[0-9a-z]{8,64}", state[_ID]):
        raise ValueError("The identifier of Weights & Biases must be 8 to 64 letters and digits.")


def _known(settings: Any) -> dict[str, Any]:
    """Return the settings that this version of the package has."""
    fields = getattr(settings, "model_fields", _NOTHING_AUTOMATIC)
    return {name: value for name, value in _NOTHING_AUTOMATIC.items() if name in fields}


def _row_of_batch(record: Mapping[str, float]) -> dict[str, float]:
    row = {f"batch_{name}": value for name, value in record.items() if name not in (EPOCH, BATCH, STEP)}
    return {**row, _BATCH_STEP: int(record[STEP])}


def _why_offline(settings: Any) -> str:
    """Return why nothing can be sent with settings of Weights & Biases; empty if it can."""
    mode = getattr(settings, "mode", "online")
    if mode == "disabled":
        raise RuntimeError("Weights & Biases is disabled (WANDB_MODE)")
    if mode in ("offline", "dryrun"):
        return "its mode is offline (WANDB_MODE, or wandb offline)"
    has_key = getattr(settings, "api_key", None) or any(os.environ.get(name) for name in _KEYS)
    if not has_key and not _has_login(settings.base_url):
        return "no API key is configured (WANDB_API_KEY, or wandb login)"
    return "" if can_reach(settings.base_url, timeout=_PROBE_S) else f"{settings.base_url} cannot be reached"


def _has_login(server: str) -> bool:
    """Return whether a file of logins has one for a server."""
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in paths:
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            # With a path, other users may be permitted to read the file, as for Weights & Biases itself.
            hosts = netrc.netrc(os.path.expanduser(path)).hosts
            if {urlsplit(server).hostname, urlsplit(server).netloc} & hosts.keys():
                return True
    return False
