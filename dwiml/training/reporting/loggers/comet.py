"""Logging to Comet.ml: imported only if requested, offline without a network, and never able to stop a training."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import shlex
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from dwiml.params import checks_arguments
from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics
from dwiml.training.reporting.loggers.batches import records_after
from dwiml.training.reporting.loggers.delivery import Delivery
from dwiml.training.reporting.loggers.network import can_reach, within
from dwiml.training.reporting.metrics import BATCH, EPOCH, STEP

logger = logging.getLogger(__name__)

OFFLINE_FOLDER = "comet_offline"
# Comet's own time limits for a server that does not respond are minutes at the start, and an hour at the end.
_COMET_TIMEOUT_S = 60.0
# Longest wait for the confirmation of the server at the end of an epoch; unconfirmed values are still sent in the
# background.
_CONFIRM_S = 5.0
# Minimum time to wait for the server, however long the import took.
_SHORTEST_PROBE_S = 2.0

# Data that Comet would collect by itself; only the parameters and metrics of the trainer are sent.
_NOTHING_AUTOMATIC = {
    "log_code": False,
    "log_graph": False,
    "parse_args": False,
    "log_git_metadata": False,
    "log_git_patch": False,
    "log_env_details": False,
    "auto_output_logging": False,
    "auto_param_logging": False,
    "auto_metric_logging": False,
    "auto_log_co2": False,
    "display_summary_level": 0,
}
# Read by Comet when it is imported: no patching of other libraries, no console messages, no crash reports.
_QUIET_IMPORT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_LOGGING_CONSOLE": "CRITICAL",
    "COMET_ERROR_TRACKING_ENABLE": "false",
}


class CometLogger(Logger):
    """Sends parameters and metrics to Comet.ml, or saves them in ``comet_offline/`` for a later upload.

    Comet is imported and started with the first parameters or metrics, so that a resumed run can set its key before.
    It runs offline if no API key is configured or the server does not respond in time. A failure of Comet gives one
    warning, and Comet is not called again until the run is resumed.

    Parameters
    ----------
    workspace, project
        Workspace and project on Comet.
    experiment_name
        Name of the run on Comet.
    folder
        The experiment folder.
    key
        Key of a Comet experiment to continue (32 to 50 letters and digits); None for a new one.
    timeout
        Time to wait for the Comet server, in seconds.
    verbose
        Whether to report in a warning that Comet is offline (otherwise in a message of level INFO).

    Notes
    -----
    Comet writes an offline archive when a run ends, so a killed process leaves none. The checkpoint's state therefore
    holds all epochs that are not yet on the server; a resumed run logs them again, and its archive replaces that of the
    run that it continues. Online, Comet's client sends in the background, so that an epoch is in the state until the
    client has no more to send.
    """

    name = "comet"
    # In seconds; None for the usual one.
    end_timeout: float | None = None

    @checks_arguments
    def __init__(
        self,
        workspace: str,
        project: str,
        experiment_name: str,
        folder: str | os.PathLike[str],
        *,
        key: str | None = None,
        timeout: float = 5.0,
        verbose: bool = True,
    ) -> None:
        self.workspace, self.project, self.experiment_name = workspace, project, experiment_name
        # Absolute, because the message that names it must be valid in any folder.
        self.offline_folder = Path(folder).absolute() / OFFLINE_FOLDER
        self.timeout, self.verbose, self.key = timeout, verbose, key or uuid.uuid4().hex
        self.online: bool | None = None
        self._experiment: Any = None
        self._failed = False
        self._pending: list[dict[str, Any]] = []
        self._folder = Path(folder)
        # Records of batches for the end of the epoch, the last step given to Comet, and the last that is on the server.
        self._batches: list[dict[str, float]] = []
        self._given = self._step = 0
        self._delivery: Delivery | None = None
        self._is_slow = False
        self._superseded: list[Path] = []

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Send the parameters; nested dictionaries become names joined by ``|``."""
        self._attempt(lambda experiment: experiment.log_parameters(dict(params)))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Send the metrics of an epoch, with the epoch also as the step.

        Raises
        ------
        ValueError
            If a value is not a single finite number.
        """
        epoch = plain_epoch(epoch)
        record = {"epoch": epoch, "metrics": plain_metrics(metrics, epoch)}
        batches, self._batches = self._batches, []
        given = self._attempt(lambda experiment: _send(experiment, record, batches))
        self._pending.append(record)
        if given and self.online:
            self._given = int(batches[-1][STEP]) if batches else self._given
            self._confirm()

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Keep the records of batches for the end of the epoch, so that a killed run has not sent them yet."""
        self._batches += [dict(record) for record in records]

    def log_figure(self, name: str, figure: Any) -> None:
        """Send a figure of matplotlib."""
        self._attempt(lambda experiment: experiment.log_figure(figure_name=name, figure=figure, overwrite=True))

    @property
    def url(self) -> str | None:
        """Address of the experiment on Comet; None if it is not there."""
        return str(self._experiment.url) if self.online and self._experiment is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return the key, the epochs that are not on the Comet server, and the last step of a batch that is."""
        return {"key": self.key, "pending": [dict(record) for record in self._pending], STEP: self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the Comet experiment of a checkpoint."""
        check_comet_state(state)
        if self._experiment is not None:
            self.close()
        self.key = state["key"]
        self._pending = [dict(record) for record in state["pending"]]
        self._given = self._step = state.get(STEP, 0)
        try:
            self._batches = records_after(self._folder, self._step)
        except (OSError, ValueError) as error:
            logger.warning("Comet does not get the batches of the previous run: %s", error)
        self._superseded = self._archives()

    def close(self) -> str | None:
        """End the Comet experiment; return where to see it, or how to upload it."""
        experiment, self._experiment = self._experiment, None
        if experiment is None:
            if self._delivery is not None:
                self._delivery.close()
            return self._how_to_send_all() if self.online and self._failed else None
        try:
            if not self.online:
                # A resumed run writes all of it again.
                _send_batches(experiment, self._batches)
            within(self.end_timeout or _COMET_TIMEOUT_S, experiment.end)
            problem = self._delivery.problem(experiment) if self._delivery is not None and self.online else ""
            if problem:
                raise ConnectionError(problem)
            has_archive = self._tidy_archives()
        except Exception as error:
            self.stop(error)
            return self._how_to_send_all() if self.online else None
        finally:
            if self.online and self._failed:
                self.discard()
            if self._delivery is not None:
                self._delivery.close()
        if self.online:
            return self._how_to_send_all() if self._failed else f"Comet shows this run at {experiment.url}"
        if not has_archive:
            return None
        command = f"comet upload {shlex.quote(str(self.offline_folder))}/*.zip"
        return f"Comet was offline; from a computer with internet and your API key, run: {command}"

    def discard(self) -> None:
        """Remove what Comet's client has saved instead of sending it, which cannot be added to what is on Comet."""
        with suppress(OSError):
            for path in set(self._archives()) - set(self._superseded):
                path.unlink(missing_ok=True)
            # Another run may have archives there.
            self.offline_folder.rmdir()

    def _how_to_send_all(self) -> str:
        command = f"dwiml comet_upload {shlex.quote(str(self._folder.absolute()))} -f"
        return (
            "Comet does not have all of this run. A resumed run sends what is missing; or, with internet and your API "
            f"key, send it as a new experiment: {command}"
        )

    def _confirm(self) -> None:
        """Remove from the state what the server has confirmed."""
        try:
            if self._delivery is None:
                return
            if self._delivery.confirm(self._experiment, _CONFIRM_S):
                self._pending, self._step = [], self._given
            elif not self._is_slow:
                self._is_slow = True
                logger.warning("Comet is slow: the training goes on while its values are being sent.")
        except Exception as error:
            self.stop(error)

    def _tidy_archives(self) -> bool:
        """Remove the archives of the runs that this one continued; return whether this one has written any."""
        new = [path for path in self._archives() if path not in self._superseded and _is_whole(path)]
        # Their content is now on the server or in the new archive.
        if (self.online or new) and not self._failed:
            for path in self._superseded:
                path.unlink(missing_ok=True)
        self._superseded = self._archives()
        return bool(new)

    def _attempt(self, action: Callable[[Any], object]) -> bool:
        """Start Comet if needed and run the action; return False if Comet is off."""
        if self._failed:
            return False
        try:
            if self._experiment is None:
                self._start()
            action(self._experiment)
        except Exception as error:
            self.stop(error)
            return False
        return True

    def stop(self, error: Exception) -> None:
        """Stop calling Comet after an error, which is reported in a warning."""
        if self._failed:
            return
        self._failed = True
        logger.warning(
            "Comet failed (%s: %s); the training continues without it, and the metrics are in the local log.",
            type(error).__name__,
            error,
        )

    def _start(self) -> None:
        reason = why_offline(timeout=self.timeout)
        comet_ml = _import_comet()
        self.online = not reason
        if reason:
            level = logging.WARNING if self.verbose else logging.INFO
            logger.log(level, "Comet is offline: %s. Its data are saved in '%s'.", reason, self.offline_folder)
            self.offline_folder.mkdir(parents=True, exist_ok=True)
        start = functools.partial(
            comet_ml.start,
            workspace=self.workspace,
            project_name=self.project,
            experiment_key=self.key,
            # Works for a first run and for a continued one, also if they are uploaded in any order.
            mode="get_or_create",
            online=self.online,
            experiment_config=comet_ml.ExperimentConfig(
                name=self.experiment_name, offline_directory=str(self.offline_folder), **_NOTHING_AUTOMATIC
            ),
        )
        # Offline, it starts in this thread, so that Comet's exit hook writes the archive if close() is not called.
        # Online, that hook could block the exit of the program; it only runs in the thread that started Comet.
        self._delivery = Delivery() if self.online else None
        self._experiment = within(_COMET_TIMEOUT_S, start) if self.online else start()
        for record in self._pending:
            # Offline, batches are sent at the end.
            own = [each for each in self._batches if each[EPOCH] == record["epoch"]] if self.online else []
            _send(self._experiment, record, own)
            if own:
                self._batches = [each for each in self._batches if each not in own]
                self._given = max(self._given, int(own[-1][STEP]))

    def _archives(self) -> list[Path]:
        if self.offline_folder.is_symlink():
            # Archives elsewhere are not removed.
            return []
        return sorted(self.offline_folder.glob(f"{self.key}*.zip"))


def why_offline(*, timeout: float) -> str:
    """Return why nothing can be sent to Comet within a time limit (s), import included; empty if it can."""
    begin = time.monotonic()
    comet_ml = _import_comet()
    config = comet_ml.config.get_config()
    if not comet_ml.config.get_api_key(None, config):
        return "no API key is configured (COMET_API_KEY)"
    server = comet_ml.config.get_backend_address()
    left = max(timeout - (time.monotonic() - begin), min(timeout, _SHORTEST_PROBE_S))
    return "" if can_reach(urljoin(server, "isAlive/ver"), timeout=left) else f"{server} cannot be reached"


def check_comet_state(state: Any) -> None:
    """Check a state of :meth:`CometLogger.state_dict`, which may come from an untrusted file.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    # That of an earlier version has no step.
    if type(state) is not dict or state.keys() | {STEP} != {"key", "pending", STEP}:
        raise ValueError("The state of Comet must have the keys 'key', 'pending' and 'step'.")
    if type(state.get(STEP, 0)) is not int or state.get(STEP, 0) < 0:
        raise ValueError("Comet's 'step' must be a number of batches.")
    # Files whose name starts with the key are removed.
    if type(state["key"]) is not str or not re.fullmatch(r"[0-9A-Za-z]{32,50}", state["key"]):
        raise ValueError("Comet's 'key' must be 32 to 50 letters and digits.")
    if type(state["pending"]) is not list:
        raise ValueError("Comet's 'pending' must be a list.")
    for record in state["pending"]:
        if type(record) is not dict or record.keys() != {"epoch", "metrics"} or type(record["metrics"]) is not dict:
            raise ValueError("Each item of Comet's 'pending' must have an epoch and its metrics.")
        plain_metrics(record["metrics"], plain_epoch(record["epoch"]))


def _send(experiment: Any, record: Mapping[str, Any], batches: Sequence[Mapping[str, float]] = ()) -> None:
    _send_batches(experiment, batches)
    experiment.log_metrics(record["metrics"], step=record["epoch"], epoch=record["epoch"])


def _send_batches(experiment: Any, records: Sequence[Mapping[str, float]]) -> None:
    for each in records:
        # Other names than those of the epochs, whose steps are epochs.
        values = {f"batch_{name}": value for name, value in each.items() if name not in (EPOCH, BATCH, STEP)}
        experiment.log_metrics(values, step=each[STEP], epoch=each[EPOCH])


def _is_whole(archive: Path) -> bool:
    # A killed process leaves a valid, empty archive.
    if not zipfile.is_zipfile(archive):
        return False
    with zipfile.ZipFile(archive) as content:
        return bool(content.namelist())


def _import_comet() -> Any:
    """Import Comet without its side effects on the process: messages, patches, an exception hook."""
    hook = sys.excepthook
    # Variables set by the user have priority.
    added = {name: value for name, value in _QUIET_IMPORT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        return importlib.import_module("comet_ml")
    finally:
        sys.excepthook = hook
        for name in added:
            os.environ.pop(name, None)
