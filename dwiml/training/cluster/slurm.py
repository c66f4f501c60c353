"""Requeueing a SLURM job."""

from __future__ import annotations

import logging
import os
import signal
import subprocess

TIMEOUT_S = 30.0
_NO_JOB = "this is not a SLURM job (SLURM_JOB_ID is not set)"

logger = logging.getLogger(__name__)


def requeue() -> str:
    """Ask SLURM to requeue this job (``scontrol requeue``); a failure is logged, never raised.

    Call it once the checkpoint is written: SLURM may end the job immediately. A task of a job array is named
    ``<array job>_<task>``, as in SLURM.

    Returns
    -------
    str
        A sentence for the user, which is also logged: as information if the job was requeued, as a warning if it was
        not (no SLURM, no ``scontrol``, a refusal, or no answer within 30 seconds).
    """
    job = _job()
    if job is None:
        return _warned(f"Not requeued: {_NO_JOB}.")
    command = ["scontrol", "requeue", job]
    by_hand = f"to continue, submit the job again or run: {' '.join(command)}"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except FileNotFoundError:
        return _warned(f"Job {job} was not requeued: there is no scontrol on PATH; {by_hand}")
    except subprocess.TimeoutExpired:
        return _warned(
            f"Job {job} may not have been requeued: scontrol did not answer in {TIMEOUT_S:g} s; see squeue; {by_hand}"
        )
    except OSError as error:
        return _warned(f"Job {job} was not requeued: scontrol cannot be run ({error.strerror}); {by_hand}")
    if done.returncode < 0:
        # SLURM ends all processes of a job before it requeues it.
        name = _signal_name(-done.returncode)
        return _warned(f"Job {job}: scontrol was ended by {name}, as when SLURM ends a job to requeue it; see squeue.")
    if done.returncode > 0:
        said = " ".join((done.stderr or done.stdout).split())[:300] or f"exit code {done.returncode}"
        return _warned(f"Job {job} was not requeued: scontrol refused ({said.rstrip('.')}); {by_hand}")
    sentence = f"Job {job} was requeued: SLURM restarts it, and the training continues from its checkpoint."
    logger.info("%s", sentence)
    return sentence


def in_job() -> bool:
    """Return whether this process runs in a SLURM job."""
    return _job() is not None


def warn_without_job() -> None:
    """Warn at the start of a training if ``requeue`` has no effect."""
    if not in_job():
        _warned(f"requeue has no effect here: {_NO_JOB}.")


def _job() -> str | None:
    """Return the name of this job for scontrol; None outside a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ.get("SLURM_JOB_ID") or None
    return f"{array}_{task}" if job and array and task else job


def _warned(sentence: str) -> str:
    logger.warning("%s", sentence)
    return sentence


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
