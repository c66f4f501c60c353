"""What a user brings to a training: state, an optimizer, a schedule, loggers, a batch's loss."""

from __future__ import annotations

import collections
import functools
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import interrupt, logs, same_weights, small_trainer

import dwiml
from dwiml import DWIMLTrainerOneInput, Logger
from dwiml.cli import resume
from dwiml.files import read_json
from dwiml.training.experiment.checkpoint import load_checkpoint


class Counter:
    """State of a user's: a number and a tensor that follow from the batches that were seen."""

    def __init__(self) -> None:
        self.nb, self.mean = 0, torch.zeros(3, dtype=torch.float64)

    def update(self, points: torch.Tensor) -> None:
        self.nb += 1
        self.mean.lerp_(points.double().mean(dim=0), 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {"nb": self.nb, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nb, self.mean = state["nb"], state["mean"].clone()


class CountingTrainer(DWIMLTrainerOneInput):
    """Its loss depends on its own state."""

    counter: Counter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counter = Counter()
        self.register_state("counter", self.counter)

    def run_one_batch(self, targets: Any, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        loss, n = super().run_one_batch(targets, ids_per_subj)
        if self.model.training:
            self.counter.update(targets.data)
        return loss * (1 + 0.1 * float(self.counter.mean.sum())), n


def counting(path: Path, experiments: Path, name: str = "exp", **kwargs: Any) -> CountingTrainer:
    trainer = small_trainer(path, experiments, name, trainer_class=CountingTrainer, **kwargs)
    assert isinstance(trainer, CountingTrainer)
    return trainer


@pytest.mark.first(1)
@pytest.mark.parametrize("nth", [1, 3, 6])
def test_registered_state_comes_back_within_an_epoch(tiny_hdf5: Path, tmp_path: Path, nth: int) -> None:
    whole = counting(tiny_hdf5, tmp_path, "whole", max_epochs=2)
    whole.train_and_validate()
    part = counting(tiny_hdf5, tmp_path, max_epochs=2)
    interrupt(part, nth)
    saved = load_checkpoint(tmp_path / "exp" / "checkpoint")["registered"]["counter"]
    assert 0 < saved["nb"] < whole.counter.nb
    resumed = counting(tiny_hdf5, tmp_path, max_epochs=2, resume="must")
    assert resumed.counter.nb == saved["nb"]
    resumed.train_and_validate()
    assert resumed.counter.nb == whole.counter.nb == 8
    assert torch.equal(resumed.counter.mean, whole.counter.mean)
    assert same_weights(whole.model, resumed.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")


KILLED = """
import os, signal, sys
from pathlib import Path
from test_extension_points import counting
from small_training import signal_at
trainer = counting(Path(sys.argv[1]), Path(sys.argv[2]), max_epochs=2, checkpoint_minutes=1e-9)
signal_at(trainer, 6, signal.SIGKILL)
trainer.train_and_validate()
"""


def test_registered_state_survives_kill_9(tiny_hdf5: Path, tmp_path: Path) -> None:
    whole = counting(tiny_hdf5, tmp_path, "whole", max_epochs=2)
    whole.train_and_validate()
    paths = [str(Path(__file__).parent), *sys.path]
    code = f"import sys; sys.path[:0] = {paths!r}\n{KILLED}"
    done = subprocess.run([sys.executable, "-c", code, str(tiny_hdf5), str(tmp_path)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = counting(tiny_hdf5, tmp_path, max_epochs=2, resume="must")
    assert 0 < resumed.counter.nb < 8
    resumed.train_and_validate()
    assert torch.equal(resumed.counter.mean, whole.counter.mean)
    assert same_weights(whole.model, resumed.model)


def test_a_checkpoint_with_other_names_is_one_sentence(tiny_hdf5: Path, tmp_path: Path) -> None:
    interrupt(counting(tiny_hdf5, tmp_path, max_epochs=2), 1)
    lacking = counting(tiny_hdf5, tmp_path, max_epochs=2, resume="must")
    with pytest.raises(ValueError, match=r"has no registered state 'other' \(it has: 'counter'\)"):
        lacking.register_state("other", Counter())
    interrupt(small_trainer(tiny_hdf5, tmp_path, "plain", max_epochs=2), 1)
    plain = small_trainer(tiny_hdf5, tmp_path, "plain", max_epochs=2, resume="must")
    with pytest.raises(ValueError, match=r"has no registered state 'counter' \(it has: none\): resume with the script"):
        plain.register_state("counter", Counter())


class Forgetful(DWIMLTrainerOneInput):
    """Registers nothing where it should."""

    registers = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.registers:
            self.register_state("mine", torch.nn.Linear(2, 1))


def test_a_state_that_nothing_is_registered_for(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=Forgetful)
    assert not trainer.checkpointer.found
    trainer.train_and_validate()
    monkeypatch.setattr(Forgetful, "registers", False)
    resumed = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="must", trainer_class=Forgetful)
    with pytest.raises(
        ValueError, match=r"has the registered state 'mine', which this trainer does not have: call register_"
    ):
        resumed.train_and_validate()


class Stubborn(Counter):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("nb_of_old")


class Unsaveable(Counter):
    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        return state | {"itself": [state, self]}


def test_what_cannot_be_registered_is_one_sentence(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    with pytest.raises(
        ValueError, match="state 'x' cannot be saved .'itself' -> 1 -> an object of type Unsaveable"
    ) as caught:
        trainer.register_state("x", Unsaveable())
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="'x' is of type dict, which has no state_dict and no load_state_dict"):
        trainer.register_state("x", {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="register_state: the name must be a printable string, got ''"):
        trainer.register_state("", Counter())
    trainer.register_state("x", Counter())
    with pytest.raises(ValueError, match="'x' is already registered"):
        trainer.register_state("x", Counter())
    interrupt(trainer, 1)
    resumed = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="must")
    with pytest.raises(
        ValueError, match=r"load_state_dict of the registered state 'x' failed \(KeyError: 'nb_of_old'\). Resume with"
    ):
        resumed.register_state("x", Stubborn())


class Growing(Counter):
    """Its state can be saved at first, and not after some batches."""

    def __init__(self, after: int, value: Any) -> None:
        super().__init__()
        self.after, self.value = after, value

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({"history": {"last": self.value}} if self.nb >= self.after else {})}


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_state_that_cannot_be_saved_ends_the_training_with_its_keys(
    tiny_hdf5: Path, tmp_path: Path, after: int
) -> None:
    trainer = counting(tiny_hdf5, tmp_path, max_epochs=2)
    trainer.checkpointer._registered["counter"] = trainer.counter = Growing(after, {1}.union)
    sentence = "cannot be saved .'registered' -> 'counter' -> 'history' -> 'last' -> an object of type builtin_func"
    with pytest.raises(ValueError, match=sentence):
        trainer.train_and_validate()
    # At the start, after the first step, and at the end of the second epoch.
    assert trainer.counter.nb == min(after, 1) if after < 2 else trainer.position.epoch == 2
    if after == 5:
        # The previous checkpoint can still be used.
        assert load_checkpoint(tmp_path / "exp" / "checkpoint")["registered"]["counter"]["nb"] == 4


def test_a_state_larger_than_can_be_read_is_refused_before_it_is_written(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwiml.training.experiment.checkpoint._BYTES_OF_THE_REST", 2**20)
    trainer = counting(tiny_hdf5, tmp_path, max_epochs=2)
    with pytest.raises(ValueError, match=r"'x' cannot be saved \(it has 8.0 MB, more than the 1.1 MB that can be read"):
        trainer.register_state("x", Growing(0, torch.zeros(10**6, dtype=torch.float64)))
    trainer.checkpointer._registered["counter"] = trainer.counter = Growing(5, torch.zeros(10**6))
    with pytest.raises(ValueError, match=r"The new checkpoint cannot be saved \(it has 4.\d MB, more than the 1.1 MB"):
        trainer.train_and_validate()
    resumed = counting(tiny_hdf5, tmp_path, max_epochs=1, resume="must")
    assert resumed.counter.nb == 4


def two_groups(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer whose last parameters learn ten times as fast."""
    return torch.optim.NAdam([{"params": parameters[:-2]}, {"params": parameters[-2:], "lr": 0.1}], lr=0.01)


class Users(torch.optim.SGD):
    """Keeps values outside of the state of each parameter, some of them only after a step."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=np.float32(0.01), momentum=torch.tensor(0.5))  # type: ignore[arg-type]
        self.nb_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.nb_steps += 1
        self.state["global"] = {"nb": self.nb_steps}  # type: ignore[index]
        self.param_groups[0]["boost"] = 1 + 1 / self.nb_steps
        with torch.no_grad():
            for each in self.param_groups[0]["params"]:
                if each.grad is not None:
                    each.grad *= self.param_groups[0]["boost"]
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({"nb_steps": self.nb_steps} if self.nb_steps else {})}

    def load_state_dict(self, state: Any) -> None:
        self.nb_steps = state["nb_steps"]
        super().load_state_dict(state)


class Reshaped(Users):
    """Its state has no groups."""

    def state_dict(self) -> dict[str, Any]:
        return {"nb_steps": self.nb_steps, "inner": torch.optim.SGD.state_dict(self)}

    def load_state_dict(self, state: Any) -> None:
        self.nb_steps = state["nb_steps"]
        torch.optim.SGD.load_state_dict(self, state["inner"])


class Remembering(torch.optim.lr_scheduler.LRScheduler):
    """Keeps what no checkpoint holds, and computes in NumPy."""

    def __init__(self, optimizer: Any) -> None:
        self.seen: collections.deque[int] = collections.deque(maxlen=2)
        self.is_new: bool | None = True
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        self.seen.append(self.last_epoch)
        self.is_new = None
        return [np.float32(rate) / np.float32(1 + sum(self.seen)) for rate in self.base_lrs]


@pytest.mark.first(2)
@pytest.mark.parametrize("optimizer", [Users, Reshaped])
@pytest.mark.parametrize("nth", [2, 6])
def test_values_outside_of_the_parameters_state_are_resumed(
    tiny_hdf5: Path, tmp_path: Path, optimizer: Any, nth: int
) -> None:
    options = {"max_epochs": 2, "learning_rates": 0.01, "optimizer": optimizer, "lr_scheduler": Remembering}
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", **options)
    whole.train_and_validate()
    interrupt(small_trainer(tiny_hdf5, tmp_path, **options), nth)
    last = small_trainer(tiny_hdf5, tmp_path, resume="must", **options)
    assert type(last.optimizer.param_groups[0]["momentum"]) is float
    last.train_and_validate()
    assert same_weights(whole.model, last.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")
    assert vars(last.optimizer)["nb_steps"] == vars(whole.optimizer)["nb_steps"] == 8


class Decaying(DWIMLTrainerOneInput):
    """Changes a hyperparameter of an optimizer chosen by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimizer.param_groups[0] |= {"weight_decay": 0.1, "name": "all"}


@pytest.mark.slow
def test_a_changed_hyperparameter_of_a_named_optimizer_is_resumed(tiny_hdf5: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"trainer_class": Decaying, "max_epochs": 2}
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", **options)
    whole.train_and_validate()
    interrupt(small_trainer(tiny_hdf5, tmp_path, **options), 6)
    last = small_trainer(tiny_hdf5, tmp_path, resume="must", **options)
    last.train_and_validate()
    assert same_weights(whole.model, last.model)
    with pytest.raises(ValueError, match="with other parameters: trainer.weight_decay was 0.0 and is now 0.2"):
        small_trainer(tiny_hdf5, tmp_path, resume="must", weight_decay=0.2, **options)


def test_parameters_added_to_the_optimizer_after_the_trainer_is_created(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    trainer.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="The parameters of the optimizer were changed after the trainer was created"):
        trainer.train_and_validate()
    assert not (tmp_path / "exp").exists()


def other_groups(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return two_groups(parameters)


def warm_then_step(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=1),
        torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[1])


OWN: dict[str, Any] = {"max_epochs": 3, "learning_rates": 0.01, "optimizer": two_groups}


@pytest.mark.first(1)
@pytest.mark.parametrize("lr_scheduler", [None, "warmup_cosine", warm_then_step])
def test_an_optimizer_and_a_schedule_of_ones_own_are_resumed_exactly(
    tiny_hdf5: Path, tmp_path: Path, lr_scheduler: Any
) -> None:
    options = {**OWN, "lr_scheduler": lr_scheduler}
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", **options)
    whole.train_and_validate()
    interrupt(small_trainer(tiny_hdf5, tmp_path, **options), 6)
    last = small_trainer(tiny_hdf5, tmp_path, resume="must", **options)
    assert isinstance(last.optimizer, torch.optim.NAdam)
    last.train_and_validate()
    assert same_weights(whole.model, last.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")
    # The groups keep their ratio, whatever the schedule.
    first, second = (group["lr"] for group in last.optimizer.param_groups)
    assert second == pytest.approx(10 * first)
    recorded = read_json(tmp_path / "exp" / "parameters.json")["trainer"]
    assert recorded["optimizer"] == f"{__name__}.two_groups"
    if callable(lr_scheduler):
        assert recorded["lr_scheduler"] == f"{__name__}.warm_then_step"
        rates = [line["learning_rate"] for line in logs(tmp_path / "whole")]
        assert rates == pytest.approx([0.005, 0.01, 0.005])


def test_another_optimizer_is_refused_and_the_command_names_the_script(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted = small_trainer(tiny_hdf5, tmp_path, **OWN)
    interrupt(interrupted, 1)
    assert "or dwiml resume" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"trainer.optimizer was '.*two_groups' and is now '.*other_groups'"):
        small_trainer(tiny_hdf5, tmp_path, resume="must", **OWN | {"optimizer": other_groups})
    assert resume.main([str(tmp_path / "exp")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was trained with optimizer" in line
    assert "created by its script: run that script again with resume='auto'" in line
    parts = (interrupted.model, tmp_path, "exp", interrupted.batch_sampler, interrupted.batch_loader)
    resumed = DWIMLTrainerOneInput.init_from_checkpoint(*parts, optimizer=two_groups, verbose=False)
    resumed.train_and_validate()
    assert len(logs(tmp_path / "exp")) == 3


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"optimizer": lambda parameters: None},
            TypeError,
            "optimizer must return a torch optimizer, got None from",
        ),
        (
            {"optimizer": lambda parameters: torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.002)},
            ValueError,
            "has 1 parameters that are not the model's",
        ),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(2)])},
            TypeError,
            "or a function that creates one, as lambda parameters: .* got an object of type SGD",
        ),
        (
            {"optimizer": lambda parameters: torch.optim.LBFGS(parameters, lr=0.002)},
            ValueError,
            r"is of class LBFGS, which evaluates the loss several times in a step \(closure\): the trainer does not",
        ),
        (
            {"optimizer": lambda parameters: torch.optim.SparseAdam(parameters, lr=0.002)},
            ValueError,
            "is of class SparseAdam, which accepts only sparse gradients: the trainer does not support it",
        ),
        ({"optimizer": "adam"}, ValueError, "optimizer must be one of Adam, AdamW, RAdam, SGD, got 'adam'"),
        (
            {"optimizer": torch.optim.NAdam, "weight_decay": 0.1},
            ValueError,
            "weight_decay applies to optimizers given by",
        ),
        ({"optimizer": two_groups, "learning_rates": 0.1}, ValueError, "starts with a learning rate of 0.01, and lear"),
        ({"lr_scheduler": lambda optimizer: None, "learning_rates": 0.1}, ValueError, "not a torch scheduler"),
    ],
)
def test_what_is_no_optimizer_or_schedule(
    tiny_hdf5: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, **{"learning_rates": 0.002, **options})


def test_a_partial_is_recorded_with_its_arguments(tiny_hdf5: Path, tmp_path: Path) -> None:
    made = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    trainer = small_trainer(tiny_hdf5, tmp_path, learning_rates=0.01, optimizer=made)
    assert trainer.params["optimizer"] == "torch.optim.sgd.SGD(lr=0.01, momentum=0.9)"


def test_a_logger_may_set_its_name(tiny_hdf5: Path, tmp_path: Path) -> None:
    class Named(Logger):
        def __init__(self, name: str | None = None) -> None:
            if name is not None:
                self.name = name
            self.epochs: list[int] = []

        def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
            self.epochs.append(epoch)

    loggers = [Named("first"), Named("second"), Named()]
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=loggers)
    assert trainer.params["loggers"] == ["first", "second", "Named"]
    trainer.train_and_validate()
    assert [each.epochs for each in loggers] == [[0]] * 3
    assert {"first", "second", "Named"} < load_checkpoint(tmp_path / "exp" / "checkpoint")["loggers"].keys()
    with pytest.raises(TypeError, match=r"^The name of logger Named must be a string .*, got 3\.$"):
        small_trainer(tiny_hdf5, tmp_path, "other", loggers=[Named(3)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a printable string, got ''"):
        small_trainer(tiny_hdf5, tmp_path, "other", loggers=[Named("")])


class ListLogger(Logger):
    """Keeps what it receives, and counts the epochs in the checkpoint."""

    def __init__(self, name: str = "list") -> None:
        self._name = name
        self.received: list[Any] = []
        self.nb_epochs = 0

    @property
    def name(self) -> str:
        return self._name

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        self.received.append(params["trainer"]["max_epochs"])

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.nb_epochs += 1
        self.received.append((epoch, metrics["train_loss"]))

    def state_dict(self) -> dict[str, Any]:
        return {"nb_epochs": self.nb_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nb_epochs = state["nb_epochs"]

    def close(self) -> str | None:
        self.received.append("closed")
        return "The list is complete."


def test_a_logger_of_ones_own_receives_what_the_log_has(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ListLogger()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, loggers=[first], verbose=True).train_and_validate()
    losses = [(line["epoch"], line["train_loss"]) for line in logs(tmp_path / "exp")]
    assert first.received == [2, *losses, "closed"]
    assert "The list is complete." in capsys.readouterr().err
    assert read_json(tmp_path / "exp" / "parameters.json")["trainer"]["loggers"] == ["list"]
    # Its state is in the checkpoint; other loggers may come and go.
    second, other = ListLogger(), ListLogger("other")
    options: dict[str, Any] = {"max_epochs": 3, "resume": "must"}
    small_trainer(tiny_hdf5, tmp_path, loggers=[second, other], **options).train_and_validate()
    assert (second.nb_epochs, other.nb_epochs) == (3, 1)
    small_trainer(tiny_hdf5, tmp_path, **{**options, "max_epochs": 4}).train_and_validate()
    assert len(logs(tmp_path / "exp")) == 4


@pytest.mark.first(2)
@pytest.mark.parametrize("fails_in", ["log_parameters", "log_metrics", "state_dict", "load_state_dict", "close"])
def test_a_logger_that_fails_never_stops_the_training(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, fails_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2).train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=[ListLogger()]).train_and_validate()

    def fail(*args: Any) -> Any:
        raise ConnectionError("no answer")

    monkeypatch.setattr(ListLogger, fails_in, fail)
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, loggers=[ListLogger()], resume="must").train_and_validate()
    assert logs(tmp_path / "exp") == logs(tmp_path / "whole")
    sentence = f"Logger 'list' failed (ConnectionError: no answer, in {__file__}, line "
    told = [record.getMessage() for record in caplog.records if sentence in record.getMessage()]
    assert len(caplog.records) == len(told) == 1, "It is told once."
    line = int(told[0].removeprefix(sentence).partition(")")[0])
    assert 'raise ConnectionError("no answer")' in Path(__file__).read_text().splitlines()[line - 1]


class Hostile(ListLogger):
    """Changes whatever it receives, keeps what it returned, and has another name each time."""

    def __init__(self) -> None:
        super().__init__()
        self.nb_names = 0
        self.state: dict[str, Any] = {"epochs": [], "inner": {}}

    @property
    def name(self) -> str:
        self.nb_names += 1
        if self.nb_names > 20:
            raise RuntimeError("no name any more")
        return f"hostile {self.nb_names}"

    def log_parameters(self, params: Any) -> None:
        params["trainer"].clear()
        params.clear()

    def log_metrics(self, metrics: Any, epoch: int) -> None:
        self.state["epochs"].append(epoch)
        metrics.clear()
        if epoch == 1:
            raise ConnectionError("no answer")

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state
        state["epochs"].append("loaded")


def test_what_a_logger_changes_is_its_own_copy(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, loggers=[Hostile()])
    trainer.train_and_validate()
    checkpoint = load_checkpoint(tmp_path / "exp" / "checkpoint")
    assert checkpoint["parameters"] == trainer.describe() | {"seeds": checkpoint["parameters"]["seeds"]}
    (name,) = checkpoint["parameters"]["trainer"]["loggers"]
    # The state of the last epoch before it failed.
    assert checkpoint["loggers"][name] == {"epochs": [0], "inner": {}}
    assert [set(line) > {"train_loss", "valid_loss"} for line in logs(tmp_path / "exp")] == [True, True]
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, loggers=[Hostile()], resume="must").train_and_validate()
    assert len(logs(tmp_path / "exp")) == 3


class WithLoggers(DWIMLTrainerOneInput):
    """Chooses its loggers itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, loggers=[ListLogger()], **kwargs)


def test_a_class_that_chooses_its_loggers_is_resumed(tiny_hdf5: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"trainer_class": WithLoggers}
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, **options).train_and_validate()
    resumed = small_trainer(tiny_hdf5, tmp_path, from_checkpoint=True, new_max_epochs=2, **options)
    resumed.train_and_validate()
    (logger,) = resumed.settings.loggers
    assert isinstance(logger, ListLogger)
    assert logger.nb_epochs == 2


def test_a_loggers_state_that_cannot_be_saved(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ListLogger, "state_dict", lambda self: {"itself": self})
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=[ListLogger()]).train_and_validate()
    assert "Logger 'list' failed" in caplog.text
    assert load_checkpoint(tmp_path / "exp" / "checkpoint")["loggers"]["list"] == {}


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"history": torch.zeros(10**6)}, "it has 4.0 MB, more than the 1.1 MB that can be read again"),
        # Each of these fits alone.
        ({"history": "x" * 9 * 2**20}, "'loggers' -> more than 16 MiB besides the tensors"),
    ],
    ids=["tensor", "plain"],
)
def test_a_loggers_state_that_no_checkpoint_can_hold_is_left_out(
    tiny_hdf5: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, Any],
    reason: str,
) -> None:
    if isinstance(state["history"], torch.Tensor):
        monkeypatch.setattr("dwiml.training.experiment.checkpoint._BYTES_OF_THE_REST", 2**20)

    class Large(ListLogger):
        def state_dict(self) -> dict[str, Any]:
            # Strings that are the same object would be saved once.
            text = {"text": state["history"] + self.name} if isinstance(state["history"], str) else state
            return super().state_dict() | (text if self.nb_epochs > 1 else {})

    class Other(Large):
        def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
            self.nb_epochs = 2

    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=3).train_and_validate()
    loggers = [ListLogger(), Large("large")] if reason.startswith("it has") else [Other("other"), Large("large")]
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=3, loggers=loggers).train_and_validate()
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"Logger 'large' failed (ValueError: no checkpoint can hold its state: {reason}"
    )
    assert logs(tmp_path / "exp") == logs(tmp_path / "whole")
    saved = load_checkpoint(tmp_path / "exp" / "checkpoint")["loggers"]
    assert (saved["large"], saved[loggers[0].name]["nb_epochs"]) == ({}, 3 if len(saved[loggers[0].name]) == 1 else 2)
    # It starts over with the next run.
    again = Large("large")
    resumed = small_trainer(tiny_hdf5, tmp_path, max_epochs=4, loggers=[loggers[0], again], resume="must")
    resumed.train_and_validate()
    assert again.nb_epochs == 1


def test_the_command_says_that_loggers_need_the_script(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=[ListLogger()]), 1)
    assert resume.main([str(tmp_path / "exp")]) == 2
    assert "was trained with loggers ['list'], created by its script" in capsys.readouterr().err


def _logger(**attributes: Any) -> Logger:
    return type("Odd", (ListLogger,), attributes)()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("loggers", "error", "sentence"),
    [
        (
            [ListLogger],
            TypeError,
            "must be a list of instances of subclasses of dwiml.Logger, got the class Lis",
        ),
        ([print], TypeError, "got an object of type builtin_function_or_method"),
        (ListLogger(), TypeError, "got an object of type ListLogger"),
        ([ListLogger(), ListLogger()], ValueError, "Two loggers are called 'list'"),
        ([ListLogger("comet")], ValueError, "'comet' is the name of a logger of dwiml"),
        (
            [_logger(name=3)],
            TypeError,
            r"^The name of logger Odd must be a string \(an attribute or a property\), got 3",
        ),
        ([_logger(name=lambda self: "x")], TypeError, "must be a string .an attribute or a property., got <bound"),
        (
            [_logger(name=property(lambda self: self.x))],
            TypeError,
            r"cannot be read \(AttributeError: .*, line \d+\)\.$",
        ),
        ([_logger(name=" ")], ValueError, "^The name of logger Odd must be a printable string, got ' '"),
        (
            [_logger(log_metrics=Logger.log_metrics)],
            TypeError,
            r"^Logger Odd has no log_metrics\(metrics, epoch\), the",
        ),
        ([_logger(log_metrics=lambda self, metrics: None)], TypeError, r"called as log_metrics\(metrics, epoch\): too"),
        ([_logger(state_dict={"a": 1})], TypeError, r"have a method that can be called as state_dict\(\): .* callable"),
    ],
)
def test_what_are_no_loggers(
    tiny_hdf5: Path, tmp_path: Path, loggers: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, loggers=loggers)


def test_a_trial_calls_no_logger_of_ones_own(tiny_hdf5: Path, tmp_path: Path) -> None:
    logger = ListLogger()
    small_trainer(tiny_hdf5, tmp_path, loggers=[logger], fast_dev_run=True).train_and_validate()
    assert not logger.received


class Rewritten(DWIMLTrainerOneInput):
    """Writes out what the superclass does."""

    def run_one_batch(self, targets: Any, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        batch = self.model_batch(targets, ids_per_subj)
        outputs = self.run_model(batch)
        return self.compute_loss(outputs, batch)


class Bare(DWIMLTrainerOneInput):
    """Loses the noise."""

    def run_one_batch(self, targets: Any, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        streamlines = targets.trimmed_last()
        inputs = self.batch_loader.load_batch_inputs(streamlines, ids_per_subj)
        result: tuple[torch.Tensor, int] = self.model.compute_loss(self.model(inputs, streamlines), targets)
        return result


def test_a_batch_that_is_written_out_is_the_same(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=1)
    whole.train_and_validate()
    rewritten = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    rewritten.__class__ = Rewritten
    rewritten.train_and_validate()
    assert same_weights(whole.model, rewritten.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")
    assert not caplog.records


def test_noise_that_is_lost_is_warned_of_once(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    trainer.__class__ = Bare
    trainer.train_and_validate()
    (record,) = caplog.records
    assert record.getMessage() == (
        "Bare.run_one_batch does not call self.model_batch: settings of the batch loader "
        "(noise_gaussian_size_forward, noise_gaussian_size_loss) have no effect on the model, unless run_one_batch "
        "applies them itself."
    )


@pytest.mark.parametrize("uses", [None, "trainer", "loader"])
def test_a_volume_that_is_not_used_is_warned_of(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, uses: str | None
) -> None:
    class Direct(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
            if uses is not None:
                prepare = self.model_batch if uses == "trainer" else self.batch_loader.model_batch
                batch = prepare(targets, ids_per_subj)
                return batch.loss(self.model, batch.run(self.model))
            return next(self.model.parameters()).sum() * 0, 1

    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=Direct)
    # A call before the training does not count.
    trainer.batch_loader.called.add("model_batch")
    trainer.train_and_validate()
    assert ["the volume 'input') have no effect" in each.getMessage() for each in caplog.records] == [True][
        bool(uses) :
    ]


def test_the_method_that_returns_something_else_is_named(tiny_hdf5: Path, tmp_path: Path) -> None:
    class OfLoss(DWIMLTrainerOneInput):
        def compute_loss(self, outputs: Any, batch: Any) -> Any:
            return super().compute_loss(outputs, batch)[0]

    class OfBatch(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> Any:
            return super().run_one_batch(targets, ids_per_subj)[0]

    for cls, method in ((OfLoss, "OfLoss.compute_loss"), (OfBatch, "OfBatch.run_one_batch")):
        sentence = rf"^{method} must return \(mean_loss, n\), .*; it returned a tensor of shape \(\)\.$"
        with pytest.raises(TypeError, match=sentence):
            small_trainer(tiny_hdf5, tmp_path, method, trainer_class=cls).train_and_validate()


@pytest.mark.parametrize(
    ("passed", "error", "sentence"),
    [
        (
            {"mine": 1.0},
            ValueError,
            "must pass the metrics that it receives to super().finish_epoch, which did not get ",
        ),
        (None, TypeError, "must call super().finish_epoch with a dictionary of metrics, got None."),
    ],
)
def test_forgotten_metrics_are_named(
    tiny_hdf5: Path, tmp_path: Path, passed: Any, error: type[Exception], sentence: str
) -> None:
    class Forgetting(DWIMLTrainerOneInput):
        def finish_epoch(self, metrics: dict[str, float]) -> None:
            super().finish_epoch(passed)

    with pytest.raises(error, match=f"^Forgetting.finish_epoch {re.escape(sentence)}"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=Forgetting).train_and_validate()


def test_the_public_logger_is_the_loggers_class() -> None:
    with pytest.raises(NotImplementedError, match="Logger has no log_metrics"):
        dwiml.Logger().log_metrics({}, 0)


class WithoutSuper(DWIMLTrainerOneInput):
    """Replaces a method of the loop without calling that of its superclass."""


def step_alone(trainer: Any) -> None:
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


@pytest.mark.parametrize(
    ("method", "replacement"),
    [
        ("finish_epoch", lambda self, metrics: None),
        ("back_propagate", lambda self, mean_loss, n: mean_loss.backward()),
        ("update_weights", step_alone),
    ],
)
def test_a_method_that_does_not_call_its_superclass_is_an_error(
    tiny_hdf5: Path, tmp_path: Path, method: str, replacement: Any
) -> None:
    trainer_class = type("WithoutSuper", (WithoutSuper,), {method: replacement})
    trainer = small_trainer(tiny_hdf5, tmp_path, trainer_class=trainer_class)
    with pytest.raises(RuntimeError, match=rf"^WithoutSuper\.{method} must call super\(\)\.{method}\("):
        trainer.train_and_validate()


def test_an_optimizer_of_some_parameters_is_reported(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_trainer(tiny_hdf5, tmp_path, learning_rates=0.1, optimizer=lambda own: torch.optim.SGD(own[:1], lr=0.1))
    assert re.search(r"trains 1 of the \d+ parameters of the model", caplog.text)


@pytest.mark.parametrize("n", [2.7, "3", -3, None])
def test_the_weight_of_a_batch_is_a_whole_number(tiny_hdf5: Path, tmp_path: Path, n: Any) -> None:
    class Weighted(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> Any:
            return super().run_one_batch(targets, ids_per_subj)[0], n

    with pytest.raises(ValueError, match=r"^n of Weighted.run_one_batch must be a whole number of at least 0, got"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=Weighted).train_and_validate()


def test_a_weight_is_not_too_large(tiny_hdf5: Path, tmp_path: Path) -> None:
    class Weighted(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> Any:
            return super().run_one_batch(targets, ids_per_subj)[0], 2**70

    with pytest.raises(ValueError, match=f"must be a whole number of at most {10**15}, got {2**70}"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=Weighted).train_and_validate()


def test_an_epoch_that_trains_on_nothing_is_an_error(tiny_hdf5: Path, tmp_path: Path) -> None:
    class Empty(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> Any:
            loss, n = super().run_one_batch(targets, ids_per_subj)
            return loss, 0 if self.model.training else n

    with pytest.raises(ValueError, match=r"^Epoch 0 has no train_loss: run_one_batch counted no point \(n\) in any"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=Empty).train_and_validate()


def _with_attribute(name: str, value: Any, when: str) -> Any:
    """Return a class of a trainer that sets an attribute before or after its superclass, or has it in its head."""

    class Own(DWIMLTrainerOneInput):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if when == "before":
                setattr(self, name, value)
            super().__init__(*args, **kwargs)
            if when == "after":
                setattr(self, name, value)

    if when == "class":
        setattr(Own, name, value)
    return Own


@pytest.mark.first(6)
@pytest.mark.parametrize("when", ["before", "after", "class"])
@pytest.mark.parametrize("name", ["parameters", "best", "position", "requests", "logged", "ranks", "loggers", "folder"])
def test_an_attribute_of_the_trainer_is_not_replaced(tiny_hdf5: Path, tmp_path: Path, name: str, when: str) -> None:
    with pytest.raises(TypeError, match=f"^Own has its own '{name}', which is an attribute or a method of the trainer"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=_with_attribute(name, {}, when)).train_and_validate()
    assert not (tmp_path / "exp").exists()


def test_other_attributes_are_ones_own(tiny_hdf5: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="^Own has its own 'log', which is an attribute or a method"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=_with_attribute("log", [], "after")).train_and_validate()
    for when in ("before", "after", "class"):
        trainer_class = _with_attribute("counts", [], when)
        small_trainer(tiny_hdf5, tmp_path, when, trainer_class=trainer_class, max_epochs=1).train_and_validate()
    quiet = _with_attribute("verbose", False, "after")
    trainer = small_trainer(tiny_hdf5, tmp_path, trainer_class=quiet, max_epochs=1, verbose=True)
    trainer.train_and_validate()
    # Trained to its end, it may be called again.
    trainer.train_and_validate()


@pytest.mark.parametrize(("old", "new"), [("judged_value", "selection_value"), ("_loss", "compute_loss")])
def test_a_method_with_an_old_name_is_refused(tiny_hdf5: Path, tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(TypeError, match=f"^Own defines '{old}', which is no longer used: it is now '{new}'.$"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=_with_attribute(old, print, "class"))


def test_a_weight_may_be_a_tensor(tiny_hdf5: Path, tmp_path: Path) -> None:
    class Weighted(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> Any:
            loss, n = super().run_one_batch(targets, ids_per_subj)
            self.log("half", loss / 2, torch.tensor(n))
            return loss, torch.tensor(n)

    small_trainer(tiny_hdf5, tmp_path, trainer_class=Weighted, max_epochs=1).train_and_validate()
    (line,) = logs(tmp_path / "exp")
    assert line["train_half"] == pytest.approx(line["train_loss"] / 2)


def test_a_state_is_registered_before_the_training(tiny_hdf5: Path, tmp_path: Path) -> None:
    class Late(DWIMLTrainerOneInput):
        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> Any:
            self.register_state("late", Counter())
            return super().run_one_batch(targets, ids_per_subj)

    with pytest.raises(RuntimeError, match=r"register_state\('late', ...\) came after the training had begun"):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=Late).train_and_validate()


def test_an_optimizer_of_some_parameters_ignores_the_gradients_of_the_others(tiny_hdf5: Path, tmp_path: Path) -> None:
    def some(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters)[:2], lr=0.1)

    options: dict[str, Any] = {"learning_rates": 0.1, "max_epochs": 2, "clip_grad": 0.05, "optimizer": some}
    trainer = small_trainer(tiny_hdf5, tmp_path, "some", **options)
    frozen = small_trainer(tiny_hdf5, tmp_path, "frozen", **options)
    for parameter in list(frozen.model.parameters())[2:]:
        parameter.requires_grad_(False)
    trainer.train_and_validate()
    frozen.train_and_validate()
    assert same_weights(trainer.model, frozen.model)
    assert logs(tmp_path / "some") == logs(tmp_path / "frozen")
