"""Worker processes of the batch loader, and their handling of the signals that stop a training."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
from pathlib import Path

SEND_FAILED = 100
"""A worker that could not send a batch exits with this code plus the error number of the system."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that only the main process handles."""


def ignore_stop_signals(worker_id: int) -> None:
    """Make a worker ignore the signals that stop a training: SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2.

    A ``worker_init_fn`` for ``torch.utils.data.DataLoader``. Ctrl-C, ``scancel`` and SLURM's time limit send their
    signal to all processes of a job. The main process then finishes its step and writes a checkpoint, for which it may
    need one more batch; the death of a worker would be an error.

    A worker still ends with its loader, within 5 seconds of the death of the main process (torch's watchdog), and at
    the exit of the main process (:func:`kill_workers_at_exit`). The signals also end a worker that has not called this
    function yet: during a few milliseconds after a fork, or during the seconds of its imports after a spawn.

    Parameters
    ----------
    worker_id
        Given by torch; not used.

    Notes
    -----
    A worker that cannot send its batch (no more open files, full shared memory) exits with a code that states the
    reason; :func:`dwiml.batching.delivery.iterate_batches` converts it to an error.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # By default the error is only printed, and the main process waits forever for the batch.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_send_failed)  # type: ignore[attr-defined]


def _exit_send_failed(error: BaseException, batch: object) -> None:
    os._exit(SEND_FAILED + error_number(error))


def error_number(error: BaseException) -> int:
    """Return the error number of the system, from the message if torch gives it only there; 0 if there is none."""
    number = getattr(error, "errno", None)
    found = re.search(r"\((\d{1,2})\)\s*$", str(error))
    return number if isinstance(number, int) else int(found.group(1)) if found else 0


@functools.cache
def kill_workers_at_exit() -> None:
    """Kill the remaining workers when this process exits, before multiprocessing waits for them forever.

    Necessary for workers that use :func:`ignore_stop_signals`. Later calls have no effect.
    """
    # Exit functions run in reverse order; multiprocessing registered its own when it was imported.
    atexit.register(_kill_remaining_workers, os.getpid())


def _kill_remaining_workers(owner: int) -> None:
    if os.getpid() != owner:
        # This process was forked later: the workers belong to its parent.
        return
    remaining = [
        child for child in multiprocessing.active_children() if child.daemon and _ignores_stop_signals(child.pid)
    ]
    if remaining:
        # torch's handler would raise an error for each killed worker.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in remaining:
        child.kill()


def _ignores_stop_signals(pid: int | None) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    found = re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)
    ignored = int(found.group(1), 16) if found else 0
    return all(ignored >> (number - 1) & 1 for number in STOP_SIGNALS)
