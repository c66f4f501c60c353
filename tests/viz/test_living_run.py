"""A training is drawn and reported while it writes its logs, is killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import living_run
import numpy as np
import pytest

from dwiml import visualize_logs
from dwiml.inspection.report import write_report
from dwiml.inspection.runs import describe_run
from dwiml.training.reporting.loggers import read_metrics
from dwiml.training.reporting.loggers.batches import read_batches

# Many times more often in the full run.
NB = int(os.environ.get("DWIML_DRAWINGS", "6"))


class Writer:
    """A process that writes an experiment; killed and started again."""

    def __init__(self, folder: Path, pause: float = 0) -> None:
        self.folder, self._pause = folder, pause
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, living_run.__file__, str(self.folder), str(self._pause)]
        return subprocess.Popen(words, stderr=subprocess.PIPE)

    def wait_for_epochs(self) -> None:
        """Wait until there is one finished epoch."""
        for _ in range(600):
            if (self.folder / "checkpoint" / "state.json").exists():
                return
            time.sleep(0.1)
        raise AssertionError("The writer writes nothing.")

    def kill(self) -> None:
        """Kill it, wherever it is; it must have been alive."""
        assert self._process.poll() is None, self._process.stderr and self._process.stderr.read()
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def resume(self) -> None:
        """Start it again."""
        self._process = self._started()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    # Hundreds of lines a second: some while each drawing reads, and not so many that a thousand drawings take hours.
    found = Writer(tmp_path / "living", pause=0.002)
    found.wait_for_epochs()
    yield found
    found.kill()


def draw(folder: Path, out: Path) -> None:
    visualize_logs([folder], out=out / "curves.png", overwrite=True)


def draw_batches(folder: Path, out: Path) -> None:
    visualize_logs([folder], out=out / "curves.svg", overwrite=True, per_batch=True, csv=out / "curves.csv")


def report(folder: Path, out: Path) -> None:
    write_report([folder], out / "page.html", overwrite=True)


def describe(folder: Path, out: Path) -> None:
    describe_run(folder)


@pytest.mark.parametrize("look", [draw, draw_batches, report, describe])
def test_a_living_run_is_drawn(writer: Writer, tmp_path: Path, look: Callable[[Path, Path], None]) -> None:
    for i in range(NB):
        look(writer.folder, tmp_path)
        if i % 5 == 4:
            writer.kill()
            look(writer.folder, tmp_path)
            writer.resume()
            # So that its start, when it cuts the files back, is seen too.
            time.sleep(0.2 * (i % 3))
    assert read_metrics(writer.folder)


def test_no_value_is_there_twice_or_missing_after_kills(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "living")
    writer.wait_for_epochs()
    for i in range(NB):
        time.sleep(0.003 * (i % 7))
        writer.kill()
        epochs = [record["epoch"] for record in read_metrics(writer.folder)]
        assert epochs == list(range(len(epochs)))
        steps = read_batches(writer.folder)["step"]
        np.testing.assert_array_equal(steps, living_run.EVERY * np.arange(1, len(steps) + 1))
        raw = (writer.folder / "logs" / "batches.jsonl").read_bytes()
        assert raw.count(b"\n") == len(steps)
        assert len(steps) * living_run.EVERY >= len(epochs) * living_run.BATCHES_PER_EPOCH
        writer.resume()
        nb_epochs = len(epochs)
        for _ in range(600):
            if len(read_metrics(writer.folder)) > nb_epochs:
                break
            time.sleep(0.05)
    writer.kill()
