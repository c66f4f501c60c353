from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from dwiml.training.optimization.schedule_base import Schedule
from dwiml.training.optimization.schedules import build_schedule
from dwiml.training.optimization.torch_schedules import scheduler_classes

BASE = 0.01
LOSSES = [1.0, 0.5, 0.6, 0.7, 0.4, 0.5, float("nan"), 0.5, 0.45, 0.1, 0.2, 0.3]
MAX_EPOCHS = len(LOSSES)
STEPS = 5
# All that torch has: the test of the names says so.
TORCH: dict[str, dict[str, Any]] = {
    "ConstantLR": {"factor": 0.5, "total_iters": 3},
    "CosineAnnealingLR": {"T_max": 5, "eta_min": 1e-4},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 3},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {"start_factor": 0.2, "total_iters": 4},
    "MultiStepLR": {"milestones": [2, 5, 5], "gamma": 0.3},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": MAX_EPOCHS, "three_phase": True},
    "PolynomialLR": {"total_iters": 7, "power": 2.0},
    "ReduceLROnPlateau": {"patience": 1, "factor": 0.5, "cooldown": 1},
    "StepLR": {"step_size": 3, "gamma": 0.5},
}


class Forgetful(lr_scheduler.LRScheduler):
    """Has a state that is neither numbers nor lists of them, and a list that grows."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen: dict[str, Any] = {"rates": [], "generator": np.random.default_rng(3)}
        super().__init__(optimizer)

    def get_lr(self) -> Any:
        rate = BASE * self.seen["generator"].random()
        self.seen["rates"].append(rate)
        return [sum(self.seen["rates"])] * len(self.optimizer.param_groups)


def by_function(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)


def warm_up_then_steps(optimizer: torch.optim.Optimizer) -> Any:
    parts: list[Any] = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.StepLR(optimizer, 2)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])


def both_at_once(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


FACTORIES: list[Any] = [by_function, warm_up_then_steps, both_at_once, Forgetful]
KINDS: list[tuple[Any, dict[str, Any] | None]] = [
    (None, None),
    ("warmup_cosine", {"warmup_epochs": 2.5, "min_ratio": 0.1}),
    *TORCH.items(),
    *((each, None) for each in FACTORIES),
]
OPTIMIZERS = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}


def an_optimizer(kind: str = "Adam") -> torch.optim.Optimizer:
    torch.manual_seed(0)
    # Two groups: all of them have to follow.
    groups = [{"params": [torch.nn.Parameter(torch.randn(2))]} for _ in range(2)]
    momentum = {"momentum": 0.9} if kind == "SGD" else {}
    return OPTIMIZERS[kind](groups, lr=BASE, **momentum)  # type: ignore[operator,no-any-return]


def rates_of(name: str | None) -> list[float]:
    return [0.1, 0.05, 0.02] if name is None else [BASE]


def build(name: Any, args: dict[str, Any] | None, optimizer: torch.optim.Optimizer) -> Schedule:
    return build_schedule(name, args, optimizer=optimizer, learning_rates=rates_of(name), planned_epochs=MAX_EPOCHS)


def settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in group.items() if key in ("lr", "betas", "momentum")}
        for group in optimizer.param_groups
    ]


def take_step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.grad = torch.full_like(each, 0.5)
    optimizer.step()


def training(
    schedule: Schedule, optimizer: torch.optim.Optimizer, *, epoch: int = 0, step: int = 0
) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    """Train from a moment on; give, before each step and at each epoch's end, where we are and the settings."""
    for at_epoch in range(epoch, MAX_EPOCHS):
        schedule.begin_epoch(at_epoch)
        for at_step in range(step, STEPS):
            yield at_epoch, at_step, settings(optimizer)
            schedule.begin_step(at_epoch, at_step / STEPS)
            take_step(optimizer)
        step = 0
        schedule.end_epoch(LOSSES[at_epoch])
        yield at_epoch + 1, 0, settings(optimizer)


def by_epoch(schedule: Schedule, nb: int = MAX_EPOCHS) -> list[float]:
    rates = []
    for epoch in range(nb):
        schedule.begin_epoch(epoch)
        rates.append(schedule.current())
        schedule.end_epoch(LOSSES[epoch % MAX_EPOCHS])
    return rates


def saved(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def test_no_name_is_the_learning_rates_by_epoch() -> None:
    optimizer = an_optimizer()
    schedule = build(None, None, optimizer)
    assert schedule.current() == 0.1
    assert by_epoch(schedule, 5) == [0.1, 0.05, 0.02, 0.02, 0.02]
    schedule.begin_step(1, 0.9999999999999999)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]


def test_every_scheduler_of_torch_is_there_or_refused() -> None:
    assert sorted(scheduler_classes()) == sorted(TORCH)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
@pytest.mark.parametrize("name", sorted(TORCH))
def test_a_scheduler_of_torch_does_what_it_does_by_hand(name: str, kind: str) -> None:
    ours, theirs = an_optimizer(kind), an_optimizer(kind)
    schedule = build(name, TORCH[name], ours)
    scheduler = getattr(lr_scheduler, name)(theirs, **TORCH[name])
    seen = []
    for epoch, loss in enumerate(LOSSES):
        schedule.begin_epoch(epoch)
        assert settings(ours) == settings(theirs)
        assert schedule.current() == theirs.param_groups[0]["lr"]
        seen.append(schedule.current())
        take_step(ours)
        take_step(theirs)
        schedule.end_epoch(loss)
        scheduler.step(loss) if name == "ReduceLROnPlateau" else scheduler.step()
    assert len(set(seen)) > 1
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert torch.equal(mine["params"][0], other["params"][0])


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_scheduler_that_a_function_makes_does_what_it_does_by_hand(factory: Any) -> None:
    ours, theirs = an_optimizer(), an_optimizer()
    schedule, scheduler = build(factory, None, ours), factory(theirs)
    assert schedule.name == factory.__name__
    for epoch, loss in enumerate(LOSSES):
        schedule.begin_epoch(epoch)
        assert settings(ours) == settings(theirs)
        take_step(ours)
        take_step(theirs)
        schedule.end_epoch(loss)
        scheduler.step()
    assert "step" not in vars(ours)


def test_the_optimizer_is_left_as_it_is() -> None:
    optimizer = an_optimizer()
    keys = set(optimizer.param_groups[0])
    schedule = build("OneCycleLR", TORCH["OneCycleLR"], optimizer)
    by_epoch(schedule, 2)
    assert set(optimizer.param_groups[0]) == keys
    assert "step" not in vars(optimizer)


def test_an_epoch_without_a_step_warns_of_nothing() -> None:
    # Warnings are errors here: by_epoch steps no optimizer, as in an epoch whose batches are all skipped.
    assert by_epoch(build("StepLR", {"step_size": 1, "gamma": 0.5}, an_optimizer()), 3) == [BASE, BASE / 2, BASE / 4]


@pytest.mark.first(6)
@pytest.mark.parametrize(("name", "args"), KINDS, ids=lambda kind: getattr(kind, "__name__", None))
def test_a_resume_at_any_moment_is_exact(name: str | None, args: dict[str, Any] | None) -> None:
    optimizer = an_optimizer()
    schedule = build(name, args, optimizer)
    moments, states = [], {}
    for moment in training(schedule, optimizer):
        # Six moments an epoch: every fifth is at an epoch's end as often as at any of its steps.
        if len(moments) % 5 == 0:
            states[len(moments)] = saved({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})
        moments.append(moment)
    for index, state in states.items():
        epoch, step, expected = moments[index]
        resumed_optimizer = an_optimizer()
        resumed = build(name, args, resumed_optimizer)
        resumed_optimizer.load_state_dict(state["optimizer"])
        resumed.load_state_dict(state["schedule"])
        assert settings(resumed_optimizer) == expected
        at_end = index > 0 and epoch == moments[index - 1][0] + 1
        got = list(training(resumed, resumed_optimizer, epoch=epoch, step=step))
        # The first one is from before the first step: begin_epoch was called again within the epoch.
        assert got[1:] == moments[index + at_end + 1 :]


@pytest.mark.parametrize(("name", "args"), KINDS, ids=lambda kind: getattr(kind, "__name__", None))
def test_a_state_is_plain_and_a_copy(name: str | None, args: dict[str, Any] | None) -> None:
    schedule = build(name, args, an_optimizer())
    before = schedule.state_dict()
    recorded = saved(before)
    assert recorded == before
    by_epoch(schedule, 4)
    assert recorded == before


def test_the_result_does_not_depend_on_the_order_of_loading() -> None:
    optimizer = an_optimizer()
    schedule = build("ExponentialLR", TORCH["ExponentialLR"], optimizer)
    by_epoch(schedule, 3)
    states = saved([optimizer.state_dict(), schedule.state_dict()])
    other = an_optimizer()
    resumed = build("ExponentialLR", TORCH["ExponentialLR"], other)
    resumed.load_state_dict(states[1])
    other.load_state_dict(states[0])
    resumed.begin_epoch(3)
    assert resumed.current() == schedule.current() != BASE


def test_the_settings_of_a_state_win_over_those_of_the_optimizer() -> None:
    schedule = build("StepLR", TORCH["StepLR"], an_optimizer())
    by_epoch(schedule, 4)
    optimizer = an_optimizer()
    resumed = build("StepLR", TORCH["StepLR"], optimizer)
    resumed.load_state_dict(schedule.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [BASE / 2, BASE / 2]


def test_numpy_numbers_are_taken_and_leave_plain_states() -> None:
    args = {"milestones": np.array([1, 3]), "gamma": np.float64(0.5)}
    schedule = build("MultiStepLR", args, an_optimizer())
    assert by_epoch(schedule, 4) == [BASE, BASE / 2, BASE / 2, BASE / 4]
    assert saved(schedule.state_dict())["losses"] == LOSSES[:4]


def test_a_loss_on_the_device_is_taken() -> None:
    schedule = build("ReduceLROnPlateau", {"patience": 0, "factor": 0.5}, an_optimizer())
    for loss in (1.0, 2.0):
        schedule.end_epoch(torch.tensor(loss))  # type: ignore[arg-type]
    assert schedule.current() == BASE / 2
    assert saved(schedule.state_dict())["losses"] == [1.0, 2.0]


# The cosine's closed form, and torch's schedulers stepped once a step.


@pytest.mark.parametrize("min_ratio", [0.0, 0.25])
@pytest.mark.parametrize("warmup", [0, 1, 2, 2.4])
def test_warmup_cosine_is_torchs_linear_and_cosine_step_by_step(warmup: float, min_ratio: float) -> None:
    optimizer = an_optimizer()
    schedule = build("warmup_cosine", {"warmup_epochs": warmup, "min_ratio": min_ratio}, optimizer)
    nb_warmup = round(warmup * STEPS)
    expected = []
    for after, start in ((False, 0), (True, nb_warmup)):
        other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
        nb = MAX_EPOCHS * STEPS - nb_warmup if after else nb_warmup
        if nb == 0:
            continue
        if after:
            scheduler: Any = lr_scheduler.CosineAnnealingLR(other, T_max=nb, eta_min=min_ratio * BASE)
        else:
            scheduler = lr_scheduler.LinearLR(other, start_factor=0.01, total_iters=nb)
        assert start == len(expected)
        for _ in range(nb):
            expected.append(other.param_groups[0]["lr"])
            other.step()
            scheduler.step()
    got = []
    for epoch in range(MAX_EPOCHS):
        schedule.begin_epoch(epoch)
        for step in range(STEPS):
            schedule.begin_step(epoch, step / STEPS)
            got.append(schedule.current())
            assert [group["lr"] for group in optimizer.param_groups] == [got[-1]] * 2
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)


def test_warmup_cosine_at_moments_that_are_known() -> None:
    schedule = build("warmup_cosine", {"warmup_epochs": 2, "min_ratio": 0.1}, an_optimizer())
    assert schedule.current() == pytest.approx(0.01 * BASE)
    expected = {
        (1, 0.0): 0.505 * BASE,
        (2, 0.0): BASE,
        (7, 0.0): 0.55 * BASE,
        (4, 0.5): BASE * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
        (12, 0.0): 0.1 * BASE,
        (20, 0.3): 0.1 * BASE,
    }
    for (epoch, fraction), rate in expected.items():
        schedule.begin_step(epoch, fraction)
        assert schedule.current() == pytest.approx(rate, rel=1e-12)


def test_warmup_is_one_epoch_unless_there_is_only_one() -> None:
    usual = build("warmup_cosine", None, an_optimizer())
    same = build("warmup_cosine", {"warmup_epochs": 1.0, "min_ratio": 0}, an_optimizer())
    assert by_epoch(usual) == by_epoch(same)
    schedule = build_schedule("warmup_cosine", {}, optimizer=an_optimizer(), learning_rates=[BASE], planned_epochs=1)
    assert schedule.current() == BASE


REFUSED: list[tuple[Any, Any, str]] = [
    ("StepLr", None, "None or one of warmup_cosine, ConstantLR, .*, StepLR, got 'StepLr'"),
    ("LRScheduler", None, "must be None or one of"),
    ("_LRScheduler", None, "must be None or one of"),
    ("Counter", None, "must be None or one of"),
    (3, None, "got 3"),
    (["StepLR"], None, r"got \['StepLR'\]"),
    *(
        (
            name,
            None,
            f"^The schedule {name} takes other schedulers or functions, which cannot be recorded: give a function that",
        )
        for name in ("SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR")
    ),
    ("StepLR", [3], r"^The arguments of the schedule StepLR must be a dictionary, got \[3\]\.$"),
    ("StepLR", None, r"^The schedule StepLR needs 'step_size' among its arguments; got no argument\.$"),
    (
        "StepLR",
        {"step_size": 2, "gama": 1},
        r"^The schedule StepLR takes 'step_size', 'gamma'; got 'gama'\.$",
    ),
    ("StepLR", {"step_size": 2, "last_epoch": 1}, "got 'last_epoch'"),
    ("StepLR", {"step_size": 2, "optimizer": 1}, "got 'optimizer'"),
    ("StepLR", {"step_size": 2, "verbose": True}, "got 'verbose'"),
    ("StepLR", {"step_size": 0}, "^The schedule StepLR cannot work with step_size=0: "),
    (
        "StepLR",
        {"step_size": "3"},
        "^The argument 'step_size' of the schedule StepLR must be a whole number, got '3'",
    ),
    (
        "StepLR",
        {"step_size": 1.5},
        "^The argument 'step_size' of the schedule StepLR must be a whole number, got 1.5",
    ),
    ("StepLR", {"step_size": None}, "'step_size' of the schedule StepLR must be a whole number, got None.$"),
    ("StepLR", {"step_size": [2]}, r"'step_size' of the schedule StepLR must be a whole number, got \[2\].$"),
    ("StepLR", {"step_size": 2, "gamma": None}, "'gamma' of the schedule StepLR must be a number, got None.$"),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 20.5}, "'total_steps' .* must be a whole number, got 20.5.$"),
    ("MultiStepLR", {"milestones": [1.5]}, r"'milestones' .* must be a list of whole numbers, got \[1.5\].$"),
    ("ReduceLROnPlateau", {"mode": "mni"}, "cannot work with mode='mni': mode mni is unknown.$"),
    ("StepLR", {"step_size": 3, 4: 5}, "got '4'"),
    ("StepLR", {"step_size": 1, "gamma": -1.0}, r"its learning rate would be -0.01 in epoch 1\.$"),
    ("ExponentialLR", {"gamma": float("nan")}, r"its learning rate would be nan in epoch 1\.$"),
    ("ExponentialLR", {"gamma": None}, "must be a number, got None.$"),
    ("MultiStepLR", {"milestones": 3}, "must be a list of whole numbers, got 3.$"),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}, "cannot work with T_0=0"),
    ("ReduceLROnPlateau", {"factor": 2.0}, "cannot work with factor=2.0: Factor should be < 1.0"),
    ("ReduceLROnPlateau", {"patience": "long"}, "must be a whole number, got 'long'"),
    (
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": MAX_EPOCHS - 1},
        "cannot work with max_lr=0.1, total_steps=11: Tried",
    ),
    ("OneCycleLR", {"max_lr": [0.1, 0.1, 0.1], "total_steps": 20}, "cannot work with"),
    (
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 1.0, "scale_fn": abs},
        "^The argument 'scale_fn' of the schedule CyclicLR must be a number, a string, or a list of them, got <",
    ),
    (
        "warmup_cosine",
        {"warmup": 3},
        r"^The schedule warmup_cosine takes 'warmup_epochs', 'min_ratio'; got 'warmup'\.$",
    ),
    ("warmup_cosine", {"base_rate": 3}, "got 'base_rate'"),
    ("warmup_cosine", {"warmup_epochs": 12}, r"^warmup_epochs must be less than max_epochs \(12\), got 12\.$"),
    ("warmup_cosine", {"warmup_epochs": -1}, "^warmup_epochs must be a number, 0 or more, got -1"),
    ("warmup_cosine", {"warmup_epochs": "1"}, "^warmup_epochs must be a number, 0 or more, got '1'"),
    ("warmup_cosine", {"min_ratio": 1.5}, "^min_ratio must be a number from 0 to 1, got 1.5"),
    (
        by_function,
        {"gamma": 1},
        r"^The schedule by_function is a function, which is called with the optimizer alone, and got gamma=1: give "
        r"functools.partial\(by_function, gamma=1\)\.$",
    ),
    (
        lr_scheduler.StepLR,
        {"step_size": 2},
        r"^The schedule StepLR is a class, which is called with the optimizer alone, and got step_size=2: give its "
        r"name 'StepLR' with lr_scheduler_args, or functools.partial\(StepLR, step_size=2\)\.$",
    ),
    (
        lr_scheduler.OneCycleLR,
        None,
        r"^The schedule OneCycleLR is a class, .* and needs 'max_lr': give .* functools.partial\(OneCycleLR, max_lr=",
    ),
    (lr_scheduler.LambdaLR, None, r"and needs 'lr_lambda': give functools.partial\(LambdaLR, lr_lambda=...\)\.$"),
    (lambda optimizer, epochs: None, None, r"is a function, .*, and needs 'epochs': give functools.partial\(your_func"),
    (an_optimizer, None, "^The schedule an_optimizer failed: "),
    (
        "StepLR",
        {"step_size": True},
        "^The argument 'step_size' of the schedule StepLR must be a whole number, got True",
    ),
    ("StepLR", {"step_size": "2"}, "must be a whole number, got '2'.$"),
    ("MultiStepLR", {"milestones": [1, True]}, "must be a list of whole numbers, got .1, True..$"),
    ("OneCycleLR", {"max_lr": "a", "total_steps": 20}, "'max_lr' .* must be a number, or a list of numbers, got 'a'.$"),
    (
        "ReduceLROnPlateau",
        {"mode": True},
        "^The argument 'mode' of the schedule ReduceLROnPlateau must be a string, got",
    ),
    (
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": 10, "three_phase": "false"},
        "^The argument 'three_phase' of the schedule OneCycleLR must be True or False, got 'false'.$",
    ),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "cycle_momentum": 0}, "must be True or False, got 0.$"),
    (
        lambda optimizer: by_function(an_optimizer()),
        None,
        "it is not a torch scheduler of the given optimizer",
    ),
    (
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: float(torch.rand(1))),
        None,
        "its learning rates are not the same each time it is created",
    ),
    (None, {"gamma": 1}, r"^lr_scheduler_args \('gamma'\) need an lr_scheduler, got None\.$"),
]


@pytest.mark.parametrize(("name", "args", "sentence"), REFUSED)
def test_wrong_schedules_are_refused_with_a_sentence(name: Any, args: Any, sentence: str) -> None:
    optimizer = an_optimizer()
    before = settings(optimizer)
    with pytest.raises(ValueError, match=sentence):
        build(name, args, optimizer)
    assert settings(optimizer) == before


@pytest.mark.parametrize(
    "given", ["CyclicLR", "OneCycleLR", lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1, 20)]
)
def test_a_schedule_of_the_momentum_of_an_optimizer_without_one(given: Any) -> None:
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    sentence = (
        r"changes the momentum, which the optimizer Adagrad does not have: give cycle_momentum=False among the "
        r"arguments of the schedule, or use another optimizer\.$"
    )
    args = {**TORCH[given], "cycle_momentum": True} if isinstance(given, str) else None
    with pytest.raises(ValueError, match=sentence):
        build(given, args, optimizer)
    if args is not None:
        build(given, {**args, "cycle_momentum": False}, optimizer)


class Decaying(lr_scheduler.LambdaLR):
    """Changes the weight decay, and the value of a group that torch does not know; the former returns to its start."""

    def __init__(self, optimizer: torch.optim.Optimizer, decays: Any = (0.0, 0.3, 0.2, 0.0)) -> None:
        self.decays = decays
        super().__init__(optimizer, lambda epoch: 1.0)

    def step(self, epoch: Any = None) -> None:
        super().step(epoch)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = np.float64(self.decays[self.last_epoch % len(self.decays)])
            group["seen"] = self.last_epoch
            if "boost" in group:
                group["boost"] = [self.last_epoch]


def test_any_value_that_a_schedule_changes_is_taken_over_and_resumed() -> None:
    def boosted() -> torch.optim.Optimizer:
        optimizer = an_optimizer("SGD")
        optimizer.param_groups[1]["boost"] = [9]
        return optimizer

    ours, theirs = boosted(), boosted()
    schedule, scheduler = build(Decaying, None, ours), Decaying(theirs)
    # What the schedule never changes stays the user's.
    ours.param_groups[0]["momentum"] = theirs.param_groups[0]["momentum"] = 0.2
    for epoch in range(6):
        schedule.begin_epoch(epoch)
        for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            names = ("lr", "weight_decay", "momentum", "boost")
            assert [mine.get(name) for name in names] == [other.get(name) for name in names]
            assert "seen" not in mine
            assert type(mine["weight_decay"]) in (int, float)
        take_step(ours)
        take_step(theirs)
        resumed_optimizer = boosted()
        resumed = build(Decaying, None, resumed_optimizer)
        schedule.end_epoch(None)
        resumed_optimizer.load_state_dict(saved(ours.state_dict()))
        resumed.load_state_dict(saved(schedule.state_dict()))
        assert [{**group, "params": 0} for group in resumed_optimizer.param_groups] == [
            {**group, "params": 0} for group in ours.param_groups
        ]
        scheduler.step()
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert torch.equal(mine["params"][0], other["params"][0])


@pytest.mark.parametrize(
    ("decays", "sentence"),
    [
        (
            (0.0, 0.1, -0.1),
            r"^The schedule partial failed: 'weight_decay' should be a finite number, 0 or more, but is -0",
        ),
        ((0.0, float("inf")), r"should be a finite number, 0 or more, but is inf in epoch 1\.$"),
        ((), None),
    ],
)
def test_values_that_could_not_be_resumed_are_refused(decays: Any, sentence: str | None) -> None:
    given = functools.partial(Decaying, decays=decays) if sentence else drawn_decays
    others = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    for optimizer in (an_optimizer(), others):
        with pytest.raises(ValueError, match=sentence or "its values of 'weight_decay' are not the same each time it "):
            build(given, None, optimizer)


def drawn_decays(optimizer: torch.optim.Optimizer) -> Any:
    return Decaying(optimizer, torch.rand(40).tolist())


@pytest.mark.parametrize("name", ["warmup_cosine", "StepLR"])
def test_several_learning_rates_and_a_schedule_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"^The schedule {name} computes .* from one; got 2 learning_rates. Give a single one, or no"
    ):
        build_schedule(
            name, {"step_size": 2}, optimizer=an_optimizer(), learning_rates=[0.1, 0.2], planned_epochs=MAX_EPOCHS
        )


def test_going_by_the_loss_without_one_is_refused() -> None:
    schedule = build("ReduceLROnPlateau", {}, an_optimizer())
    with pytest.raises(
        ValueError, match="^The schedule ReduceLROnPlateau needs the loss of each epoch, and this epoch"
    ):
        schedule.end_epoch(None)
    build("StepLR", TORCH["StepLR"], an_optimizer()).end_epoch(None)


def test_an_epoch_that_the_state_is_not_of_is_refused() -> None:
    schedule = build("StepLR", TORCH["StepLR"], an_optimizer())
    with pytest.raises(ValueError, match="^Epoch 2 cannot start: the state of .* is that of epoch 0"):
        schedule.begin_epoch(2)


def changed(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (state | changes).items() if value != "absent"}


def test_states_that_do_not_fit_are_refused_and_change_nothing() -> None:
    optimizer = an_optimizer()
    schedule = build("StepLR", TORCH["StepLR"], optimizer)
    state = schedule.state_dict()
    wrong: list[tuple[Any, str]] = [
        (build(None, None, an_optimizer()).state_dict(), "should be 'StepLR' but is None"),
        (build("ExponentialLR", {"gamma": 0.1}, an_optimizer()).state_dict(), "'StepLR' but is 'ExponentialLR'"),
        (None, "should be 'StepLR' but is None"),
        (changed(state, name="absent"), "should be 'StepLR' but is None"),
        (changed(state, losses="absent"), "its state lacks 'losses'$"),
        (changed(state, extra=1), "its state has unknown 'extra'$"),
        (changed(state, losses=0.5), "'losses' of its state should have 0 items but is 0.5"),
        (changed(state, losses=[0.5, "3"]), "'losses' of its state should be numbers but has '3'"),
        (changed(state, planned_epochs="3"), "'planned_epochs' of its state should be a number but is '3'"),
    ]
    for each, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            schedule.load_state_dict(each)
    assert schedule.state_dict() == state
    with pytest.raises(ValueError, match="the schedule should be 'warmup_cosine' but is 'StepLR'"):
        build("warmup_cosine", None, an_optimizer()).load_state_dict(state)
    with pytest.raises(ValueError, match="has unknown 'extra'"):
        build(None, None, an_optimizer()).load_state_dict({"name": None, "planned_epochs": 3, "extra": 1})
