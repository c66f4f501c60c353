"""A disk that is full: what is on it stays, what is not yet on it waits. On a real small disk where one can be made."""

from __future__ import annotations

import errno
import logging
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs, same_weights, small_trainer

from dwiml import Learn2TrackModel
from dwiml.files import atomic_write, write_json
from dwiml.training.experiment.best_model import BestModelKeeper
from dwiml.training.experiment.checkpoint import DICTIONARIES, KEYS, load_checkpoint, save_checkpoint, save_or_warn
from dwiml.training.reporting.loggers import LocalLogger, read_metrics

DISK = 2 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return an empty disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or shutil.which("umount") is None:
        pytest.skip("no mount command: a small disk cannot be made")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk is not allowed here ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["tmpfs", "limit"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder that full() can fill: on a disk of its own, or where files must stay small."""
    if request.param == "tmpfs":
        return Path(request.getfixturevalue("disk"))
    folder = tmp_path / "limited"
    folder.mkdir()
    return folder


@contextmanager
def full(folder: Path, left: int = 0) -> Iterator[None]:
    """Leave so many bytes: of the disk, or to each file where the folder is on no disk of its own."""
    if not folder.is_mount():
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return
    filler = folder / "filler"
    with filler.open("wb") as stream:
        stream.write(b"x" * max(0, shutil.disk_usage(folder).free - left))
    try:
        yield
    finally:
        filler.unlink()


def state(number: int, size: int = 70_000) -> dict[str, Any]:
    values: dict[str, Any] = {key: {} if key in DICTIONARIES else None for key in KEYS - {"format_version"}}
    return {**values, "model": {"weight": torch.full((size,), float(number)), "bias": torch.zeros(9)}}


def number_of(folder: Path) -> int:
    return int(load_checkpoint(folder)["model"]["weight"][0])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("left", [0, 4096, 100_000])
def test_a_file_is_whole_or_absent_and_nothing_is_left_aside(place: Path, left: int) -> None:
    path = place / "folder" / "file.bin"
    with atomic_write(path) as stream:
        stream.write(b"before")
    with full(place, left), pytest.raises(OSError, match=r"file\.bin"), atomic_write(path) as stream:
        stream.write(b"y" * (left + 4096))
    assert contents(path.parent) == {"file.bin": b"before"}


@pytest.mark.parametrize("left", [0, 40_000])
def test_torch_tells_a_full_disk_as_one(place: Path, left: int) -> None:
    """torch.save makes a RuntimeError about positions of it."""
    path = place / "file.pt"
    with full(place, left), pytest.raises(OSError, match=r"file\.pt") as caught, atomic_write(path) as stream:
        torch.save(state(1), stream)
    assert caught.value.errno == (errno.ENOSPC if place.is_mount() else errno.EFBIG)
    assert contents(place) == {}


def test_an_error_of_the_block_itself_stays_what_it_is(place: Path) -> None:
    with pytest.raises(TypeError, match="bytes-like"), atomic_write(place / "file") as stream:
        stream.write("text")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a defect"), atomic_write(place / "file"):
        raise RuntimeError("a defect")
    assert contents(place) == {}


@pytest.mark.parametrize("left", [0, 4096, 200_000])
def test_both_checkpoints_stay_as_they_were(place: Path, left: int) -> None:
    for number in (1, 2):
        save_checkpoint(place, state(number))
    before = contents(place)
    with full(place, left):
        with pytest.raises(OSError, match=r"^Checkpoint '.*latest\.pt' could not be written \(") as caught:
            save_checkpoint(place, state(3))
        assert str(caught.value).endswith("the previous ones are unchanged.")
        assert caught.value.errno == (errno.ENOSPC if place.is_mount() else errno.EFBIG)
        assert number_of(place) == 2
    assert contents(place) == before
    save_checkpoint(place, state(3))
    assert number_of(place) == 3
    (place / "latest.pt").unlink()
    assert number_of(place) == 2


def test_it_goes_on_and_tries_again_at_the_next(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = disk / "checkpoint"
    with caplog.at_level(logging.WARNING):
        with full(disk):
            assert save_or_warn(folder, state(0)) is False
        assert save_or_warn(folder, state(1)) is True
        with full(disk, 100_000):
            assert save_or_warn(folder, state(2)) is False
            assert save_or_warn(folder, state(3)) is False
            assert number_of(folder) == 1
        assert save_or_warn(folder, state(4)) is True
    assert number_of(folder) == 4
    assert sorted(contents(folder)) == ["latest.pt", "previous.pt"]
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3
    for message, stays in zip(messages, ["no earlier one exists", "the one of 2", "the one of 2"], strict=True):
        assert message.startswith(f"No space left on the disk: checkpoint '{folder}/latest.pt' not written, {stays}")
        assert message.endswith("the next one will be tried.")


def test_a_disk_that_two_checkpoints_fill_keeps_both(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A third must fit beside two: the old ones never make room for a new one that might not fit."""
    third = DISK // 4 // 3
    save_checkpoint(disk, state(1, size=int(third * 1.1)))
    save_checkpoint(disk, state(2, size=int(third * 1.1)))
    before = contents(disk)
    assert save_or_warn(disk, state(3, size=int(third * 1.1))) is False
    assert contents(disk) == before
    assert len(caplog.records) == 1


def test_the_log_is_that_of_an_undisturbed_run(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, undisturbed = LocalLogger(place), LocalLogger(tmp_path / "undisturbed")
    # Lines of about 8 KB: larger than a page, so that they fit in part.
    metrics = {f"metric_{i:03}": i / 7 for i in range(250)}
    for epoch in range(6):
        undisturbed.log_metrics(metrics, epoch)
        if epoch in (2, 3):
            size = log.path.stat().st_size
            # A part of a line fits, so the write is cut short.
            with full(place, 4096 if place.is_mount() else size + 100):
                log.log_metrics(metrics, epoch)
                assert log.path.stat().st_size == size
                assert [line["epoch"] for line in read_metrics(place)] == [0, 1]
        else:
            log.log_metrics(metrics, epoch)
        state, whole = log.state_dict(), undisturbed.path.read_bytes()
        waiting = "".join(f"{line}\n" for line in state["pending"]).encode()
        assert log.path.read_bytes()[: state["size"]] + waiting == whole
    assert log.path.read_bytes() == undisturbed.path.read_bytes()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_resumed_run_has_the_lines_that_waited(disk: Path) -> None:
    log = LocalLogger(disk / "exp")
    log.log_metrics({"train_loss": 1.0}, 0)
    with full(disk):
        for epoch in (1, 2):
            # Pages of the file still have room for a short line.
            log.log_metrics({f"metric_{i}": i / 7 for i in range(300)}, epoch)
        assert len(read_metrics(disk / "exp")) == 1
        kept = log.state_dict()
    # Killed here; another process goes on.
    resumed = LocalLogger(disk / "exp")
    resumed.load_state_dict(kept)
    assert [line["epoch"] for line in read_metrics(disk / "exp")] == [0, 1, 2]


def test_the_best_model_waits_for_room(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Learn2TrackModel(nb_features=3, rnn_layer_sizes=(40, 40))
    keeper, folder = BestModelKeeper(place / "best_model"), place / "best_model"
    assert keeper.save(model) is True
    before = contents(folder)
    with torch.no_grad():
        next(model.parameters()).fill_(2.0)
    with full(place, 8192):
        # parameters.json fits, the weights do not.
        assert keeper.save(model) is False
        with torch.no_grad():
            next(model.parameters()).fill_(3.0)
        assert keeper.retry(model) is False
    assert contents(folder) == before
    assert keeper.retry(model) is True
    assert next(Learn2TrackModel.load(folder).parameters()).unique().tolist() == [2.0]
    assert len(caplog.records) == 1


def test_json_is_whole_or_absent(place: Path) -> None:
    path = place / "parameters.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with full(place, 4096), pytest.raises(OSError, match=r"parameters\.json"):
        write_json(path, {"a": "b" * 20_000})
    assert contents(place) == {"parameters.json": before}


@pytest.mark.slow
def test_a_training_goes_on_while_the_disk_is_full(
    disk: Path, tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_trainer(tiny_hdf5, tmp_path, "undisturbed", max_epochs=5).train_and_validate()
    trainer = small_trainer(tiny_hdf5, disk, "exp", max_epochs=5)
    finish, checkpoints = trainer.finish_epoch, disk / "exp" / "checkpoint"

    def finish_with_little_room(metrics: dict[str, float]) -> None:
        if trainer.next_epoch not in (1, 2):
            finish(metrics)
            return
        with full(disk):
            finish(metrics)
            assert load_checkpoint(checkpoints)["position"]["epoch"] == 1

    trainer.finish_epoch = finish_with_little_room  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        trainer.train_and_validate()
    assert "no space left on the disk" in caplog.text
    assert logs(disk / "exp") == logs(tmp_path / "undisturbed")
    assert load_checkpoint(checkpoints)["position"]["epoch"] == 5
    models = [Learn2TrackModel.load(folder / "best_model") for folder in (disk / "exp", tmp_path / "undisturbed")]
    assert same_weights(*models)
