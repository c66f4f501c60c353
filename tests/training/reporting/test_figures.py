"""Figures at the end of a training: to each logger that takes them, once, and only if the training has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from small_training import small_trainer

from dwiml import DWIMLTrainerOneInput, Logger
from dwiml.training.reporting.loggers import LocalLogger, give_figures, read_metrics

RUN = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[4].split(":")
from small_training import small_trainer
services = {"comet": {"comet_workspace": "team", "comet_project": "tracts"}, "wandb": {"wandb_project": "tracts"}}
options = services[sys.argv[3]]
small_trainer(Path(sys.argv[1]), Path(sys.argv[2]), max_epochs=2, resume="auto", **options).train_and_validate()
"""


class Album(Logger):
    """Keeps figures, and what was logged before each."""

    name = "album"

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.figures: list[tuple[str, Any, int]] = []

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.epochs.append(epoch)

    def log_figure(self, name: str, figure: Any) -> None:
        self.figures.append((name, figure, len(self.epochs)))


class Plain(Logger):
    """Takes no figures."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        pass


class Stopping(DWIMLTrainerOneInput):
    """Fails in its second epoch."""

    def run_one_batch(self, *args: Any) -> Any:
        if self.position.epoch == 1:
            raise RuntimeError("power cut")
        return super().run_one_batch(*args)


def test_one_figure_when_the_training_has_ended(tiny_hdf5: Path, tmp_path: Path) -> None:
    album = Album()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, loggers=[album]).train_and_validate()
    ((name, figure, nb_epochs),) = album.figures
    assert (name, nb_epochs) == ("curves", 2)
    assert isinstance(figure, Figure)
    (losses,) = [axes for axes in figure.axes if axes.get_ylabel().lower().startswith("loss")]
    assert all(len(line.get_xdata()) == 2 for line in losses.lines if len(line.get_xdata()) > 1)
    # A resumed run may have removed what followed the checkpoint, so a finished one gives its figure again.
    for max_epochs in (2, 3):
        again = Album()
        options: dict[str, Any] = {"max_epochs": max_epochs, "resume": "must"}
        small_trainer(tiny_hdf5, tmp_path, loggers=[again], **options).train_and_validate()
        assert [each[0] for each in again.figures] == ["curves"]


class Spoiling(Album):
    """Changes its figure, and fails."""

    name = "spoiling"
    is_closed = False

    def log_figure(self, name: str, figure: Any) -> None:
        figure.clear()
        raise OSError("no such folder")

    def close(self) -> None:
        self.is_closed = True


def test_a_logger_that_fails_with_the_figure_is_closed_and_spoils_no_other(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoiling, album = Spoiling(), Album()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=[spoiling, album]).train_and_validate()
    assert spoiling.is_closed
    assert "Logger 'spoiling' has no figure of the curves (OSError: no such folder" in caplog.text
    ((_, figure, _),) = album.figures
    assert len(figure.axes) > 1


def test_none_if_it_was_stopped(tiny_hdf5: Path, tmp_path: Path) -> None:
    album = Album()
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, loggers=[album], trainer_class=Stopping)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.train_and_validate()
    assert (album.epochs, album.figures) == ([0], [])


def test_nothing_is_drawn_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("dwiml.viz.logs.plot_logs", lambda *given: drawn.append(given))
    give_figures([LocalLogger(tmp_path), Plain()], tmp_path)
    assert drawn == []


def test_a_figure_that_fails_is_a_warning(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any) -> Any:
        raise ValueError("no ink")

    monkeypatch.setattr("dwiml.viz.logs.plot_logs", failing)
    album = Album()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=[album]).train_and_validate()
    assert album.figures == []
    assert "The curves for album cannot be drawn: no ink" in caplog.text
    assert len(read_metrics(tmp_path / "exp")) == 1


def test_tensorboard_shows_it(tiny_hdf5: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, tensorboard=True, resume="auto").train_and_validate()
    read = EventAccumulator(str(tmp_path / "exp" / "tensorboard"), size_guidance={"images": 0})
    read.Reload()
    assert read.Tags()["images"] == ["curves"]
    (image,) = read.Images("curves")
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert image.width > 300


def _train(tiny_hdf5: Path, folder: Path, service: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMET_", "WANDB_"))}
    environment |= {"HOME": str(folder), "WANDB_ERROR_REPORTING": "false"}
    words = [str(tiny_hdf5), str(folder), service, ":".join(sys.path)]
    subprocess.run([sys.executable, "-c", RUN, *words], env=environment, check=True, timeout=300)


def test_comet_has_it_in_its_archive(tiny_hdf5: Path, tmp_path: Path) -> None:
    # The second run replaces the archive of the first.
    for _ in range(2):
        _train(tiny_hdf5, tmp_path, "comet")
    (archive,) = (tmp_path / "exp" / "comet_offline").glob("*.zip")
    with zipfile.ZipFile(archive) as content:
        messages = [json.loads(line)["payload"] for line in content.read("messages.json").splitlines()]
        figures = [each for each in messages if each.get("upload_type") == "visualization"]
        assert [each["additional_params"]["figName"] for each in figures] == ["curves"]
        assert b"<svg" in content.read(Path(figures[0]["file_path"]).name)[:2000]


@pytest.mark.slow
def test_wandb_has_it_in_its_folder(tiny_hdf5: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    _train(tiny_hdf5, tmp_path, "wandb")
    (folder,) = (tmp_path / "exp" / "wandb").glob("offline-run-*")
    (image,) = folder.glob("files/media/images/curves_*.png")
    assert min(matplotlib.image.imread(image).shape[:2]) > 300
