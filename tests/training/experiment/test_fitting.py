"""A checkpoint with a right digest whose content does not fit: one sentence before anything is used."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs, same_weights, small_trainer

from dwiml.cli import resume
from dwiml.files.tensors import write_tensors
from dwiml.training.experiment import fitting
from dwiml.training.experiment.checkpoint import load_checkpoint, max_bytes_for
from dwiml.training.experiment.restoring import restore
from dwiml.training.optimization.optimizers import OPTIMIZERS

State = dict[str, Any]


def set_in(*path: Any, to: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = to(state[path[-1]]) if callable(to) else to

    return change


def pop_in(*path: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


def integer_keys(state: State) -> None:
    state["model"] = dict(enumerate(state["model"].values()))


WEIGHT = "rnn.layers.0.weight_ih_l0"
HUGE = torch.zeros(1).expand(10**6)
CRAFTED: dict[str, tuple[Callable[[State], None], str]] = {
    "generator of another size": (set_in("generators", 0, "cpu", to=torch.zeros(9, dtype=torch.uint8)), "generators"),
    "generator of another kind": (set_in("generators", 0, "cpu", to=torch.zeros(5056)), "generators"),
    "generator of zeros": (set_in("generators", 0, "cpu", to=torch.zeros_like), "generators"),
    "no generators": (set_in("generators", to=[]), "generators"),
    "generators as text": (set_in("generators", to="text"), "generators"),
    "generator of a GPU": (set_in("generators", 0, "cuda", to=torch.zeros(3, dtype=torch.uint8)), "generators"),
    "moments of another shape": (set_in("optimizer", "state", 0, "exp_avg", to=torch.zeros(3)), "optimizer"),
    "expanded moments": (set_in("optimizer", "state", 0, "exp_avg", to=HUGE), "optimizer"),
    "moments that are negative": (set_in("optimizer", "state", 0, "exp_avg_sq", to=lambda old: old - 1), "optimizer"),
    "moments that are NaN": (set_in("optimizer", "state", 0, "exp_avg", to=lambda old: old * math.nan), "optimizer"),
    "moments of another optimizer": (set_in("optimizer", "state", 0, to={"momentum_buffer": None}), "optimizer"),
    "moments of text": (set_in("optimizer", "state", 0, "exp_avg", to="text"), "optimizer"),
    "a step of three": (set_in("optimizer", "state", 0, "step", to=torch.zeros(3)), "optimizer"),
    "more parameters": (set_in("optimizer", "state", to={99: {}}), "optimizer"),
    "groups as text": (set_in("optimizer", "param_groups", to="text"), "optimizer"),
    "two groups": (set_in("optimizer", "param_groups", to=lambda old: old * 2), "optimizer"),
    "a learning rate of text": (set_in("optimizer", "param_groups", 0, "lr", to="0.1"), "optimizer"),
    "a learning rate that is negative": (set_in("optimizer", "param_groups", 0, "lr", to=-0.1), "optimizer"),
    "a learning rate that is a tensor": (set_in("optimizer", "param_groups", 0, "lr", to=torch.ones(2)), "optimizer"),
    "other betas": (set_in("optimizer", "param_groups", 0, "betas", to=(0.9,)), "optimizer"),
    "a negative weight decay": (set_in("optimizer", "param_groups", 0, "weight_decay", to=-3.0), "optimizer"),
    "another kind of Adam": (set_in("optimizer", "param_groups", 0, "amsgrad", to=True), "optimizer"),
    "another implementation": (set_in("optimizer", "param_groups", 0, "capturable", to=True), "optimizer"),
    "other numbers of parameters": (set_in("optimizer", "param_groups", 0, "params", to=[0, 1]), "optimizer"),
    "weights of another shape": (set_in("model", WEIGHT, to=torch.zeros(2, 2)), "model"),
    "weights of another dtype": (set_in("model", WEIGHT, to=lambda old: old.double()), "model"),
    "weights that are NaN": (set_in("model", WEIGHT, to=lambda old: old * math.nan), "model"),
    "weights that are missing": (pop_in("model", WEIGHT), "model"),
    "weights as a number": (set_in("model", WEIGHT, to=3), "model"),
    "integer keys": (integer_keys, "model"),
    "an epoch as a tensor": (set_in("position", "epoch", to=torch.ones(3)), "position"),
    "an epoch that is negative": (set_in("position", "epoch", to=-1), "position"),
    "a batch far beyond": (set_in("position", "batch", to=10**6), "position"),
    "a phase of another name": (set_in("position", "phase", to="other"), "position"),
    "a phase in a list": (set_in("position", "phase", to=["training"]), "position"),
    "metrics as tensors": (set_in("position", "metrics", to={"train_loss": torch.ones(2)}), "position"),
    "no batch": (pop_in("position", "batch"), "position"),
    "monitors of another length": (set_in("monitors", "means", "loss", "values", to=torch.ones(99)), "monitors"),
    "monitors that are expanded": (set_in("monitors", "means", "loss", "values", to=HUGE), "monitors"),
    "weights of monitors as text": (set_in("monitors", "means", "loss", "weights", to=["1"]), "monitors"),
    "monitors that are NaN": (set_in("monitors", "means", "loss", "values", to=lambda old: old * math.nan), "monitors"),
    "no monitors": (set_in("monitors", to=None), "monitors"),
    "a number of points as text": (set_in("monitors", "nb_points", to="3"), "monitors"),
    "own metrics of another name": (set_in("monitors", "own", to=[{"../x": {}}]), "monitors"),
    "a best value as a tensor": (set_in("best", "best_value", to=torch.ones(1)), "best"),
    "a best epoch to come": (set_in("best", "best_epoch", to=7), "best"),
    "a schedule of another name": (set_in("schedule", "name", to="StepLR"), "schedule"),
    "a schedule as tensors": (set_in("schedule", "name", to=torch.ones(3)), "schedule"),
    "a scaler": (set_in("scaler", to={"scale": 3.0}), "scaler"),
    "averages that are not asked for": (set_in("averaged_weights", to={"nb_updates": 1}), "averaged_weights"),
    "a log of tensors": (set_in("loggers", "local", "pending", to=HUGE), "loggers"),
    "a log of the old form": (set_in("loggers", "local", to={"lines": ["{}"] * 1000}), "loggers"),
    "another logger": (set_in("loggers", to={"other": {}}), "loggers"),
    "parameters as tensors": (set_in("parameters", "trainer", "clip_grad", to=torch.ones(2)), "parameters"),
    "parameters with numbers as keys": (set_in("parameters", "trainer", to={3: 4}), "parameters"),
    "a seed of text": (set_in("parameters", "sampler", "seed", to="4"), "parameters"),
    "no data": (pop_in("parameters", "data"), "parameters"),
}


@pytest.fixture(scope="module")
def stopped(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the experiments of a training that was stopped within its second epoch, and of one that never was."""
    experiments = tmp_path_factory.mktemp("experiments")
    small_trainer(tiny_hdf5, experiments, "whole", max_epochs=2).train_and_validate()
    trainer = small_trainer(tiny_hdf5, experiments, max_epochs=2, checkpoint_minutes=1e-9)
    save = trainer.checkpointer.save

    def save_and_leave(*args: Any) -> None:
        save(*args)
        if trainer.position.epoch == 1 and trainer.position.batch:
            raise KeyboardInterrupt

    trainer.checkpointer.save = save_and_leave  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        trainer.train_and_validate()
    assert trainer.position.batch > 0
    return experiments


@pytest.fixture(scope="module")
def resumed(tiny_hdf5: Path, stopped: Path) -> Any:
    return small_trainer(tiny_hdf5, stopped, from_checkpoint=True)


@pytest.mark.parametrize("name", CRAFTED)
def test_what_does_not_fit_is_one_sentence_and_nothing_is_half_loaded(
    stopped: Path, resumed: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, part = CRAFTED[name]
    state = load_checkpoint(stopped / "exp" / "checkpoint")
    change(state)
    stream = io.BytesIO()
    write_tensors(state, stream, kind="checkpoint")
    loaded: list[str] = []
    for each in ("model", "optimizer", "schedule", "best", "position"):
        thing, note = getattr(resumed, each), lambda *args, each=each, **kwargs: loaded.append(each)
        monkeypatch.setattr(thing, "load_state_dict", note)
    with pytest.raises(
        ValueError, match=rf"^The checkpoint of '.*' does not fit: '{part}' cannot be restored"
    ) as caught:
        take_up(resumed, state)
    assert not loaded
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(stopped)) < 400


def take_up(trainer: Any, state: State) -> None:
    """Do what a trainer does with a checkpoint that it has read."""
    fitting.check_all(state, {"parameters": fitting.check_parameters}, str(trainer.folder.path))
    restore(trainer, state)


def test_the_good_one_is_taken_up(stopped: Path, resumed: Any) -> None:
    take_up(resumed, load_checkpoint(stopped / "exp" / "checkpoint"))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
@pytest.mark.parametrize(("then", "now"), [(None, True), (True, None), (False, True)])
def test_a_run_may_go_on_on_another_device(name: str, then: bool | None, now: bool | None) -> None:
    """An optimizer is fused on a GPU, and not on a CPU."""
    first, second = (stepped(OPTIMIZERS[name], torch.float32, fused=fused) for fused in (then, now))
    fitting.check_optimizer(second, first.state_dict())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_weights_of_any_kind_have_moments_of_theirs(name: str, dtype: torch.dtype) -> None:
    optimizer = stepped(OPTIMIZERS[name], dtype)
    fitting.check_optimizer(optimizer, optimizer.state_dict())


def stepped(kind: Any, dtype: torch.dtype, **options: Any) -> torch.optim.Optimizer:
    weights = torch.nn.Parameter(torch.ones(2, 3, dtype=dtype))
    optimizer: torch.optim.Optimizer = kind([weights], lr=0.1, **options)
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    return optimizer


def test_an_unknown_parameter_is_named(tiny_hdf5: Path, stopped: Path) -> None:
    path = stopped / "exp" / "checkpoint" / "latest.pt"
    good = path.read_bytes()
    state = load_checkpoint(path.parent)
    state["parameters"]["trainer"]["model_path"] = "x"
    with path.open("wb") as stream:
        write_tensors(state, stream, kind="checkpoint")
    with pytest.raises(ValueError, match="does not fit: DWIMLTrainerOneInput has no parameter 'model_path'"):
        small_trainer(tiny_hdf5, stopped, from_checkpoint=True)
    path.write_bytes(good)


def test_a_checkpoint_larger_than_the_model_can_need(tmp_path: Path) -> None:
    model = torch.nn.Linear(10, 10)
    with (tmp_path / "latest.pt").open("wb") as stream:
        write_tensors({}, stream, kind="checkpoint")
        # It takes no space on the disk.
        stream.truncate(4 * 10**9)
    with pytest.raises(ValueError, match=r"has 4000.0 MB, but this model needs 1073.7 MB at most"):
        load_checkpoint(tmp_path, max_bytes=max_bytes_for(model))


def test_what_may_not_be_read_stays_where_it_is(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped / "exp" / "checkpoint"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == ["latest.pt", "previous.pt"]
    real = os.open

    def denied(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("latest.pt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError, match=r"latest.pt' cannot be read: permission denied"):
        load_checkpoint(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_afterwards_the_good_one_ends_as_if_never_stopped(
    tiny_hdf5: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = small_trainer(tiny_hdf5, stopped, "whole", from_checkpoint=True)
    assert resume.main([str(stopped / "exp"), "-q"]) == 0, capsys.readouterr().err
    again = small_trainer(tiny_hdf5, stopped, from_checkpoint=True)
    assert same_weights(whole.model, again.model)
    assert logs(stopped / "exp") == logs(stopped / "whole")
