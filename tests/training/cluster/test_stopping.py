"""Signals and the limit on time: what asks a training to stop, and what its process leaves with."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwiml.training.cluster import stopping
from dwiml.training.cluster.stopping import (
    Requests,
    TrainingInterrupted,
    check_stop_signal,
    parse_max_time,
    process_seconds,
    process_start,
)

# A training in small: a step of 10 ms, a look at the request, and the checkpoint ("saved") at the end.
TRAINING = """
import sys, time
from dwiml.training.cluster.stopping import Requests, TrainingInterrupted
with Requests(stop_signal="USR2", max_time=sys.argv[1] if len(sys.argv) > 1 else None) as stop:
    print("begun", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saved", stop.reason, flush=True)
    if stop.exit_code:
        raise TrainingInterrupted(stop.reason, stop.exit_code)
"""


@pytest.fixture(autouse=True)
def _same_handlers_after() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_the_first_signal_is_the_reason(name: str) -> None:
    number = signal.Signals[name]
    with Requests() as stop:
        assert (stop.requested, stop.reason, stop.exit_code) == (False, None, 0)
        os.kill(os.getpid(), number)
        assert (stop.requested, stop.reason, stop.exit_code) == (True, name, 128 + number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.reason == name
    assert (stop.requested, stop.exit_code) == (True, 128 + number)


def test_a_second_ctrl_c_leaves_at_once() -> None:
    with Requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        # The first of its kind.
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "SIGTERM"


def test_handlers_are_given_back_after_an_error_too() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))

    def fail() -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError), Requests(stop_signal="SIGUSR2") as stop:
            fail()
        assert (stop.reason, received) == ("SIGUSR2", [])
        os.kill(os.getpid(), signal.SIGUSR2)
        assert received == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("name", [None, "SIGTERM", "INT"])
def test_signals_that_were_not_asked_for_are_left_alone(name: str | None) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Requests(stop_signal=name):
        assert signal.getsignal(signal.SIGUSR1) is before
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) != before


def test_in_another_thread_only_the_time_counts(caplog: pytest.LogCaptureFixture) -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def use() -> None:
        with Requests() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    with caplog.at_level(logging.DEBUG, logger="dwiml"):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert seen == [(before, False)]
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def start(*arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", TRAINING, *arguments], stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR2"])
def test_a_process_saves_and_leaves_without_a_traceback(name: str) -> None:
    number = signal.Signals[name]
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == (f"saved {name}\n", "", 128 + number)


def test_max_time_is_no_error() -> None:
    process = start("00:01")
    output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("begun\nsaved max_time\n", "", 0)


def test_max_time_counts_from_the_start_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    code = "from dwiml.training.cluster.stopping import process_seconds; print(process_seconds())"
    done = subprocess.run(
        [sys.executable, "-c", f"import time; time.sleep(0.5); {code}"], capture_output=True, text=True, check=True
    )
    # Half a second before the import counts; and the whole is no more than what passed here.
    assert 0.5 <= float(done.stdout) <= time.monotonic() - begun + 0.1
    assert process_start(os.getpid()) is not None
    monkeypatch.setattr(stopping, "process_start", lambda pid: None)
    assert 0 <= process_seconds() <= time.monotonic()

    for seconds, requested in ((59.9, False), (60.0, True)):
        monkeypatch.setattr(stopping, "process_seconds", lambda seconds=seconds: seconds)
        stop = Requests(max_time="1")
        assert (stop.requested, stop.reason, stop.exit_code) == (requested, "max_time" if requested else None, 0)


def test_a_signal_before_the_time_is_over_stays_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with Requests(max_time="1") as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        monkeypatch.setattr(stopping, "process_seconds", lambda: 1e9)
        assert (stop.requested, stop.reason, stop.exit_code) == (True, "SIGUSR1", 128 + signal.SIGUSR1)


def test_a_program_with_a_strange_name_has_a_start(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        start, mine = process_start(process.pid), process_start(os.getpid())
        assert start is not None
        assert mine is not None
        assert start >= mine
    finally:
        process.kill()
        process.wait()
    assert process_start(process.pid) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("11:50:00", 42_600),
        ("1-00:00:00", 86_400),
        ("2-03:04:05", 183_845),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("11:50", 710),
        ("90", 5_400),
        ("90:30", 5_430),
        ("100:00:00", 360_000),
        ("00:00:01", 1),
        (" 5 ", 300),
    ],
)
def test_times_as_slurm_writes_them(text: str, seconds: int) -> None:
    assert parse_max_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "1h",
        "-5",
        "1.5",
        "1:2:3:4",
        "1-",
        "-1:00",
        "1-2:3:4:5",
        "1--2",
        ":30",
        "11:",
        "٣",
        "9" * 5000,
        60,
        None,
    ],
)
def test_other_forms_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r'^max_time must be a time in SLURM.s format, "MM", .*"D-HH:MM:SS", got '):
        parse_max_time(text)  # type: ignore[arg-type]


def test_times_out_of_range_are_refused() -> None:
    for text, name, limit in (("1:60:00", "minutes", 60), ("1:00:75", "seconds", 60), ("1-24", "hours", 24)):
        with pytest.raises(ValueError, match=rf"got '{text}': its {name} must be less than {limit}\.$"):
            parse_max_time(text)
    with pytest.raises(ValueError, match=r"^max_time must be positive, .*; got '0:00:00'\.$"):
        Requests(max_time="0:00:00")


def test_names_of_signals() -> None:
    assert check_stop_signal("USR1") == check_stop_signal("SIGUSR1") == signal.SIGUSR1
    assert check_stop_signal(None) is None
    for name in ("SIGNONE", "", "SIG", "usr1", 10, ["USR1"]):
        with pytest.raises(
            ValueError, match=r'^stop_signal must be the name of a signal, such as "SIGUSR1" or "USR1", got '
        ):
            check_stop_signal(name)  # type: ignore[arg-type]
    for name in ("SIGKILL", "STOP", "SEGV", "CHLD"):
        with pytest.raises(ValueError, match=rf"^stop_signal cannot be '{name}': a program cannot catch it, .*\.$"):
            Requests(stop_signal=name)


def test_what_is_raised_says_why_and_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(TrainingInterrupted("SIGTERM", 143)))
    assert (type(error), error.reason, error.code) == (TrainingInterrupted, "SIGTERM", 143)
    assert str(error) == "The training was interrupted by SIGTERM (exit code 143)."
    assert not isinstance(error, Exception)
