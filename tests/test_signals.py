"""Signals that end a program in good order."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from dwiml.signals import EndedBySignal, ended_by_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_unwinds_and_the_handler_is_given_back(name: str) -> None:
    before, cleaned = signal.getsignal(signal.Signals[name]), []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.Signals[name])
            time.sleep(5)
        finally:
            cleaned.append(name)

    with pytest.raises(EndedBySignal) as caught, ended_by_signals():
        work()
    assert (caught.value.reason, caught.value.code) == (name, 128 + signal.Signals[name])
    assert cleaned == [name]
    assert signal.getsignal(signal.Signals[name]) == before


def test_a_second_signal_does_not_disturb_the_cleaning_up() -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR1)
            cleaned.append(True)

    with pytest.raises(EndedBySignal, match="SIGTERM"), ended_by_signals():
        work()
    assert cleaned


def test_what_is_ignored_or_handled_by_the_program_stays_so() -> None:
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
        with ended_by_signals(activity="something was done"):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_library_says_what_was_being_done(caplog: pytest.LogCaptureFixture) -> None:
    @ended_by_signals(activity="the data were loaded")
    def load() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    with caplog.at_level(logging.WARNING), pytest.raises(EndedBySignal):
        load()
    assert caplog.messages == ["Stopped (SIGUSR1) while the data were loaded."]


def test_in_another_thread_nothing_is_handled() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def use() -> None:
        with ended_by_signals(["SIGTERM", "NOT_ONE"]):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_script_leaves_with_the_code_and_no_traceback() -> None:
    code = (
        "import os, signal\nfrom dwiml.signals import ended_by_signals\n"
        "with ended_by_signals(activity='it slept'):\n    os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGUSR1, "Stopped (SIGUSR1) while it slept.\n")


def test_it_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(EndedBySignal("SIGTERM")))
    assert (error.reason, error.code, str(error)) == ("SIGTERM", 143, "Ended by SIGTERM (exit code 143).")


class Held:
    """Something to which a weak reference can be made."""


@pytest.mark.parametrize(("name", "error"), [("SIGTERM", EndedBySignal), ("SIGINT", KeyboardInterrupt)])
def test_a_signal_in_the_callback_of_a_weak_reference_is_not_lost(name: str, error: type[BaseException]) -> None:
    """Python forgets what is raised there."""
    ended_in_callback = []

    def callback(reference: object) -> None:
        ended_in_callback.append(True)
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(0.01)
        ended_in_callback.append(False)

    hook = sys.unraisablehook
    held = Held()
    reference = weakref.ref(held, callback)
    with pytest.raises(error), ended_by_signals():  # noqa: PT012
        del held
        time.sleep(10)
    assert ended_in_callback == [True]
    assert reference() is None
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), EndedBySignal("SIGTERM")])
def test_a_signal_that_a_c_function_has_turned_into_another_error(interrupt: BaseException) -> None:
    """As CPython does it if a C function returns a result after a signal has raised an error in it."""
    with pytest.raises(type(interrupt)), ended_by_signals():
        raise SystemError("returned a result with an exception set") from interrupt


def test_other_system_errors_stay() -> None:
    with pytest.raises(SystemError, match="own"), ended_by_signals():
        raise SystemError("own") from ValueError()
