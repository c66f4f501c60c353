"""The processes that create a file: this one is one of them, and the others start, are killed and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from dwiml.failures import ResourceError
from dwiml.hdf5 import workers as module
from dwiml.hdf5.workers import Workers

TIMEOUT = 120
JOBS = f"""
import os, pathlib, signal, time

PARENT = int(os.environ["PARENT"])

def wait_for(condition):
    end = time.monotonic() + {TIMEOUT}
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

def meet(item):
    "Wait until as many processes do this as there are items."
    folder, nb = item
    (pathlib.Path(folder) / str(os.getpid())).touch()
    wait_for(lambda: len(os.listdir(folder)) == nb)
    return os.getpid()

def outlast(item):
    "In the first process, wait until others have done this for all other items; they wait until it has one."
    folder, nb, index = item
    taken = pathlib.Path(folder) / "taken"
    if os.getpid() == PARENT:
        taken.touch()
        wait_for(lambda: len(os.listdir(folder)) == nb)
    else:
        wait_for(taken.exists)
        (pathlib.Path(folder) / str(index)).touch()
    return os.getpid()

def blas_threads(item):
    "Return the process and the threads of its BLAS libraries, once as many processes do this as there are items."
    import numpy, threadpoolctl
    meet(item)
    return os.getpid(), [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]

def killed(item):
    if os.getpid() != PARENT:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)

def leave_waiting(folder):
    "In the first process, return once another one is in the midst of this."
    if os.getpid() == PARENT:
        wait_for(lambda: os.listdir(folder))
    else:
        (pathlib.Path(folder) / str(os.getpid())).touch()
        time.sleep({TIMEOUT})
"""


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """A module that a new process finds by its path, and an empty folder."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path/dwiml_test_jobs.py").write_text(JOBS)
    monkeypatch.setenv("PARENT", str(os.getpid()))
    monkeypatch.syspath_prepend(tmp_path / "path")
    import dwiml_test_jobs

    yield dwiml_test_jobs
    del sys.modules["dwiml_test_jobs"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(pids: list[int]) -> None:
    end = time.monotonic() + TIMEOUT
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_more_processes_are_started_early_than_there_are_cores(monkeypatch):
    """This one is counted."""
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for nb, expected in ((1, 0), (2, 1), (3, 2), (500, 2)):
        with Workers(nb).start() as workers:
            assert len(workers._running) == expected


@pytest.mark.parametrize("nb", [2, 3])
def test_this_process_is_one_of_them(jobs, folder, nb):
    """As many items as processes are worked on at the same time."""
    with Workers(nb) as workers:
        outcomes = list(workers.run(jobs.meet, [(str(folder), nb)] * nb, str))
        others = [each.pid for each in workers._running]
    assert {outcome.value for outcome in outcomes} == {os.getpid(), *others}
    assert [outcome.error for outcome in outcomes] == [None] * nb
    assert not any(is_running(pid) for pid in others)


def test_another_process_never_waits_while_this_one_works(jobs, folder):
    """It does three items during one of this process, in each of two runs."""
    with Workers(2).start() as workers:
        for run in ("first", "second"):
            (folder / run).mkdir()
            items = [(str(folder / run), 4, index) for index in range(4)]
            outcomes = list(workers.run(jobs.outlast, items, str))
            assert sorted(outcome.index for outcome in outcomes) == [0, 1, 2, 3]
            assert sum(outcome.value == os.getpid() for outcome in outcomes) == 1


def here() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_a_single_process_has_one_blas_thread_too():
    with threadpool_limits(limits=2, user_api="blas"):
        before = here()
        found = [outcome.value for outcome in Workers(1).run(lambda _: here(), range(2), str)]
        assert here() == before
        with suppress(ZeroDivisionError):
            for outcome in Workers(1).run(lambda _: 1 / 0, range(2), str):
                raise outcome.error
        assert here() == before
    assert len(before) > 0
    assert found == [[1] * len(before)] * 2


def test_each_process_has_one_blas_thread(jobs, folder):
    with threadpool_limits(limits=2, user_api="blas"):
        before = here()
        with Workers(2) as workers:
            outcomes = list(workers.run(jobs.blas_threads, [(str(folder), 2)] * 2, str))
        assert here() == before
    found = dict(outcome.value for outcome in outcomes)
    assert len(found) == 2
    assert os.getpid() in found
    assert all(set(threads) <= {1} for threads in found.values())
    assert found[os.getpid()] or not before


def test_this_process_does_not_wait_for_those_that_start(monkeypatch):
    monkeypatch.setattr(module, "_PROGRAM", f"import time; time.sleep({10 * TIMEOUT})")
    with Workers(3).start() as workers:
        outcomes = list(workers.run(len, ["", "a", "bc"], str))
        pids = [each.pid for each in workers._running]
    assert [(outcome.index, outcome.value) for outcome in outcomes] == [(0, 0), (1, 1), (2, 2)]
    assert not any(is_running(pid) for pid in pids)


def test_a_killed_process_gets_one_sentence(jobs):
    message = r"The process that worked on \d+ was killed \(SIGKILL\), usually by the system because the memory is full"
    with pytest.raises(ResourceError, match=message), Workers(2) as workers:
        for _ in workers.run(jobs.killed, range(20 * TIMEOUT), str):
            pass


def test_a_process_that_cannot_start_gets_one_sentence(jobs, monkeypatch):
    monkeypatch.setattr(module, "_PROGRAM", "raise SystemExit(3)")
    message = "A process that was being started ended with exit code 3; its own messages are above; use fewer processes"
    with pytest.raises(ResourceError, match=message), Workers(2) as workers:
        for _ in workers.run(jobs.killed, range(20 * TIMEOUT), str):
            pass


def test_what_cannot_be_sent_is_an_error_of_its_item():
    with Workers(2).start() as workers:
        outcome = workers._running[0]._done(module._Job(len, lambda: None, 7, "an item"))
    assert outcome.index == 7
    assert "pickle" in str(outcome.error)


def test_the_system_is_asked_to_kill_another_process_first(jobs, folder):
    own = int(Path("/proc/self/oom_score_adj").read_text())
    with Workers(2).start() as workers:
        list(workers.run(jobs.meet, [(str(folder), 2)] * 2, str))
        (found,) = [int(Path(f"/proc/{each.pid}/oom_score_adj").read_text()) for each in workers._running]
        assert int(Path("/proc/self/oom_score_adj").read_text()) == own
    assert found == max(own, 200)


def test_processes_end_with_a_killed_creation():
    """Their lifeline is cut, even if they are in the midst of a subject."""
    program = (
        "import os, sys, time\nfrom dwiml.hdf5.workers import Workers\n"
        "with Workers(3) as workers:\n"
        "    workers._start(3)\n"
        "    print(*[each.pid for each in workers._running], flush=True)\n"
        "    list(workers.run(time.sleep, [60] * 3, str))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(1)
        process.kill()
    assert_gone(pids)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_this_process_while_it_waits_for_another(jobs, folder, sent):
    program = (
        "import sys\nfrom dwiml_test_jobs import leave_waiting\nfrom dwiml.hdf5.workers import Workers\n"
        "from dwiml.signals import ended_by_signals\n"
        "with ended_by_signals(), Workers(2) as workers:\n"
        "    for _ in workers.run(leave_waiting, [sys.argv[1]] * 2, str):\n"
        "        print('one is done', flush=True)\n"
    )
    program = f"import os, sys; os.environ['PARENT'] = str(os.getpid()); sys.path.insert(0, sys.argv[2])\n{program}"
    command = [sys.executable, "-c", program, str(folder), str(Path(jobs.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "one is done\n"
        begin = time.monotonic()
        process.send_signal(sent)
        process.communicate(timeout=TIMEOUT)
        assert time.monotonic() - begin < 10
    assert process.returncode == (-sent if sent == signal.SIGINT else 128 + sent)
    (pid,) = [int(path.name) for path in folder.iterdir()]
    assert not is_running(pid)
