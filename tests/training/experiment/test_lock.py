"""One training per experiment: who is refused, what is taken over, and that of many only one gets it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dwiml.training.experiment import lock as lock_module
from dwiml.training.experiment.holder import Holder
from dwiml.training.experiment.lock import ExperimentInUseError, ExperimentLock

HOLD = """
import sys, time
from pathlib import Path
from dwiml.training.experiment.lock import ExperimentLock
ExperimentLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""

# Each process wants each of the folders, all at the same moment, and keeps what it gets until it is told to end. Before
# each thing that it does to a lock's name, it hesitates: others come in between.
RACE = """
import errno, fcntl, os, random, sys, time
from pathlib import Path
from dwiml.training.experiment import lock as lock_module
from dwiml.training.experiment.lock import ExperimentInUseError, ExperimentLock

def hesitant(function):
    def hesitate(*args, **kwargs):
        time.sleep(random.random() * 0.01)
        return function(*args, **kwargs)
    return hesitate

def refuse(*args):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

lock_module.SETTLE_S = 0.02
os.replace, os.unlink, os.link, os.fsync = map(hesitant, (os.replace, os.unlink, os.link, os.fsync))
if sys.argv[2] == "without flock":
    fcntl.flock = refuse
print("ready", flush=True)
begin = float(sys.stdin.readline())
won = {}
for i, folder in enumerate(sorted(Path(sys.argv[1]).iterdir())):
    time.sleep(max(0, begin + 0.05 * i - time.time()))
    lock = ExperimentLock(folder)
    try:
        lock.acquire()
        won[folder.name] = lock
    except ExperimentInUseError:
        pass
print(*won, flush=True)
sys.stdin.readline()
print(*(name for name, lock in won.items() if lock.is_ours), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "SETTLE_S", 0.01)


def start(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, str(folder), *arguments]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() in ("held\n", "ready\n")
    return process


def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave(folder: Path, *, age_s: float = 0.0, **changes: Any) -> Path:
    """Write the lock of another process, this one's but for the changes."""
    path = folder / "lock.json"
    path.write_text(json.dumps(asdict(replace(Holder.this_process(), **changes))))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def assert_taken_over(folder: Path, caplog: pytest.LogCaptureFixture, why: str) -> None:
    lock = ExperimentLock(folder)
    with caplog.at_level(logging.WARNING):
        lock.acquire()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert why in record.message
    assert lock.is_ours
    lock.release()
    assert list(folder.iterdir()) == []


def assert_refused(folder: Path) -> str:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    with pytest.raises(ExperimentInUseError) as caught:
        ExperimentLock(folder).acquire()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    return str(caught.value)


def test_the_file_says_who_holds_it_and_is_gone_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "55")
    folder = tmp_path / "new" / "exp"
    with ExperimentLock(folder) as lock:
        content = json.loads((folder / "lock.json").read_text())
        assert (content["pid"], content["slurm_job"], content["slurm_restarts"]) == (os.getpid(), "55", 0)
        assert content["host"] == os.uname().nodename
        assert content["started"].startswith("20")
        assert lock.is_ours
        lock.acquire()
    assert list(folder.iterdir()) == []
    assert not lock.is_ours
    lock.release()
    lock.acquire()
    assert lock.is_ours
    lock.release()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = start(HOLD, tmp_path)
    try:
        sentence = assert_refused(tmp_path)
        assert f"is in use by process {process.pid} on host '{os.uname().nodename}' (since 20" in sentence
        assert sentence.endswith(f"If that process is gone, delete '{tmp_path / 'lock.json'}'.")
        # However long it was silent: it is seen to be there.
        os.utime(tmp_path / "lock.json", (0, 0))
        assert_refused(tmp_path)
    finally:
        process.kill()
    # A killed process whose parent has not yet asked how it ended (a zombie) is gone, too.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert_taken_over(tmp_path, caplog, f"of process {process.pid} on host")
    process.communicate()


def test_the_same_process_is_refused_but_for_the_same_object(tmp_path: Path) -> None:
    with ExperimentLock(tmp_path):
        assert f"already in use by this process {os.getpid()} on host" in assert_refused(tmp_path)


def test_a_dead_pid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(tmp_path, pid=a_dead_pid())
    assert_taken_over(tmp_path, caplog, "that process is gone")


def test_a_pid_that_is_another_process_by_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = Holder.this_process().process_start
    assert mine is not None
    leave(tmp_path, pid=os.getpid(), process_start=mine - 1)
    assert_taken_over(tmp_path, caplog, "that process is gone")


@pytest.mark.parametrize("changes", [{"host": "other"}, {"machine": "another boot, or a container's own pids"}])
def test_a_machine_that_cannot_be_seen(
    changes: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Its pid says nothing here.
    pid = a_dead_pid()
    for age_s in (0, 280, -1000):
        leave(tmp_path, pid=pid, age_s=age_s, **changes)
        assert assert_refused(tmp_path).endswith("lock.json', or wait 5 minutes.")
    leave(tmp_path, age_s=320, **changes)
    assert_taken_over(tmp_path, caplog, "no heartbeat for 32")


def test_age_is_by_the_clock_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offset, real = 3600, os.fsync
    path = leave(tmp_path, age_s=offset + 100, host="other")

    def late(handle: int) -> None:
        # A server whose clock is an hour behind ours.
        real(handle)
        os.utime(handle, (time.time() - offset, time.time() - offset))

    monkeypatch.setattr(os, "fsync", late)
    assert_refused(tmp_path)
    os.utime(path, (time.time() - offset - 400, time.time() - offset - 400))
    assert_taken_over(tmp_path, caplog, "no heartbeat for 40")


def test_a_requeued_job_takes_over_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "55")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for changes in ({"slurm_job": "54"}, {"slurm_job": None}, {"slurm_job": "55", "slurm_restarts": 1}):
        # The last: srun started one on each of two nodes.
        leave(tmp_path, **{"host": "other", "slurm_restarts": 0, **changes})
        assert_refused(tmp_path)
    leave(tmp_path, host="other", slurm_job="55", slurm_restarts=0)
    assert_taken_over(tmp_path, caplog, "the job has been requeued since")


@pytest.mark.parametrize("content", [b"", b'{"host": "a", "pi', b"[1]", b"\xff\xfe", b"{}", b'{"pid": -1}'])
def test_a_damaged_file_is_taken_over(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "lock.json").write_bytes(content)
    assert_taken_over(tmp_path, caplog, "of an unknown process was abandoned (it is damaged)")


@pytest.mark.parametrize("wrong", [{"pid": -1}, {"pid": True}, {"pid": 1 << 40}, {"host": 3}, {"process_start": "x"}])
def test_values_of_the_wrong_kind_are_damage(wrong: dict[str, Any]) -> None:
    content = asdict(Holder.this_process())
    assert Holder.read(json.dumps(content).encode()) == Holder(**content)
    assert Holder.read(json.dumps({**content, "of a later version": 1}).encode()) == Holder(**content)
    assert Holder.read(json.dumps({**content, **wrong}).encode()) is None


@pytest.mark.parametrize("name", ["link", "replace"])
def test_the_file_is_whole_from_its_first_moment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody takes a lock that is being written for a damaged one."""
    if name == "replace":
        leave(tmp_path, pid=a_dead_pid())
    real, contents = getattr(os, name), []

    def watched(source: Path, target: Path) -> None:
        contents.append(source.read_bytes())
        real(source, target)

    monkeypatch.setattr(os, name, watched)
    with ExperimentLock(tmp_path):
        assert contents == [(tmp_path / "lock.json").read_bytes()]


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    with ExperimentLock(tmp_path) as lock:
        assert lock.is_ours
        assert_refused(tmp_path)
    assert list(tmp_path.iterdir()) == []


def refusing(number: int) -> Callable[..., None]:
    def refuse(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("left", [True, False])
def test_whoever_was_late_to_take_over_on_another_machine_has_it(
    left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have judged the same lock, or found none, and the folder is locked for one machine only."""
    if left:
        leave(tmp_path, pid=a_dead_pid())
    name = "replace" if left else "link"
    real = getattr(os, name)

    def overtaken(source: Path, target: Path) -> None:
        if left:
            real(source, target)
        leave(tmp_path, host="other")
        if not left:
            real(source, target)

    monkeypatch.setattr(os, name, overtaken)
    with pytest.raises(ExperimentInUseError):
        ExperimentLock(tmp_path).acquire()
    assert json.loads((tmp_path / "lock.json").read_text())["host"] == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


def test_while_a_process_takes_it_others_are_refused(tmp_path: Path) -> None:
    """Between judging and taking, no other process of this machine comes in."""
    leave(tmp_path, pid=a_dead_pid())
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert "is being locked by another process" in assert_refused(tmp_path)
    finally:
        os.close(handle)
    with ExperimentLock(tmp_path):
        pass


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["dead", pytest.param("free", marks=pytest.mark.slow)])
@pytest.mark.parametrize("disk", ["with flock", "without flock"])
def test_of_eight_processes_exactly_one_wins(kind: str, disk: str, tmp_path: Path) -> None:
    pid = a_dead_pid()
    for i in range(30):
        folder = tmp_path / f"{i:02}"
        folder.mkdir()
        if kind == "dead":
            leave(folder, pid=pid)
    processes = [start(RACE, tmp_path, disk) for _ in range(8)]

    def answers(text: str) -> list[str]:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(text)
            process.stdin.flush()
        return [name for process in processes if process.stdout for name in process.stdout.readline().split()]

    try:
        winners = answers(f"{time.time() + 0.2}\n")
        # Without flock, one that was slow may take over what another has just taken over, which notices.
        if disk == "with flock" or kind == "free":
            assert sorted(winners) == [f"{i:02}" for i in range(30)]
        # All are still there.
        assert sorted(answers("\n")) == [f"{i:02}" for i in range(30)]
        assert [path.name for path in tmp_path.rglob(".*")] == []
    finally:
        for process in processes:
            process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0] * 8


def test_the_file_is_touched_until_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    path = tmp_path / "lock.json"
    lock = ExperimentLock(tmp_path)
    lock.acquire()
    content = path.read_bytes()
    os.utime(path, (0, 0))
    wait_until(lambda: path.stat().st_mtime > 0)
    assert path.read_bytes() == content
    lock.release()
    # What comes after is no business of the thread.
    leave(tmp_path, age_s=1000)
    wait_until(lambda: not any(thread.name == "dwiml-lock" for thread in threading.enumerate()))
    assert path.stat().st_mtime < time.time() - 900
    assert caplog.records == []


def test_a_lock_that_was_lost_is_told_once_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    lock = ExperimentLock(tmp_path)
    lock.acquire()
    path = leave(tmp_path / "..", host="other").rename(tmp_path / "lock.json")
    wait_until(lambda: len(caplog.records) > 0)
    wait_until(lambda: not any(thread.name == "dwiml-lock" for thread in threading.enumerate()))
    (record,) = caplog.records
    assert (record.levelname, "taken over by process" in record.message) == ("ERROR", True)
    assert not lock.is_ours
    before = path.read_bytes()
    lock.release()
    assert path.read_bytes() == before


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_forked_worker_does_not_give_the_lock_back(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from dwiml.training.experiment.lock import ExperimentLock
lock = ExperimentLock(Path({str(tmp_path)!r}))
lock.acquire()
child = os.fork()
if child == 0:
    left_alone = not lock.is_ours
    lock.release()
    os._exit(0 if left_alone else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert lock.is_ours
"""
    # Newer Pythons warn of threads in a process that forks.
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    assert (tmp_path / "lock.json").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be locked \(") as caught:
            ExperimentLock(tmp_path).acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(caught.value, ExperimentInUseError)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "right"])
def test_a_folder_that_cannot_be_written_is_one_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "exp"
    if kind == "file":
        folder.write_text("")
    else:
        real = os.open

        def refused(path: Any, flags: int, *args: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, flags, *args)

        # The tests may run as root, who may write anywhere.
        monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OSError, match=r"folder '.*exp' cannot be locked \((file exists|the disk is read-only)\): "):
        ExperimentLock(folder).acquire()
