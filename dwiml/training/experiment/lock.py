"""One training per experiment: the lock in its folder, and when it may be taken over."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dwiml.files import reason_of
from dwiml.files.opening import open_regular
from dwiml.training.experiment.holder import LIMIT_S, Holder

LOCK_FILE = "lock.json"
HEARTBEAT_S = 30.0
"""Seconds between two signs of life."""
SETTLE_S = 0.5
"""Seconds after which a process that took a lock over looks whether another did so at the same moment."""

logger = logging.getLogger(__name__)


class ExperimentInUseError(OSError):
    """Another process trains this experiment; the message says which one, and what to do."""


class ExperimentGoneError(OSError):
    """The folder of the experiment that this process trains is gone, or no longer its own."""


class ExperimentLock:
    """Says that this process trains an experiment, and keeps others from doing so; also a context manager.

    The lock is a file, ``lock.json``, in the experiment's folder, which a thread touches every 30 seconds. Whoever the
    file names holds the lock, and looks there before each write (:meth:`check`). The file has its content from its
    first moment on. A lock that was left is taken over, with a warning:

    - the process was on this machine and is gone, or its pid is now another process;
    - it was in this SLURM job before the job was requeued;
    - it is on a machine that cannot be looked at, and the file was not touched for 5 minutes, by the clock of the disk
      that holds it;
    - the file is damaged or empty.

    The processes of a machine take it one after the other (``flock`` on the folder), and a new lock is a hard link,
    which only one process can make, on network disks too. Of processes on several machines that take over the same lock
    at the same moment, the last one has it; the others notice half a second later, or before they write.

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
            When the file cannot be written: a full disk, a read-only folder, a link or a pipe of that name.
        """
        if self._me is not None and self._me.pid == os.getpid():
            return
        me = Holder.this_process()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire(me)
        except (ExperimentInUseError, ExperimentGoneError):
            raise
        except (OSError, ValueError) as error:
            failure = OSError(
                f"The experiment's folder '{self.path.parent}' cannot be locked ({reason_of(error)}): '{LOCK_FILE}' "
                "must be written there; make room or get the right to write, or choose another experiments_path."
            )
            failure.errno = getattr(error, "errno", None)
            raise failure from error
        self._stop = threading.Event()
        threading.Thread(target=self._keep_alive, args=(me, self._stop), name="dwiml-lock", daemon=True).start()

    def release(self) -> None:
        """Delete the lock if it is still ours. Not held, or forked since: do nothing."""
        self._stop.set()
        me, self._me = self._me, None
        if me is None or me.pid != os.getpid():
            return
        try:
            found = look(self.path)
            if found is not None and found.holder == me:
                self.path.unlink()
        except (OSError, ValueError) as error:
            logger.warning("'%s' could not be deleted (%s); it is taken over when it is next met.", self.path, error)

    @property
    def is_ours(self) -> bool:
        """Whether this object holds the lock: no longer, once someone took it over (this process was suspended)."""
        return self._loss(self._me) is None

    def check(self) -> None:
        """Check that this object still holds the lock, before anything is written in the experiment.

        Raises
        ------
        ExperimentInUseError
            When another process has taken it over.
        ExperimentGoneError
            When the folder is gone, or the lock was deleted or replaced.
        """
        loss = self._loss(self._me)
        if loss is not None:
            raise loss

    def _loss(self, me: Holder | None) -> OSError | None:
        """Return the error that says how the lock was lost; None while it is held."""
        folder = self.path.parent
        end = "this training ends here and writes nothing more."
        if me is None or me.pid != os.getpid():
            return ExperimentGoneError(f"This process does not hold the lock of the experiment '{folder}'; {end}")
        try:
            found = look(self.path)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) not in (None, errno.ELOOP):
                # A disk that does not answer says nothing about others.
                return None
            found = None
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
        return ExperimentGoneError(
            f"The lock '{self.path}' was deleted, replaced or damaged while this training used it; {end}"
        )

    def _acquire(self, me: Holder) -> None:
        with _written(self.path.with_name(f".{LOCK_FILE}.{me.token}.tmp"), me) as (mine, now_s), self._alone():
            found = look(self.path)
            if found is None:
                try:
                    os.link(mine, self.path)
                    self._me = me
                    return
                except FileExistsError:
                    # Made at this moment, on another machine.
                    found = look(self.path)
                except OSError as error:
                    logger.debug("'%s' has no hard links (%s).", self.path.parent, error)
            if found is not None:
                self._judge(found, me, now_s)
            os.replace(mine, self.path)
            time.sleep(SETTLE_S)
            loss = self._loss(me)
            if loss is not None:
                raise loss
            self._me = me

    def _judge(self, found: Found, me: Holder, now_s: float) -> None:
        """Warn that a lock is taken over; raise ExperimentInUseError when it may not be."""
        holder = found.holder
        reason = "it is damaged" if holder is None else holder.why_gone(me, now_s - found.mtime_s)
        if reason is not None:
            whose = f"of {holder}" if holder else "of an unknown process"
            logger.warning("The lock '%s' %s was left behind (%s); it is taken over.", self.path, whose, reason)
            return
        assert holder is not None
        folder, sees = self.path.parent, me.sees(holder)
        if sees and holder.pid == me.pid:
            raise ExperimentInUseError(
                f"The experiment '{folder}' is in use by this very {holder}; end its other training first."
            )
        wait = "" if sees else f", or wait {LIMIT_S / 60:g} minutes"
        raise ExperimentInUseError(
            f"The experiment '{folder}' is in use by {holder}; wait for it to end or stop it. If that process is gone, "
            f"delete '{self.path}'{wait}."
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other processes of this machine out of the block; on a disk that cannot, do nothing."""
        handle = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExperimentInUseError(
                    f"The experiment '{self.path.parent}' is being taken by another process at this very moment; wait "
                    "for that process to end or stop it."
                ) from None
            except OSError as error:
                logger.debug("'%s' has no flock (%s).", self.path.parent, error)
            yield
        finally:
            os.close(handle)

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


@dataclass(frozen=True)
class Found:
    """What is in a lock's file: the holder, None in a damaged one; and when it was last touched (s since 1970)."""

    holder: Holder | None
    mtime_s: float


def look(path: Path) -> Found | None:
    """Return what is in a lock's file; None without one.

    Raises
    ------
    OSError, ValueError
        When it cannot be read, or is a link, a folder, a device or a pipe.
    """
    try:
        with open_regular(path, "The lock", follow_links=False) as stream:
            return Found(Holder.read(stream.read(1 << 16)), os.fstat(stream.fileno()).st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_lock(path: Path) -> bool:
    """Tell whether a file is a lock of dwiml's, or has just been deleted."""
    try:
        found = look(path)
    except (OSError, ValueError):
        return False
    return found is None or found.holder is not None


@contextmanager
def _written(path: Path, me: Holder) -> Iterator[tuple[Path, float]]:
    """Give a file with a lock's content, and the time by the clock of its disk (s since 1970); remove the file."""
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as stream:
            stream.write(me.written())
            stream.flush()
            os.fsync(stream.fileno())
            now_s = os.fstat(stream.fileno()).st_mtime
        yield path, now_s
    finally:
        with suppress(OSError):
            path.unlink()
