"""The loader's worker processes, and the signals that stop a training."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
from pathlib import Path

UNSENT = 100
"""Exit code of a worker that could not send a batch, to which the system's error number is added."""
LEFT_TO_MAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def leave_signals_to_main(worker_id: int) -> None:
    """Have a worker ignore the signals that stop a training: SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2.

    A ``worker_init_fn`` for ``torch.utils.data.DataLoader``. Ctrl-C, ``scancel`` and SLURM's time limit send their
    signal to all processes of a job. The main process then finishes its step and writes a checkpoint, for which it may
    need one more batch; a worker that died of the signal would end it with an error instead.

    A worker still ends:

    - when its loader is deleted or closed: torch sets an event that the workers share and sends each an empty task;
    - when the main process dies, even by SIGKILL: between two batches a worker looks every 5 seconds (torch's
      watchdog) whether its parent is still the same;
    - when the main process leaves with a loader still alive (in a global variable, in the traceback of an error):
      multiprocessing then sends SIGTERM and waits, which would be for ever; :func:`end_workers_at_exit` has them killed
      just before.

    Before this function is called a worker dies of these signals as any process does: for some milliseconds where
    workers are forked, for the seconds of its imports where they are spawned.

    Parameters
    ----------
    worker_id
        Given by torch; of no use here.

    Notes
    -----
    A worker that cannot send its batch (no more open files, a full shared memory) ends with a code that says why, which
    :func:`dwiml.batching.delivery.delivered` reads.
    """
    for number in LEFT_TO_MAIN:
        signal.signal(number, signal.SIG_IGN)
    # Or the main process would wait for ever for a batch that could not be sent.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_leave_when_mute)  # type: ignore[attr-defined]


def _leave_when_mute(error: BaseException, batch: object) -> None:
    os._exit(UNSENT + errno_of_failure(error))


def errno_of_failure(error: BaseException) -> int:
    """Return the system's error number, which torch has in its text only; 0 where there is none."""
    number = getattr(error, "errno", None)
    found = re.search(r"\((\d{1,2})\)\s*$", str(error))
    return number if isinstance(number, int) else int(found.group(1)) if found else 0


@functools.cache
def end_workers_at_exit() -> None:
    """Have the workers that are left when this process ends killed, before multiprocessing waits for them.

    For whoever starts workers with :func:`leave_signals_to_main`; once is enough.
    """
    # What is registered last is called first, and multiprocessing has registered its own when it was imported.
    atexit.register(_end_workers_left, os.getpid())


def _end_workers_left(owner: int) -> None:
    if os.getpid() != owner:
        # Forked since: the workers are another process's.
        return
    left = [child for child in multiprocessing.active_children() if child.daemon and _is_deaf(child.pid)]
    if left:
        # torch's handler would make an error of each worker that is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in left:
        child.kill()


def _is_deaf(pid: int | None) -> bool:
    """Tell whether a process ignores all signals that are left to the main process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    found = re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)
    ignored = int(found.group(1), 16) if found else 0
    return all(ignored >> (number - 1) & 1 for number in LEFT_TO_MAIN)
