"""More epochs, or fewer, under a schedule: the learning rate never jumps, nor is it 0, without a word."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import interrupt, logs, same_weights, small_trainer

from dwiml.training.optimization.schedules import build_schedule

BASE = 0.01
COSINE = {"lr_scheduler": "warmup_cosine", "lr_scheduler_args": {"warmup_epochs": 1, "min_ratio": 0.1}}


def rates(experiment: Path) -> list[float]:
    return [line["learning_rate"] for line in logs(experiment)]


def scheduled(name: str, args: dict[str, Any], planned: int = 4) -> Any:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    return build_schedule(name, args, optimizer=optimizer, learning_rates=[BASE], planned_epochs=planned)


def by_epoch(schedule: Any, nb: int) -> list[float]:
    found = []
    for epoch in range(nb):
        schedule.begin_epoch(epoch)
        found.append(schedule.current())
        schedule.end_epoch(1.0)
    return found


@pytest.mark.first(1)
@pytest.mark.parametrize("stopped_in", ["the first epoch", "the end"])
def test_added_epochs_keep_the_last_rate_and_it_is_said(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stopped_in: str
) -> None:
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=3, learning_rates=BASE, **COSINE)
    whole.train_and_validate()
    first = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, learning_rates=BASE, **COSINE)
    if stopped_in == "the first epoch":
        interrupt(first, 1)
    else:
        first.train_and_validate()
    assert not caplog.records
    more = small_trainer(tiny_hdf5, tmp_path, max_epochs=5, learning_rates=BASE, resume="must", **COSINE)
    with caplog.at_level(logging.WARNING):
        more.train_and_validate()
    assert "Epochs 3 to 4 were added: the schedule warmup_cosine was planned for 3 epochs" in caplog.text
    assert "its last learning rate is kept, 0.001" in caplog.text
    # The epochs that both have are the same; those that were added do not jump up.
    assert logs(tmp_path / "exp")[:3] == logs(tmp_path / "whole")
    assert rates(tmp_path / "exp")[3:] == pytest.approx([0.1 * BASE] * 2)
    # Once more: the plan is the one of the beginning.
    even_more = small_trainer(tiny_hdf5, tmp_path, max_epochs=6, learning_rates=BASE, resume="must", **COSINE)
    assert even_more.schedule.planned_epochs == 3


@pytest.mark.slow
def test_fewer_epochs_are_those_of_the_plan(tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=5, learning_rates=BASE, **COSINE).train_and_validate()
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=5, learning_rates=BASE, **COSINE), 1)
    fewer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, learning_rates=BASE, resume="must", **COSINE)
    with caplog.at_level(logging.WARNING):
        fewer.train_and_validate()
    assert "planned for 5 epochs and keeps its shape: the last of the 3 epochs starts with" in caplog.text
    assert logs(tmp_path / "exp") == logs(tmp_path / "whole")[:3]


def test_epochs_at_a_rate_of_zero_are_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"learning_rates": BASE, "lr_scheduler": "warmup_cosine"}
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, **options)
    trainer.train_and_validate()
    with pytest.raises(
        ValueError,
        match=r"warmup_cosine was planned for 2 epochs and ends at a learning rate of 0: no weight would change in "
        r"epochs 2 to 3. Train another experiment with max_epochs=4 from the start",
    ):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=4, resume="must", **options)
    same = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="must", **options)
    assert same_weights(same.model, trainer.model)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("CosineAnnealingLR", {"T_max": 4}),
        ("CosineAnnealingLR", {"T_max": 3, "eta_min": 1e-4}),
        ("PolynomialLR", {"total_iters": 4}),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 4, "cycle_momentum": False}),
    ],
)
def test_schedulers_of_torch_with_an_end_hold_their_last_rate(name: str, args: dict[str, Any]) -> None:
    planned = by_epoch(scheduled(name, args), 4)
    extended = by_epoch(scheduled(name, args), 7)
    assert extended == planned + planned[-1:] * 3
    assert planned[-1] > 0
    (note,) = scheduled(name, args).notes(7)
    assert note.startswith(f"Epochs 4 to 6 were added: the schedule {name} was planned for 4 epochs, and its last")
    assert f"{planned[-1]:.4g}." in note


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.5}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("MultiStepLR", {"milestones": [2, 5]}),
        ("CosineAnnealingWarmRestarts", {"T_0": 4}),
    ],
)
def test_schedulers_without_an_end_go_on(name: str, args: dict[str, Any]) -> None:
    whole = by_epoch(scheduled(name, args, planned=6), 6)
    assert by_epoch(scheduled(name, args), 6) == whole
    (note,) = scheduled(name, args).notes(6)
    expected = f"{name} continues in them, from {whole[4]:.4g} to {whole[5]:.4g}."
    assert note == f"Epochs 4 to 5 were added: the schedule {expected}"
    assert scheduled(name, args).notes(4) == []


def test_what_goes_by_the_loss_says_so() -> None:
    assert scheduled("ReduceLROnPlateau", {}).notes(5) == [
        "Epoch 4 was added: the schedule ReduceLROnPlateau continues with the loss."
    ]


def test_a_rate_of_zero_is_told_from_the_start(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"lr_scheduler": "PolynomialLR", "lr_scheduler_args": {"total_iters": 2}}
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=4, learning_rates=BASE, **options).train_and_validate()
    assert "PolynomialLR has a learning rate of 0 in 2 epochs, from epoch 2 on: no weight changes" in caplog.text
    with pytest.raises(ValueError, match="ends at a learning rate of 0: no weight would change in epochs 4 to 5"):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=6, learning_rates=BASE, resume="must", **options)


def test_another_nan_policy_is_told(tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, nan_policy="skip", resume="must").train_and_validate()
    assert "nan_policy was 'stop' and is now 'skip'." in caplog.text
