"""One run of a command in a forked process, watched: its time, its memory, and the files that it touches.

A forked process has the libraries imported already, so that a run costs some hundredths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

MOST_SECONDS = 20.0
MOST_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes
    ----------
    code
        Exit code; minus the number of the signal that ended it; None when it was ended here (a hang, or memory).
    out, err
        What it wrote.
    seconds, nb_bytes
        How long it took, and by how much its resident memory grew.
    touched
        Files outside the outputs that appeared, changed or went.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    nb_bytes: int
    touched: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """``read`` (exit code 0), ``sentence`` (2), or the fault: ``traceback``, ``hang``, ``memory``, ..."""
        if self.touched:
            return "touched"
        if self.nb_bytes > MOST_BYTES:
            return "memory"
        if self.code is None:
            return "hang"
        if "Traceback (most recent call last)" in self.err:
            return "traceback"
        if self.code == 0:
            return "read"
        errors = [line for line in self.err.splitlines() if "error: " in line]
        if self.code == 2 and len(errors) == 1:
            return "sentence"
        return f"exit code {self.code}"

    @property
    def is_fault(self) -> bool:
        """Whether it is neither a right reading nor a sentence."""
        return self.kind not in ("read", "sentence")


def snapshot(folders: Iterable[Path]) -> dict[str, tuple[int, int, int]]:
    """Return what tells that a file below some folders has changed: inode, size and time of change."""
    found = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def run_watched(
    action: Callable[[], int | None],
    *,
    watched: Iterable[Path] = (),
    outputs: Iterable[Path] = (),
    cwd: Path | None = None,
    most_seconds: float = MOST_SECONDS,
) -> Outcome:
    """Run ``action`` in a forked process; end it when it takes too long or too much memory.

    Parameters
    ----------
    action
        For example ``lambda: main(argv)``; its value is the exit code.
    watched
        Folders in which nothing may change but ``outputs`` (files, or folders with all that is inside).
    cwd
        Where it runs.
    most_seconds
        The limit of time.
    """
    watched, allowed = list(watched), [os.fspath(path) for path in outputs]
    before = snapshot(watched)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(action, out.fileno(), err.fileno(), cwd)
        code, nb_bytes = _wait(pid, start + most_seconds)
        seconds = time.monotonic() - start
        after = snapshot(watched)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        touched = [path for path in changed if not any(f"{path}/".startswith(f"{each}/") for each in allowed)]
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read(10**6).decode(errors="replace"))
    return Outcome(code, *texts, seconds, nb_bytes, touched)


def _child(action: Callable[[], int | None], out: int, err: int, cwd: Path | None) -> None:
    """Run the action as a process of its own would, and leave without pytest's own endings."""
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        # As Python itself opens them.
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="backslashreplace")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        if cwd is not None:
            os.chdir(cwd)
        # What dwiml tells its user is no error here, as it is under pytest; numpy's warnings of overflows stay one.
        warnings.simplefilter("default", UserWarning)
        code = action() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, limit: float) -> tuple[int | None, int]:
    """Wait for the end; return the exit code (None: ended here) and by how much memory grew."""
    first, peak, pause = None, 0, 0.002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), peak
        resident = _resident_bytes(pid)
        first = resident if first is None else first
        peak = max(peak, resident - first)
        if time.monotonic() > limit or peak > MOST_BYTES:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, peak
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _resident_bytes(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def give_up_root() -> None:
    """Let the rights of files hold for this process, for root too (Linux); there is no way back."""
    if os.geteuid() != 0:
        return
    # capset(2): all capabilities but those that pass over the rights of files.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for number in (0, 1, 2):
        data[number] &= ~0b110
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
