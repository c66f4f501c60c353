"""The lock of an experiment folder, which allows one training at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dwiml.files import reason_of
from dwiml.files.opening import open_regular
from dwiml.training.experiment.holder import LIMIT_S, Holder, is_damaged

LOCK_FILE = "lock.json"
HEARTBEAT_S = 30.0
"""Seconds between two heartbeats."""
SETTLE_S = 0.5
"""Seconds after a takeover at which a process checks whether another process took over the lock at the same time."""

logger = logging.getLogger(__name__)


class ExperimentInUseError(OSError):
    """Another process trains this experiment; the message names it."""


class ExperimentGoneError(OSError):
    """The experiment folder of this process was deleted, or its lock was."""


class ExperimentLock:
    """Locks an experiment folder for this process; also a context manager.

    The lock is a file, ``lock.json``, in the experiment folder; a thread touches it every 30 seconds (heartbeat). The
    process that the file names holds the lock, and checks it before each write (:meth:`check`). The file is created
    with its content. An abandoned lock is taken over, with a warning, if:

    - its process ran on this machine and has ended, or its pid now belongs to another process;
    - its process ran in this SLURM job before the job was requeued;
    - its process is on another machine, and the last heartbeat is more than 5 minutes old, by the clock of the file
      server;
    - the file is damaged or empty.

    Processes of one machine take the lock one after the other (``flock`` on the folder), and a new lock is a hard link,
    which only one process can create, also on network disks. If processes of several machines take over a lock at the
    same time, the last one holds it; the others notice half a second later, or before they write.

    Parameters
    ----------
    folder
        The experiment folder; created if it does not exist.
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
        """Take the lock; do nothing if this object holds it.

        Raises
        ------
        ExperimentInUseError
            If another process, or another lock of this process, holds it.
        OSError
            If the file cannot be written: a full disk, a read-only folder, a link or a pipe of that name.
        """
        if self._me is not None and self._me.pid == os.getpid():
            return
        me = Holder.this_process()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.path.parent):
                self._take(me)
        except (ExperimentInUseError, ExperimentGoneError):
            raise
        except (OSError, ValueError) as error:
            failure = OSError(
                f"The experiment folder '{self.path.parent}' cannot be locked ({reason_of(error)}): '{LOCK_FILE}' "
                "must be written there. Free disk space, check the permissions, or choose another experiments_path."
            )
            failure.errno = getattr(error, "errno", None)
            raise failure from error
        self._me, self._stop = me, threading.Event()
        threading.Thread(target=self._keep_alive, args=(me, self._stop), name="dwiml-lock", daemon=True).start()

    def release(self) -> None:
        """Delete the lock; do nothing if this process does not hold it, or is a fork of the one that took it."""
        self._stop.set()
        me, self._me = self._me, None
        if me is None or me.pid != os.getpid():
            return
        try:
            found = read_lock(self.path)
            if found is not None and found[0] == me:
                self.path.unlink()
        except (OSError, ValueError) as error:
            logger.warning("'%s' could not be deleted (%s); the next training takes it over.", self.path, error)

    @property
    def is_ours(self) -> bool:
        """Whether this object holds the lock; another process may have taken it over while this one was suspended."""
        return self._loss(self._me) is None

    def check(self) -> None:
        """Check that this object still holds the lock, before anything is written to the folder.

        Raises
        ------
        ExperimentInUseError
            If another process has taken it over.
        ExperimentGoneError
            If the folder, or the lock, was deleted or replaced.
        """
        if loss := self._loss(self._me):
            raise loss

    def _loss(self, me: Holder | None) -> OSError | None:
        """Return the error that explains how the lock was lost; None while it is held."""
        folder = self.path.parent
        end = "this training ends and writes nothing more."
        if me is None or me.pid != os.getpid():
            return ExperimentGoneError(f"This process does not hold the lock of the experiment '{folder}'; {end}")
        try:
            found = read_lock(self.path)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) not in (None, errno.ELOOP):
                # A disk that does not respond is not evidence of a takeover.
                return None
            found = None
        holder = None if found is None else found[0]
        if holder == me:
            return None
        if holder is not None:
            return ExperimentInUseError(
                f"The experiment '{folder}' was taken over by {holder} while this process was suspended; {end}"
            )
        if not folder.is_dir():
            return ExperimentGoneError(
                f"The experiment folder '{folder}' no longer exists (deleted, renamed, or its disk removed); {end} If "
                "it was renamed, resume from its checkpoint there."
            )
        return ExperimentGoneError(
            f"The lock '{self.path}' was deleted, replaced or damaged while this training used it; {end}"
        )

    def _take(self, me: Holder) -> None:
        mine = self.path.with_name(f".{LOCK_FILE}.{me.token}.tmp")
        try:
            with os.fdopen(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as stream:
                stream.write(me.written())
                stream.flush()
                os.fsync(stream.fileno())
                # By the clock of the disk.
                now_s = os.fstat(stream.fileno()).st_mtime
            found = read_lock(self.path)
            if found is None:
                try:
                    os.link(mine, self.path)
                    return
                except FileExistsError:
                    # Another machine has just created it.
                    found = read_lock(self.path)
                except OSError as error:
                    logger.debug("'%s' has no hard links (%s).", self.path.parent, error)
            if found is not None:
                self._check_takeover(found[0], now_s - found[1], me)
            os.replace(mine, self.path)
            time.sleep(SETTLE_S)
            if loss := self._loss(me):
                raise loss
        finally:
            with suppress(OSError):
                mine.unlink()

    def _check_takeover(self, holder: Holder | None, age_s: float, me: Holder) -> None:
        """Warn that an abandoned lock is taken over; raise ExperimentInUseError if it may still be in use."""
        reason = "it is damaged" if holder is None else holder.reason_gone(me, age_s)
        if holder is None or reason is not None:
            whose = holder or "an unknown process"
            logger.warning("The lock '%s' of %s was abandoned (%s); it is taken over.", self.path, whose, reason)
            return
        folder, same_machine = self.path.parent, me.is_same_machine(holder)
        if same_machine and holder.pid == me.pid:
            raise ExperimentInUseError(
                f"The experiment '{folder}' is already in use by this {holder}; end its other training first."
            )
        wait = "" if same_machine else f", or wait {LIMIT_S / 60:g} minutes"
        raise ExperimentInUseError(
            f"The experiment '{folder}' is in use by {holder}; wait for it to end or stop it. If that process is gone, "
            f"delete '{self.path}'{wait}."
        )

    def _keep_alive(self, me: Holder, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            loss = self._loss(me)
            if stop.is_set():
                return
            if loss is not None:
                logger.error(loss)
                return
            with suppress(OSError):
                os.utime(self.path, follow_symlinks=False)


def read_lock(path: Path) -> tuple[Holder | None, float] | None:
    """Return the holder of a lock file (None if damaged) and its last heartbeat (s since 1970); None without a file.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is a link, a folder, a device or a pipe.
    """
    try:
        with open_regular(path, "The lock", follow_links=False) as stream:
            return Holder.read(stream.read(1 << 16)), os.fstat(stream.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_running(folder: Path) -> bool:
    """Return whether a process, of this or of another computer, is training the experiment of a folder."""
    try:
        lock = read_lock(folder / LOCK_FILE)
    except (OSError, ValueError):
        return False
    holder, heartbeat = (None, 0.0) if lock is None else lock
    return holder is not None and holder.reason_gone(Holder.this_process(), time.time() - heartbeat) is None


def is_lock(path: Path) -> bool:
    """Return whether a file is a lock of dwiml, or its beginning, or empty, or has just been deleted."""
    try:
        found = read_lock(path)
        if found is None or found[0] is not None:
            return True
        with open_regular(path, "The lock", follow_links=False) as stream:
            raw = stream.read(1 << 16)
    except (OSError, ValueError):
        return False
    # After a power failure, a file may consist of zeros.
    return not raw.strip(b"\0") or is_damaged(raw)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Exclude other processes of this machine from the block; do nothing on a disk without ``flock``."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ExperimentInUseError(
            f"The experiment '{folder}' is being locked by another process; wait for that process to end or stop it."
        ) from None
    except OSError as error:
        logger.debug("'%s' has no flock (%s).", folder, error)
    try:
        yield
    finally:
        os.close(handle)
