"""One training per experiment: the lock in its folder, who holds it, and when it may be taken over."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from pathlib import Path

from dwiml.training.experiment.holder import LIMIT_S, Holder, why_stale
from dwiml.training.experiment.lock_file import LOCK_FILE, Found, NotALockError, age_s, alone_with, create, look, remove

# Seconds: between two signs of life; for which a file stays unreadable, until it counts as left by a crash.
HEARTBEAT_S = 30.0
UNREADABLE_S = 5.0

_PAUSE_S = 0.05

logger = logging.getLogger(__name__)


class ExperimentInUseError(OSError):
    """Another process trains this experiment; the message says which one, and what to do."""


class ExperimentGoneError(OSError):
    """The folder of the experiment that this process trains is gone, or no longer its own."""


class ExperimentLock:
    """Says that this process trains an experiment, and keeps others from doing so; a context manager, if you like.

    The lock is a file, ``lock.json``, in the experiment's folder, which a thread touches every 30 seconds. A lock that
    was left is taken over, with a warning:

    - the process was on this machine and is gone, or its pid is now another process';
    - it was in this SLURM job before the job was requeued;
    - it is on a machine that cannot be looked at, and the file was not touched for 5 minutes, by the clock of the disk
      that holds it;
    - the file is damaged or empty, and has stayed exactly so for 5 seconds. A process that is killed while it makes the
      lock leaves such a file; one that is merely slow finds that its file was removed, and does not hold the lock.

    All who remove a lock do so under ``flock`` on that very file, so of many that want it one has it. On a disk without
    ``flock``, whoever removed another lock than the one it had judged puts it back.

    Parameters
    ----------
    folder
        The experiment's folder; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / LOCK_FILE
        self._me: Holder | None = None
        self._stop = threading.Event()

    def __enter__(self) -> ExperimentLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; nothing happens when this object holds it.

        Raises
        ------
        ExperimentInUseError
            When another process, or another lock of this process, holds it.
        OSError
            When the file cannot be written: a full disk, a folder that one may only read.
        """
        if self._me is not None and self._me.pid == os.getpid():
            return
        me = Holder.this_process()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire(me)
        except OSError as error:
            if isinstance(error, ExperimentInUseError):
                raise
            reason = (error.strerror or str(error)).lower()
            failure = OSError(
                f"The experiment's folder '{self.path.parent}' cannot be locked ({reason}): '{LOCK_FILE}' must be "
                "written there; make room or get the right to write, or choose another experiments_path."
            )
            failure.errno = error.errno
            raise failure from error
        self._me = me
        self._stop = threading.Event()
        threading.Thread(target=self._keep_alive, args=(me, self._stop), name="dwiml-lock", daemon=True).start()

    def release(self) -> None:
        """Give the lock back: delete the file if it is still ours. Not held, or forked since: do nothing."""
        me, self._me = self._me, None
        if me is None or me.pid != os.getpid():
            return
        self._stop.set()
        try:
            with alone_with(self.path) as found:
                if found is not None and found.holder == me:
                    self.path.unlink()
        except OSError as error:
            logger.warning("'%s' could not be deleted (%s); it is taken over when it is next met.", self.path, error)

    @property
    def is_ours(self) -> bool:
        """Whether this object holds the lock: no longer, once someone took it over (this process was suspended)."""
        return self._me is not None and self._loss() is None

    def check(self) -> None:
        """Check that this object still holds the lock, before anything is written in the experiment.

        Raises
        ------
        ExperimentInUseError
            When another process has taken it over.
        ExperimentGoneError
            When the folder is gone, or the lock was deleted or replaced.
        """
        loss = self._loss()
        if loss is not None:
            raise loss

    def _loss(self) -> OSError | None:
        """Return the error that says how the lock was lost; None while it is held."""
        folder, me = self.path.parent, self._me
        end = "this training ends here and writes nothing more."
        if me is None or me.pid != os.getpid():
            return ExperimentGoneError(f"This process does not hold the lock of the experiment '{folder}'; {end}")
        try:
            found = look(self.path)
        except NotALockError as error:
            return ExperimentGoneError(f"The lock of the experiment '{folder}' was replaced ({error}); {end}")
        except OSError:
            # A disk that does not answer says nothing about others.
            return None
        if found is not None and found.holder == me:
            return None
        if found is not None and found.holder is not None:
            return ExperimentInUseError(
                f"The experiment '{folder}' was taken over by {found.holder} while this process was suspended; {end}"
            )
        if not folder.is_dir():
            return ExperimentGoneError(
                f"The experiment's folder '{folder}' is gone (deleted, renamed, or its disk removed); {end} If it was "
                "renamed, go on from its checkpoint there."
            )
        return ExperimentGoneError(f"The lock '{self.path}' was deleted or damaged while this training used it; {end}")

    def _acquire(self, me: Holder) -> None:
        unreadable: tuple[Found | None, float] = (None, 0.0)
        limit = time.monotonic() + 4 * UNREADABLE_S
        while not create(self.path, me):
            if time.monotonic() > limit:
                raise ExperimentInUseError(f"'{self.path}' keeps changing: other processes want it too; try again.")
            found = look(self.path)
            if found is not None and found.holder is not None:
                reason = why_stale(found.holder, me, partial(age_s, self.path, found))
                if reason is None:
                    raise ExperimentInUseError(self._refusal(found.holder, me))
            elif found != unreadable[0]:
                unreadable = (found, time.monotonic())
                continue
            elif found is None or time.monotonic() - unreadable[1] < UNREADABLE_S:
                time.sleep(_PAUSE_S)
                continue
            else:
                reason = f"it is damaged and has not changed for {UNREADABLE_S:g} s"
            if remove(self.path, found):
                whose = f"of {found.holder}" if found.holder else "of an unknown process"
                logger.warning("The lock '%s' %s was left behind (%s); it is taken over.", self.path, whose, reason)

    def _refusal(self, holder: Holder, me: Holder) -> str:
        if holder.pid == me.pid and me.sees(holder):
            return f"The experiment '{self.path.parent}' is in use by this very {holder}; end its other training first."
        wait = "" if me.sees(holder) else f", or wait {LIMIT_S / 60:g} minutes"
        what = f"The experiment '{self.path.parent}' is in use by {holder}; wait for it to end or stop it."
        return f"{what} If that process is gone, delete '{self.path}'{wait}."

    def _keep_alive(self, me: Holder, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                found = look(self.path)
                if stop.is_set():
                    return
                if found is None or found.holder != me:
                    taker = f"taken over by {found.holder}" if found and found.holder else "deleted or damaged"
                    logger.error("The lock '%s' was %s while this training goes on.", self.path, taker)
                    return
                os.utime(self.path, follow_symlinks=False)
            except OSError as error:
                logger.debug("'%s' could not be touched (%s); trying again.", self.path, error)
