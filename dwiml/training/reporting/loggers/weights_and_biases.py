"""Logging to Weights & Biases, an optional package (``wandb``): offline without a network, each value once."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics
from dwiml.training.reporting.loggers.batches import read_batches
from dwiml.training.reporting.loggers.local import METRICS_FILE, read_metrics
from dwiml.training.reporting.loggers.network import can_reach, within
from dwiml.training.reporting.metrics import BATCH, EPOCH, STEP

INSTALL = 'pip install "dwiml[wandb]"'
"""How the user installs the package."""
WANDB_FOLDER = "wandb"
_BATCH_STEP = f"batch_{STEP}"
_ID = "id"
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
_PROBE_S = 5.0
_START_S = 60.0
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
        self._nb_rows = 0
        self._nb_on_server = 0
        self._defined: set[str] = set()
        self._earlier: list[dict[str, Any]] = []
        self._superseded: list[Path] = []

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Start a run, or continue the one of the checkpoint, with these parameters."""
        self._start(dict(params))
        for row in self._earlier:
            self._send(row)
        self._earlier = []

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Send the metrics of an epoch."""
        epoch = plain_epoch(epoch)
        self._send({EPOCH: epoch, **plain_metrics(metrics, epoch)})

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Send records of batches."""
        for record in records:
            self._send(_row_of_batch(record))

    def state_dict(self) -> dict[str, Any]:
        """Return the identifier of the run; its values are in the local logs."""
        return {_ID: self._id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint, to which the local logs have been cut back.

        Raises
        ------
        ValueError
            If the state is not one of this logger, or a local log is invalid.
        OSError
            If a local log cannot be read.
        """
        check_wandb_state(state)
        self._id = state[_ID]
        self._earlier = _rows_of(self.experiment)
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
        folders = " ".join(shlex.quote(str(path)) for path in new)
        return (
            f"Weights & Biases was offline; from a computer with internet and your API key, run: wandb sync {folders}"
        )

    def _start(self, params: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(f"the package wandb cannot be imported ({error}): {INSTALL}") from error
        reason = _why_offline(wandb.setup().settings.base_url)
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
            settings=wandb.Settings(init_timeout=_START_S, **_NOTHING_AUTOMATIC),
        )
        self._nb_on_server = self._run.step if self.online else 0

    def _send(self, row: Mapping[str, Any]) -> None:
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
    if type(state) is not dict or state.keys() != {_ID}:
        raise ValueError(f"The state of Weights & Biases must have the key '{_ID}'.")
    # Folders whose name ends with it are removed.
    if type(state[_ID]) is not str or not re.fullmatch(r"[0-9a-z]{8,64}", state[_ID]):
        raise ValueError("The identifier of Weights & Biases must be 8 to 64 letters and digits.")


def check_wandb() -> None:
    """Check that Weights & Biases is installed.

    Raises
    ------
    ValueError
        If it is not.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ValueError(f"wandb_project needs the package wandb, which is not installed: {INSTALL}")


def _rows_of(experiment: Path) -> list[dict[str, Any]]:
    """Return the rows of the local logs in the order of the training: the batches of each epoch before its metrics."""
    columns = read_batches(experiment)
    rows: list[tuple[int, int, dict[str, Any]]] = []
    for row in range(len(columns[STEP])):
        record = {name: float(values[row]) for name, values in columns.items() if values[row] == values[row]}
        rows.append((int(record[EPOCH]), 0, _row_of_batch(record)))
    if (experiment / METRICS_FILE).exists():
        rows += [(record[EPOCH], 1, record) for record in read_metrics(experiment)]
    return [row for _, _, row in sorted(rows, key=lambda each: each[:2])]


def _row_of_batch(record: Mapping[str, float]) -> dict[str, float]:
    row = {f"batch_{name}": value for name, value in record.items() if name not in (EPOCH, BATCH, STEP)}
    return {**row, _BATCH_STEP: int(record[STEP])}


def _why_offline(server: str) -> str:
    """Return why nothing can be sent; empty if it can."""
    if os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun", "disabled"):
        return f"WANDB_MODE is {os.environ['WANDB_MODE']}"
    if not any(os.environ.get(name) for name in _KEYS) and not _has_login(server):
        return "no API key is configured (WANDB_API_KEY, or wandb login)"
    return "" if can_reach(server, timeout=_PROBE_S) else f"{server} cannot be reached"


def _has_login(server: str) -> bool:
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return urlsplit(server).hostname in logins.hosts or urlsplit(server).netloc in logins.hosts
