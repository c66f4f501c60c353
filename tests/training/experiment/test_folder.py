"""Nothing is written into a folder of anything else, no leftovers stay, and no link is followed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs, small_trainer

from dwiml import Learn2TrackModel
from dwiml.training.experiment.checkpointer import ResultsNotSavedError
from dwiml.training.experiment.folder import ExperimentFolder, experiment_folder
from dwiml.training.experiment.holder import Holder
from dwiml.training.experiment.lock import ExperimentGoneError, ExperimentInUseError


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        link = os.readlink(path) if path.is_symlink() else None
        found[str(path)] = link or (path.read_bytes() if path.is_file() else None)
    return found


def write(path: Path, content: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def dwi_ml_experiment(folder: Path) -> None:
    """Make what dwi_ml leaves of a training."""
    write(folder / "parameters.json", json.dumps({"type of loader": "x", "Sampler": {}}))
    write(folder / "best_model" / "parameters.json", "{}")
    write(folder / "best_model" / "model_type.txt", "Learn2TrackModel")
    write(folder / "best_model" / "model_state.pkl")
    write(folder / "checkpoint" / "checkpoint_state.pkl")


FOREIGN: dict[str, Callable[[Path], None]] = {
    "dwi_ml": dwi_ml_experiment,
    "a best model alone": lambda folder: write(folder / "best_model" / "parameters.json", "{}"),
    "a checkpoint of another program": lambda folder: torch.save({}, made(folder / "checkpoint" / "latest.pt")),
    "a user's data": lambda folder: write(folder / "sub-01" / "t1.nii"),
    "logs alone": lambda folder: write(folder / "logs" / "metrics.jsonl", '{"epoch": 0}\n'),
    "parameters of something else": lambda folder: write(folder / "parameters.json", '{"model": {}}'),
    "parameters that are damaged": lambda folder: write(folder / "parameters.json", '{"model": '),
    "a lock of something else": lambda folder: write(folder / "lock.json", "my own notes"),
    "a lock of another program": lambda folder: write(folder / "lock.json", '{\n  "host": "a"\n}'),
    "a hidden file": lambda folder: write(folder / ".notes.tmp"),
}


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.first(10)
@pytest.mark.parametrize("resume", ["never", "auto", "must"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_ours_is_never_written_into(tiny_hdf5: Path, tmp_path: Path, kind: str, resume: str) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    FOREIGN[kind](folder)
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match=r"exp' is .*it holds .*nothing is written into it") as caught:
        small_trainer(tiny_hdf5, tmp_path, resume=resume)
    assert "--resume" not in str(caught.value)
    assert f"'{min(os.listdir(folder))}'" in str(caught.value)
    assert ("dwi_ml" in str(caught.value)) == (kind == "dwi_ml")
    assert snapshot(tmp_path) == before


def test_one_that_became_another_s_since_the_trainer_was_made(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, resume="auto")
    write(tmp_path / "exp" / "notes.txt")
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match=r"notes.txt"):
        trainer.train_and_validate()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("left", ["", ".lock.json.abc.tmp", ".parameters.json.abc.tmp", "lock.json"])
def test_a_new_folder_or_what_a_killed_process_left_is_taken(tiny_hdf5: Path, tmp_path: Path, left: str) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    if left:
        dead = replace(Holder.this_process(), process_start=0)
        (folder / left).write_bytes(b"" if left != "lock.json" else dead.written())
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    trainer.train_and_validate()
    assert sorted(os.listdir(folder)) == ["best_model", "checkpoint", "logs", "parameters.json"]


WRITTEN = Holder.this_process().written()


@pytest.mark.first(2)
@pytest.mark.parametrize(
    "content",
    [b"", bytes(300), WRITTEN[:9], WRITTEN[:60], WRITTEN.replace(b"pid", b"p\0d")],
    ids=["empty", "zeros", "nine bytes", "sixty bytes", "another key"],
)
def test_a_damaged_lock_alone_in_a_folder_is_taken_over(
    tiny_hdf5: Path, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path / "exp" / "lock.json").write_bytes(content)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    assert sorted(os.listdir(tmp_path / "exp")) == ["best_model", "checkpoint", "logs", "parameters.json"]
    assert "of an unknown process was abandoned (it is damaged); it is taken over" in caplog.text


def test_killed_before_the_first_checkpoint_it_starts_over(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    for name in ("checkpoint", "best_model", "logs"):
        shutil.rmtree(tmp_path / "exp" / name)
    with pytest.raises(FileExistsError, match="already exists: resume it"):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, resume="auto").train_and_validate()
    assert len(logs(tmp_path / "exp")) == 1


def test_lost_parameters_do_not_hide_a_checkpoint_of_ours(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    (tmp_path / "exp" / "parameters.json").unlink()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto").train_and_validate()
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == [0, 1]


@pytest.mark.parametrize("name", ["checkpoint", "best_model", "logs", "bad_batches", "logs/metrics.jsonl"])
def test_links_in_an_experiment_are_not_written_through(tiny_hdf5: Path, tmp_path: Path, name: str) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    path, other = tmp_path / "exp" / name, tmp_path / "mine"
    if path.exists():
        path.rename(other)
    else:
        other.mkdir()
    if other.is_dir():
        (other / ".latest.pt.tmp").write_text("mine")
        (other / ".notes.tmp").write_text("mine")
    path.symlink_to(other)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=f"{name}' is a symbolic link"):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_a_link_or_a_pipe_is_refused(tiny_hdf5: Path, tmp_path: Path, kind: str) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto")
    lock, other = tmp_path / "exp" / "lock.json", tmp_path / "mine"
    other.write_text("mine")
    lock.symlink_to(other) if kind == "link" else os.mkfifo(lock)
    before = time.monotonic()
    with pytest.raises(OSError, match="cannot be locked") as caught:
        trainer.train_and_validate()
    assert "symbolic link" in str(caught.value) or "not a regular file" in str(caught.value)
    assert time.monotonic() - before < 3
    assert other.read_text() == "mine"
    assert os.path.lexists(lock)


@pytest.mark.slow
def test_links_of_single_files_are_replaced(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    names = ("parameters.json", "checkpoint/latest.pt", "best_model/parameters.json", "best_model/model_state.pt")
    for name in names:
        path = tmp_path / "exp" / name
        other = tmp_path / f"mine {path.parent.name} {path.name}"
        path.rename(other)
        path.symlink_to(other)
    mine = {path: path.read_bytes() for path in tmp_path.glob("mine *")}
    small_trainer(tiny_hdf5, tmp_path, max_epochs=6, resume="auto").train_and_validate()
    assert {path: path.read_bytes() for path in mine} == mine
    assert not (tmp_path / "exp" / "checkpoint" / "latest.pt").is_symlink()


def test_only_its_own_unfinished_files_are_removed(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    ours = [".parameters.json.a.tmp", "checkpoint/.latest.pt.a.tmp", "logs/.metrics.jsonl.a.tmp"]
    mine = [".notes.tmp", "checkpoint/.notes.tmp", "best_model/.a.b.tmp", "logs/notes.tmp"]
    for name in (*ours, *mine):
        write(tmp_path / name)
    folder.make()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(mine)


class FailsAtOnce(Learn2TrackModel):
    """A model whose first forward fails, as one whose sizes do not fit."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("sizes do not fit")


@pytest.mark.parametrize("deep", [False, True])
def test_a_training_that_fails_before_any_result_leaves_nothing(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    experiments = tmp_path / "a" / "b" if deep else tmp_path
    trainer = small_trainer(tiny_hdf5, experiments)
    monkeypatch.setattr(type(trainer.model), "forward", FailsAtOnce.forward)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="sizes do not fit"):
        trainer.train_and_validate()
    assert snapshot(tmp_path) == before


def test_a_training_that_fails_later_leaves_its_results(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3)
    finish = trainer.finish_epoch

    def fail_after_one(metrics: dict[str, float]) -> None:
        finish(metrics)
        raise ValueError("later")

    monkeypatch.setattr(trainer, "finish_epoch", fail_after_one)
    with pytest.raises(ValueError, match="later"):
        trainer.train_and_validate()
    assert len(logs(tmp_path / "exp")) == 1
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, resume="auto").train_and_validate()


def disturbed(trainer: Any, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Do something to the experiment just before its second epoch ends."""
    finish = trainer.finish_epoch

    def finish_disturbed(metrics: dict[str, float]) -> None:
        if trainer.next_epoch == 1:
            action()
        finish(metrics)

    monkeypatch.setattr(trainer, "finish_epoch", finish_disturbed)


def test_one_that_was_taken_over_writes_nothing_more(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process was suspended for longer than the lock's age, and another one has trained since."""
    small_trainer(tiny_hdf5, tmp_path, "other", max_epochs=4).train_and_validate()
    trainer, folder = small_trainer(tiny_hdf5, tmp_path, max_epochs=9), tmp_path / "exp"
    before: dict[str, bytes | str | None] = {}

    def take_over() -> None:
        for name in ("checkpoint", "logs", "best_model"):
            shutil.rmtree(folder / name)
            shutil.copytree(tmp_path / "other" / name, folder / name)
        holder = {**vars(Holder.this_process()), "token": "another"}
        (folder / "lock.json").write_text(json.dumps(holder))
        before.update(snapshot(folder))
        # The disk was full until now.
        trainer.loggers[0]._pending = {0: '{"epoch": 0}'}  # type: ignore[attr-defined]
        trainer.best_model._state = dict(trainer.model.state_dict())

    disturbed(trainer, monkeypatch, take_over)
    with pytest.raises(ExperimentInUseError, match=r"was taken over by process .*writes nothing more"):
        trainer.train_and_validate()
    assert snapshot(folder) == before


@pytest.mark.first(1)
@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_folder_that_is_gone_is_said_to_be_so(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    trainer, folder = small_trainer(tiny_hdf5, tmp_path, max_epochs=4), tmp_path / "exp"
    action: Callable[[], object] = (
        (lambda: shutil.rmtree(folder)) if how == "deleted" else (lambda: folder.rename(tmp_path / "new"))
    )
    disturbed(trainer, monkeypatch, lambda: action() and None)
    with pytest.raises(ExperimentGoneError, match=r"exp' no longer exists \(deleted, renamed"):
        trainer.train_and_validate()
    assert not folder.exists()
    if how == "renamed":
        (tmp_path / "new" / "lock.json").unlink()
        small_trainer(tiny_hdf5, tmp_path, "new", max_epochs=4, resume="auto").train_and_validate()
        assert [line["epoch"] for line in logs(tmp_path / "new")] == [0, 1, 2, 3]


@pytest.mark.first(1)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_training_that_could_not_save_ends_with_an_error(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3)

    def refuse(*args: Any) -> None:
        raise OSError(30, os.strerror(30))

    disturbed(trainer, monkeypatch, lambda: monkeypatch.setattr(os, function, refuse))
    with pytest.raises(
        ResultsNotSavedError, match=r"could not write .*the last checkpoint \('.*checkpoint'\)"
    ) as caught:
        trainer.train_and_validate()
    assert ("the last lines of the log" in str(caught.value)) == (function == "fsync")
    monkeypatch.undo()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, resume="auto").train_and_validate()
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == [0, 1, 2]


@pytest.mark.slow
def test_what_was_refused_for_a_while_is_there_at_the_end(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_trainer(tiny_hdf5, tmp_path, "undisturbed", max_epochs=2).train_and_validate()
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    real, require = os.fsync, trainer.checkpointer.require_saved

    def refuse(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    def make_room(*args: Any) -> None:
        monkeypatch.setattr(os, "fsync", real)
        require(*args)

    disturbed(trainer, monkeypatch, lambda: monkeypatch.setattr(os, "fsync", refuse))
    monkeypatch.setattr(trainer.checkpointer, "require_saved", make_room)
    trainer.train_and_validate()
    assert logs(tmp_path / "exp") == logs(tmp_path / "undisturbed")
    assert small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="must").is_finished


def test_the_folder_that_a_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "exp" / "parameters.json")
    (tmp_path / "exp" / "logs").mkdir()
    monkeypatch.chdir(tmp_path / "exp")
    for name in (".", "logs/..", "../exp/."):
        assert experiment_folder(name).path.name == "exp"
    monkeypatch.chdir(tmp_path / "exp" / "logs")
    assert experiment_folder("..").path.name == "exp"
    with pytest.raises(FileNotFoundError, match="has no parameters.json"):
        experiment_folder(".")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        experiment_folder("nowhere")
    with pytest.raises(NotADirectoryError, match="is a file, not an experiment folder"):
        experiment_folder(tmp_path / "exp" / "parameters.json")
