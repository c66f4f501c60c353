"""Send an experiment to Comet.ml afterwards, from its local logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dwiml.files import read_json, write_json
from dwiml.inspection.runs import RUNNING, describe_run
from dwiml.training.reporting.loggers import CometLogger, read_metrics
from dwiml.training.reporting.loggers.batches import records_after
from dwiml.training.reporting.loggers.comet import OFFLINE_FOLDER, why_offline
from dwiml.training.reporting.metrics import EPOCH
from dwiml.viz.curves.reading import PARAMETERS_FILE, read_logs
from dwiml.viz.logs import plot_logs

RECEIPT_FILE = "comet_upload.json"
"""Written in the experiment folder: where the experiment is on Comet."""


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
    metrics = read_metrics(folder)
    parameters = _parameters(folder)
    trainer = parameters.get("trainer", {})
    workspace, project = workspace or trainer.get("comet_workspace"), project or trainer.get("comet_project")
    if not (isinstance(workspace, str) and isinstance(project, str)):
        raise ValueError(f"Experiment '{folder}' records no workspace and project on Comet: give both.")
    _check(folder, again=again)
    batches = records_after(folder, 0)
    reason = why_offline(timeout=10.0)
    if reason:
        raise OSError(f"Comet is offline: {reason}. Nothing was sent.")
    figure = plot_logs(read_logs([folder]))
    log = _Uploader(workspace, project, folder.resolve().name, folder)
    try:
        log.log_parameters(parameters)
        for record in metrics:
            log.log_batches([each for each in batches if each[EPOCH] == record[EPOCH]])
            log.log_metrics({name: value for name, value in record.items() if name != EPOCH}, record[EPOCH])
        log.log_figure("curves", figure)
        url = str(log.url)
        log.close()
    except Exception as error:
        raise OSError(
            f"Comet failed ({type(error).__name__}: {error}); the experiment is not complete there."
        ) from error
    write_json(folder / RECEIPT_FILE, {"url": url, "epochs": len(metrics)})
    return url


class _Uploader(CometLogger):
    """Raises the errors of Comet: there is no training that must continue."""

    def stop(self, error: Exception) -> None:
        """Raise the error."""
        raise error


def _check(folder: Path, *, again: bool) -> None:
    if describe_run(folder).status == RUNNING:
        raise ValueError(f"Experiment '{folder}' is still in training; send it when it has ended.")
    if again:
        return
    if (folder / RECEIPT_FILE).is_file():
        receipt = read_json(folder / RECEIPT_FILE, "The receipt of Comet")
        where = f" ({receipt['url']})" if isinstance(receipt, dict) and isinstance(receipt.get("url"), str) else ""
        raise ValueError(f"Experiment '{folder}' was sent to Comet before{where}; send it again as a new one with -f.")
    if any((folder / OFFLINE_FOLDER).glob("*.zip")):
        raise ValueError(
            f"The training of '{folder}' has logged to Comet itself: send its archives with 'comet upload "
            f"{folder / OFFLINE_FOLDER}/*.zip', or its logs as a new experiment with -f."
        )


def _parameters(folder: Path) -> dict[str, Any]:
    path = folder / PARAMETERS_FILE
    recorded = read_json(path, "The file of parameters") if path.is_file() else {}
    return recorded if isinstance(recorded, dict) else {}
