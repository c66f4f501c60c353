from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dwiml.training.optimization.averaging import AveragedWeights, check_ema_decay


class Model(nn.Module):
    """Tied and frozen weights, statistics, a counter, and a buffer that is not saved."""

    scratch: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4, dtype=dtype)
        self.norm = nn.BatchNorm1d(4, dtype=dtype)
        self.last = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.tied = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.tied.weight = self.last.weight
        self.frozen = nn.Parameter(torch.full((2,), 0.1, dtype=dtype), requires_grad=False)
        self.count = nn.Parameter(torch.tensor([3]), requires_grad=False)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A new tensor in the buffer's place, as modules may do.
        self.scale = self.scale * 1.5
        self.scratch = torch.zeros(len(self.scratch) + 1)
        self.count.data += 1
        return self.tied(self.last(self.norm(self.first(x))))  # type: ignore[no-any-return]


def a_model(dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(7)
    return Model(dtype)


def train(model: nn.Module, nb: int, averaged: AveragedWeights | None = None, start: int = 0) -> list[dict[str, Any]]:
    """Take steps; return the model's state after each."""
    states = []
    for step in range(start, start + nb):
        generator = torch.Generator().manual_seed(step)
        like = next(model.parameters())
        x = torch.randn(5, 3, generator=generator).to(like)
        model.zero_grad()
        model(x).square().mean().backward()
        with torch.no_grad():
            for each in model.parameters():
                if each.grad is not None:
                    each -= 0.1 * each.grad
        if averaged is not None:
            averaged.update()
        states.append(snapshot(model))
    return states


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def saved(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_it_is_the_average_of_a_plain_loop(decay: float) -> None:
    model = a_model()
    start = snapshot(model)
    averaged = AveragedWeights(model, decay)
    states = train(model, 30, averaged)
    parameters = {name for name, each in model.named_parameters(remove_duplicate=False) if each.is_floating_point()}
    with averaged.applied():
        got = snapshot(model)
    for name, value in got.items():
        if name not in parameters:
            # Statistics, counters and whole numbers.
            assert torch.equal(value, states[-1][name]), name
            continue
        mean = start[name].double().numpy()
        for t, state in enumerate(states):
            d = min(decay, (1 + t) / (10 + t))
            mean = d * mean + (1 - d) * state[name].double().numpy()
        np.testing.assert_allclose(value.numpy(), mean, rtol=0, atol=1e-6)
    assert not torch.equal(got["first.weight"], states[-1]["first.weight"])
    assert torch.equal(got["tied.weight"], got["last.weight"])
    assert averaged.nb_updates == 30


def test_a_long_memory_forgets_the_first_weights_all_the_same() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1000.0)
    averaged = AveragedWeights(model, 0.9999)
    nn.init.constant_(model.weight, 1.0)
    for _ in range(20):
        averaged.update()
    with averaged.applied():
        assert model.weight.item() == pytest.approx(1.0, abs=0.01)


def test_the_model_comes_back_to_the_bit() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    train(model, 3, averaged)
    with torch.no_grad():
        model.first.weight[0, 0] = float("nan")
        model.first.weight[0, 1] = -0.0
    before = {name: each.numpy().tobytes() for name, each in snapshot(model).items()}
    tensors = [id(each) for each in model.parameters()]
    with averaged.applied():
        assert model.first.weight[0, 0].isfinite()
        # The batch statistics, the counters and the weights change: all of it is undone.
        train(model, 1)
    assert {name: each.numpy().tobytes() for name, each in snapshot(model).items()} == before
    assert [id(each) for each in model.parameters()] == tensors
    assert torch.signbit(model.first.weight[0, 1])


def test_the_model_comes_back_after_an_exception() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    before = train(model, 3, averaged)[-1]

    def is_stopped() -> None:
        with averaged.applied():
            assert not same(snapshot(model), before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_stopped()
    assert same(snapshot(model), before)
    averaged.update()
    with averaged.applied():
        pass


def test_using_the_average_changes_nothing_of_the_training() -> None:
    plain, watched = a_model(), a_model()
    averaged = AveragedWeights(watched, 0.9)
    train(plain, 6)
    for step in range(6):
        train(watched, 1, averaged, start=step)
        with averaged.applied():
            watched(torch.ones(2, 3))
    assert same(snapshot(plain), snapshot(watched))


def test_it_is_not_updated_nor_used_while_applied() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    with averaged.applied():
        with pytest.raises(RuntimeError, match="in the model now, so they cannot be updated from it"):
            averaged.update()
        with pytest.raises(RuntimeError, match="already applied"), averaged.applied():
            pass
    assert averaged.nb_updates == 0


def test_no_gradient_is_tracked() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    train(model, 2, averaged)
    assert not any(each.requires_grad for each in averaged.state_dict()["tensors"].values())
    with averaged.applied():
        assert model.first.weight.requires_grad
        assert not model.frozen.requires_grad
        model(torch.ones(4, 3)).sum().backward()
    assert model.first.weight.grad is not None


def test_before_the_first_update_it_is_the_model() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    before = snapshot(model)
    with averaged.applied():
        assert same(snapshot(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_small_changes_are_not_lost_in_half_precision(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 1, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, 1.0)
    averaged = AveragedWeights(model, 0.999)
    nn.init.constant_(model.weight, 2.0)
    # Past the first updates, which forget fast.
    averaged.nb_updates = 10_000
    for _ in range(10_000):
        averaged.update()
    before = model.weight.detach().clone()
    mean = averaged.state_dict()["tensors"]["weight"]
    assert mean.dtype == (torch.float32 if dtype == torch.bfloat16 else torch.float64)
    # In bfloat16 1 + 0.001 is 1: the average would stay there.
    assert mean.mean().item() == pytest.approx(2.0, abs=1e-3)
    with averaged.applied():
        assert model.weight.dtype == dtype
    assert torch.equal(model.weight, before)


def test_a_resume_is_exact() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.6)
    train(model, 7, averaged)
    state = saved({"model": model.state_dict(), "averaged": averaged.state_dict()})
    train(model, 8, averaged, start=7)
    resumed = a_model()
    second = AveragedWeights(resumed, 0.6)
    resumed.load_state_dict(state["model"])
    second.load_state_dict(state["averaged"])
    assert second.nb_updates == 7
    train(resumed, 8, second, start=7)
    first_state, second_state = averaged.state_dict(), second.state_dict()
    assert first_state["nb_updates"] == second_state["nb_updates"] == 15
    assert same(first_state["tensors"], second_state["tensors"])
    assert same(snapshot(model), snapshot(resumed))


def test_the_state_is_not_tied_to_what_was_loaded() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    state = saved(averaged.state_dict())
    averaged.load_state_dict(state)
    train(model, 2, averaged)
    assert same(state["tensors"], AveragedWeights(a_model(), 0.9).state_dict()["tensors"])


def test_what_is_saved() -> None:
    names = set(a_model().state_dict()) - {"tied.weight"}
    assert set(AveragedWeights(a_model(), 0.9).state_dict()["tensors"]) == names


def changed(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (state | changes).items() if value is not None}


def test_states_that_do_not_fit_are_refused_and_change_nothing() -> None:
    model = a_model()
    averaged = AveragedWeights(model, 0.9)
    train(model, 2, averaged)
    state = saved(averaged.state_dict())
    other = AveragedWeights(a_model(), 0.9)
    before = saved(other.state_dict())
    tensors = state["tensors"]
    wrong: list[tuple[Any, str]] = [
        (None, "state should be a dictionary but is None"),
        (changed(state, tensors=None), "state lacks 'tensors'$"),
        (changed(state, decay=0.3), "state has unknown 'decay'$"),
        (changed(state, nb_updates=-1), "'nb_updates' must be a whole number of at least 0, got -1"),
        (changed(state, nb_updates=2.0), "'nb_updates' must be a whole number of at least 0, got 2.0"),
        (changed(state, nb_updates=True), "'nb_updates' must be a whole number of at least 0, got True"),
        (changed(state, tensors=[1]), "the average should be a dictionary but is an object of type list"),
        (
            changed(state, tensors=changed(tensors, scale=None, **{"last.weight": None, "more": torch.zeros(1)})),
            "^the average lacks 'last.weight', 'scale' and has unknown 'more'$",
        ),
        (
            changed(state, tensors=changed(tensors, frozen=torch.zeros(3))),
            r"'frozen' should be a float32 tensor of shape \(2,\) but is a float32 tensor of shape \(3,\)$",
        ),
        (changed(state, tensors=changed(tensors, frozen=torch.zeros(2).double())), "but is a float64 tensor"),
        (changed(state, tensors=changed(tensors, frozen="zeros")), "but is an object of type str"),
        (changed(state, tensors=changed(tensors, frozen=torch.full((2,), float("nan")))), "values that are NaN"),
    ]
    for each, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            other.load_state_dict(each)
    assert other.nb_updates == 0
    assert same(before["tensors"], other.state_dict()["tensors"])


def test_a_model_without_buffers_or_without_weights_is_averaged_too() -> None:
    for model in (nn.Linear(2, 2), nn.Identity()):
        averaged = AveragedWeights(model, 0.9)
        averaged.update()
        with averaged.applied():
            pass
        assert set(averaged.state_dict()["tensors"]) == set(model.state_dict())


@pytest.mark.parametrize("value", [0, 1, 1.0, -0.1, 1.5, "0.9", True, float("nan"), [0.9]])
def test_decays_that_are_none(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^ema_decay must be None, or between 0 and 1 \(for instance 0.999\), got "):
        check_ema_decay(value)
    with pytest.raises(ValueError, match="^ema_decay must be"):
        AveragedWeights(nn.Linear(1, 1), value)


def test_decays() -> None:
    assert check_ema_decay(None) is None
    got = check_ema_decay(np.float32(0.5))
    assert got == 0.5
    assert type(got) is float
    with pytest.raises(ValueError, match="must be between 0 and 1, got None"):
        AveragedWeights(nn.Linear(1, 1), None)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_nothing_is_waited_for_and_states_move_between_devices() -> None:
    model, on_cpu = a_model().cuda(), a_model()
    averaged, other = AveragedWeights(model, 0.9), AveragedWeights(on_cpu, 0.9)
    train(on_cpu, 3, other)
    averaged.load_state_dict(saved(other.state_dict()))
    model.load_state_dict(on_cpu.state_dict())
    torch.cuda.set_sync_debug_mode("error")
    try:
        averaged.update()
        with averaged.applied():
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
    other.update()
    for name, each in averaged.state_dict()["tensors"].items():
        assert each.is_cuda
        torch.testing.assert_close(each.cpu(), other.state_dict()["tensors"][name], rtol=0, atol=1e-6)


def test_own_weights_for_a_while_inside_a_block() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    averaged = AveragedWeights(model, 0.9)
    own = model.weight.detach().clone() + 1
    with torch.no_grad():
        model.weight.copy_(own)
    averaged.update()
    with averaged.restored():
        assert torch.equal(model.weight, own)
    with averaged.applied():
        average = model.weight.detach().clone()
        assert not torch.equal(average, own)
        with averaged.restored():
            assert torch.equal(model.weight, own)
        assert torch.equal(model.weight, average)
    assert torch.equal(model.weight, own)
