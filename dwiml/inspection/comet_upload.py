"""Send an experiment to Comet.ml afterwards, from its local logs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwiml.files import read_json, write_json
from dwiml.inspection.runs import RUNNING, describe_run
from dwiml.training.reporting.loggers import CometLogger, Logger, read_metrics
from dwiml.training.reporting.loggers.base import plain_metrics
from dwiml.training.reporting.loggers.comet import OFFLINE_FOLDER, why_offline
from dwiml.training.reporting.loggers.replay import replay
from dwiml.viz.curves.reading import PARAMETERS_FILE
from dwiml.viz.logs import plot_logs

RECEIPT_FILE = "comet_upload.json"
"""Written in the experiment folder: where the experiment is on Comet."""
_PROBE_S = 10.0


def upload_to_comet(
    experiment: str | os.PathLike[str],
    *,
    workspace: str | None = None,
    project: str | None = None,
    again: bool = False,
) -> str:
    """Send the parameters, metrics, batches and curves of an experiment to a new experiment on Comet.

    Nothing that the experiment names is imported.

    Parameters
    ----------
    experiment
        The experiment folder.
    workspace, project
        Workspace and project on Comet; None for those that the experiment recorded.
    again
        Whether it may be sent although it was before, or although its training has logged to Comet.

    Returns
    -------
    str
        Address of the experiment on Comet.

    Raises
    ------
    ValueError
        If it is still in training, has no workspace or project, or would be on Comet twice; or a log is invalid.
    OSError
        If a log cannot be read, or Comet cannot be reached or fails.
    """
    folder = Path(experiment)
    nb_epochs = len(read_metrics(folder))
    parameters = _parameters(folder)
    trainer = parameters.get("trainer")
    recorded = trainer if isinstance(trainer, dict) else {}
    workspace, project = workspace or recorded.get("comet_workspace"), project or recorded.get("comet_project")
    if not (isinstance(workspace, str) and isinstance(project, str)):
        raise ValueError(f"Experiment '{folder}' records no workspace and project on Comet: give both.")
    _check(folder, recorded, again=again)
    figure = plot_logs([folder])
    # Its records are checked before anything is sent.
    replay(folder, _Checker())
    reason = why_offline(timeout=_PROBE_S)
    if reason:
        raise OSError(f"Comet is offline: {reason}. Nothing was sent.")
    log = _Uploader(workspace, project, folder.resolve().name, folder, timeout=_PROBE_S)
    try:
        log.log_parameters(parameters)
        if not log.online:
            raise ConnectionError("it went offline; what it saved can be removed")
        replay(folder, log)
        log.log_figure("curves", figure)
        url = str(log.url)
        log.close()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.discard()
        raise OSError(f"Comet failed ({reason}); the experiment is not complete there.") from error
    try:
        write_json(folder / RECEIPT_FILE, {"url": url, "epochs": nb_epochs}, follow_links=False)
    except OSError as error:
        raise OSError(f"Comet has the experiment ({url}), but '{folder}' cannot be written: {error}") from error
    return url


class _Checker(Logger):
    """Checks metrics as Comet's logger does."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Check the metrics of an epoch."""
        plain_metrics(metrics, epoch)


class _Uploader(CometLogger):
    """Raises the errors of Comet: there is no training that must continue."""

    end_timeout = 3600.0

    def stop(self, error: Exception) -> None:
        """Raise the error."""
        raise error

    def _confirm(self) -> None:
        """Leave it to the end, which waits until all is sent."""


def _check(folder: Path, trainer: Mapping[str, Any], *, again: bool) -> None:
    if describe_run(folder).status == RUNNING:
        raise ValueError(f"Experiment '{folder}' is still in training; send it when it has ended.")
    if again:
        return
    if (folder / RECEIPT_FILE).is_file():
        receipt = read_json(folder / RECEIPT_FILE, "The receipt of Comet")
        where = f" ({receipt['url']})" if isinstance(receipt, dict) and isinstance(receipt.get("url"), str) else ""
        raise ValueError(f"Experiment '{folder}' was sent to Comet before{where}; send it again as a new one with -f.")
    has_archives = any((folder / OFFLINE_FOLDER).glob("*.zip"))
    if has_archives or trainer.get("comet_workspace") is not None:
        archives = f"send its archives with 'comet upload {shlex.quote(str(folder / OFFLINE_FOLDER))}/*.zip', or "
        raise ValueError(
            f"The training of '{folder}' has logged to Comet itself: {archives if has_archives else ''}send its logs "
            "as a new experiment with -f."
        )


def _parameters(folder: Path) -> dict[str, Any]:
    path = folder / PARAMETERS_FILE
    recorded = read_json(path, "The file of parameters") if path.is_file() else {}
    return recorded if isinstance(recorded, dict) else {}
