"""One training per experiment: the lock in its folder, who holds it, and when it may be taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from dwiml.training.stopping import process_start, process_stat

LOCK_FILE = "lock.json"
# Seconds: between two signs of life; without one, until a holder that cannot be seen counts as gone; for which a file
# stays unreadable, until it counts as left by a crash.
HEARTBEAT_S = 30.0
LIMIT_S = 300.0
UNREADABLE_S = 5.0

_PAUSE_S = 0.05
_NO_SUCH_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL})

logger = logging.getLogger(__name__)


class ExperimentInUseError(OSError):
    """Another process trains this experiment; the message says which one, and what to do."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as its file says.

    Attributes
    ----------
    host, pid, started
        Where, which process, and since when it holds the lock (ISO 8601).
    process_start
        When the process began, in clock ticks since the machine's start (a reused pid has another); None without /proc.
    machine
        The machine's start and its space of process ids (containers have their own): pids of another are not ours to
        look up, even where the host has the same name. None without /proc.
    slurm_job, slurm_restarts
        The job, and how often it had been requeued.
    token
        Tells two locks of one process apart.
    """

    host: str
    pid: int
    process_start: int | None
    machine: str | None
    slurm_job: str | None
    slurm_restarts: int
    started: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def this_process(cls) -> Holder:
        """Return what is to be written of this process."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(
            host=platform.node(),
            pid=os.getpid(),
            process_start=process_start(os.getpid()),
            machine=_machine(),
            slurm_job=os.environ.get("SLURM_JOB_ID") or None,
            slurm_restarts=int(restarts) if restarts.isdecimal() else 0,
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, raw: bytes) -> Holder | None:
        """Return the holder that a file names; None for a damaged file. Keys of a later version are passed over."""
        try:
            content = json.loads(raw)
            holder = cls(**{name: content[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        texts = (holder.host, holder.started, holder.token, holder.machine or "", holder.slurm_job or "")
        numbers = (holder.pid, holder.slurm_restarts, holder.process_start or 0)
        fits = all(isinstance(each, str) for each in texts) and all(type(each) is int for each in numbers)
        return holder if fits and 0 < holder.pid < 1 << 31 else None

    def sees(self, other: Holder) -> bool:
        """Tell whether the other is or was on this machine, so that its pid can be looked up."""
        return (self.host, self.machine) == (other.host, other.machine)

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on host '{self.host}' (since {self.started}{job})"


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
            with _alone_with(self.path) as found:
                if found is not None and found.holder == me:
                    self.path.unlink()
        except OSError as error:
            logger.warning("'%s' could not be deleted (%s); it is taken over when it is next met.", self.path, error)

    @property
    def is_ours(self) -> bool:
        """Whether this object holds the lock: no longer, once someone took it over (this process was suspended)."""
        if self._me is None or self._me.pid != os.getpid():
            return False
        try:
            found = _look(self.path)
        except OSError:
            # A disk that does not answer says nothing about others.
            return True
        return found is not None and found.holder == self._me

    def _acquire(self, me: Holder) -> None:
        unreadable: tuple[_Found | None, float] = (None, 0.0)
        limit = time.monotonic() + 4 * UNREADABLE_S
        while not _create(self.path, me):
            if time.monotonic() > limit:
                raise ExperimentInUseError(f"'{self.path}' keeps changing: other processes want it too; try again.")
            found = _look(self.path)
            if found is not None and found.holder is not None:
                reason = _why_stale(found.holder, me, partial(_age, self.path, found))
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
            if _remove(self.path, found):
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
                found = _look(self.path)
                if stop.is_set():
                    return
                if found is None or found.holder != me:
                    taker = f"taken over by {found.holder}" if found and found.holder else "deleted or damaged"
                    logger.error("The lock '%s' was %s while this training goes on.", self.path, taker)
                    return
                os.utime(self.path)
            except OSError as error:
                logger.debug("'%s' could not be touched (%s); trying again.", self.path, error)


@dataclass(frozen=True)
class _Found:
    raw: bytes
    inode: tuple[int, int]
    mtime_ns: int

    @property
    def holder(self) -> Holder | None:
        return Holder.read(self.raw)


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _why_stale(holder: Holder, me: Holder, age: Callable[[], float]) -> str | None:
    """Return why a lock may be taken over; None when it may not."""
    if me.sees(holder):
        running = _is_running(holder)
        if running is not None:
            return None if running else "that process is gone"
    elif me.slurm_job and me.slurm_job == holder.slurm_job and me.slurm_restarts > holder.slurm_restarts:
        # Two processes that srun started on two nodes share the job too, but not the count.
        return "the job was requeued since"
    seconds = age()
    return f"no sign of life for {seconds:.0f} s" if seconds > LIMIT_S else None


def _is_running(holder: Holder) -> bool | None:
    """Tell whether a process of this machine is still there; None when that cannot be seen."""
    fields = process_stat(holder.pid)
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Another user's: it is there.
        pass
    if holder.process_start is None:
        return True
    if fields is None:
        # Some clusters hide the processes of others.
        return None
    # Z and X: it ended, and its parent has not asked how.
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == holder.process_start


def _age(path: Path, found: _Found) -> float:
    """Return the seconds since the last sign of life, by the clock of the disk (a server's may differ from ours)."""
    handle, probe = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        os.utime(handle)
        return (os.fstat(handle).st_mtime_ns - found.mtime_ns) / 1e9
    finally:
        os.close(handle)
        with suppress(OSError):
            os.unlink(probe)


def _look(path: Path) -> _Found | None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _found(handle)
    finally:
        os.close(handle)


def _found(handle: int) -> _Found:
    status = os.fstat(handle)
    return _Found(os.pread(handle, 1 << 16, 0), (status.st_dev, status.st_ino), status.st_mtime_ns)


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _flock(handle: int, *, wait_s: float = 1.0) -> bool:
    """Lock an open file until it is closed; False when another keeps it locked. A disk that has no locks passes."""
    limit = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            # Others hold it for as long as they look at the file.
            if time.monotonic() > limit:
                return False
            time.sleep(_PAUSE_S / 10)
        except OSError as error:
            if error.errno not in _NO_SUCH_LOCKS:
                raise
            return True


def _create(path: Path, me: Holder) -> bool:
    """Make the file; False when there is one, or when it was taken for a damaged one before it was written."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except FileExistsError:
        return False
    try:
        if not _flock(handle):
            return False
        content = json.dumps(asdict(me), indent=2).encode() + b"\n"
        try:
            if os.write(handle, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            if _is_at(handle, path):
                path.unlink()
            raise
        return _is_at(handle, path)
    finally:
        os.close(handle)


@contextmanager
def _alone_with(path: Path) -> Iterator[_Found | None]:
    """Give what is in the file, which until the end of the block nobody else removes; None: it is not to be had."""
    try:
        # Servers want it writable for flock; the file of another user may not be.
        handle = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield _found(handle) if _flock(handle) and _is_at(handle, path) else None
    finally:
        os.close(handle)


def _remove(path: Path, judged: _Found) -> bool:
    """Remove the very file that was judged; False when it is not there any more, or has changed."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _alone_with(path) as found:
        if found != judged:
            return False
        try:
            os.rename(path, hidden)
        except FileNotFoundError:
            return False
        moved = _look(hidden)
        is_judged = moved is not None and (moved.raw, moved.inode) == (judged.raw, judged.inode)
        if not is_judged:
            # Only on a disk without flock. A link does not replace the lock of a third process.
            with suppress(FileExistsError):
                os.link(hidden, path)
        hidden.unlink()
        return is_judged
