"""The norms of the weights of each layer and of their changes, measured and logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import interrupt, logs, same_weights, small_trainer

from dwiml.training.reporting.metrics import WEIGHT_METRICS
from dwiml.training.reporting.weights import WeightChanges


class Parts(torch.nn.Module):
    """Two layers, a weight of its own, a complex one, one in half precision, an integer and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        self.first = torch.nn.Linear(3, 2)
        self.inner = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False)])
        self.spectrum = torch.nn.Parameter(torch.tensor([1.0 + 1.0j]))
        self.coarse = torch.nn.Parameter(torch.tensor([1000.0], dtype=torch.float16))
        self.count = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        self.register_buffer("statistics", torch.ones(3))


def test_norms_are_those_of_numpy() -> None:
    torch.manual_seed(1)
    model = Parts()
    changes = WeightChanges(model)
    before = {name: each.detach().clone().numpy() for name, each in model.named_parameters()}
    with torch.no_grad():
        for each in model.parameters():
            each += torch.randint(1, 4, each.shape).to(each.dtype)
    now = {name: each.detach().numpy() for name, each in model.named_parameters()}
    layers = {
        "scale": ["scale"],
        "first": ["first.weight", "first.bias"],
        "inner.0": ["inner.0.weight"],
        "spectrum": ["spectrum"],
        "coarse": ["coarse"],
    }
    expected = {}
    for layer, names in layers.items():
        flat, old = (np.concatenate([values[name].ravel() for name in names]) for values in (now, before))
        wide = np.result_type(flat.dtype, np.float64)
        expected[f"weight_norm/{layer}"] = np.linalg.norm(flat.astype(wide))
        expected[f"weight_change/{layer}"] = np.linalg.norm(flat.astype(wide) - old.astype(wide))
    assert changes.measure() == pytest.approx(expected, rel=1e-6)
    again = changes.measure()
    assert {value for name, value in again.items() if name.startswith("weight_change/")} == {0.0}
    assert again["weight_norm/first"] == pytest.approx(expected["weight_norm/first"], rel=1e-6)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    changes = WeightChanges(torch.nn.Linear(2, 1))
    good = {name: each.clone() for name, each in changes.state_dict().items()}
    for bad, sentence in (
        ({"weight": good["weight"]}, "lacks 'bias'"),
        (good | {"bias": torch.zeros(2)}, "'bias' should be"),
        (good | {"bias": torch.tensor([torch.nan])}, "'bias' has values that are NaN"),
    ):
        with pytest.raises(ValueError, match=sentence):
            changes.load_state_dict(bad)
        assert all(torch.equal(each, good[name]) for name, each in changes.state_dict().items())
    changes.load_state_dict({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    assert changes.state_dict()["weight"].tolist() == [[1, 1]]


@pytest.mark.slow
def test_only_the_log_differs_and_a_resumed_run_has_the_same(tiny_hdf5: Path, tmp_path: Path) -> None:
    plain = small_trainer(tiny_hdf5, tmp_path, "plain", max_epochs=2)
    plain.train_and_validate()
    assert "log_weights" not in plain.params
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2, log_weights=True, ema_decay=0.9)
    start = {name: each.detach().clone() for name, each in whole.model.named_parameters()}
    whole.train_and_validate()
    assert same_weights(plain.model, whole.model)
    metrics = logs(tmp_path / "whole")
    own = [name for name in metrics[0] if name.startswith(WEIGHT_METRICS)]
    assert {name.partition("/")[2] for name in own} == {
        name.rpartition(".")[0] for name, _ in whole.model.named_parameters()
    }
    assert all(metrics[0][name] > 0 for name in own)
    # In both epochs together, no layer can have moved farther than the sum.
    moved = torch.linalg.vector_norm(torch.cat([(each - start[name]).ravel() for name, each in _named(whole.model)]))
    sums = [sum(epoch[name] ** 2 for name in own if name.startswith("weight_change/")) ** 0.5 for epoch in metrics]
    assert abs(sums[0] - sums[1]) < float(moved) < sums[0] + sums[1]
    # Stopped within the training of an epoch, and in its validation, after the weights were measured.
    for name, stops in (("inside", (5,)), ("in_validation", (3, 5))):
        for stop in stops:
            interrupt(small_trainer(tiny_hdf5, tmp_path, name, **_options()), stop)
        small_trainer(tiny_hdf5, tmp_path, name, **_options()).train_and_validate()
        assert logs(tmp_path / name) == metrics


def _options() -> dict[str, object]:
    return {"max_epochs": 2, "log_weights": True, "ema_decay": 0.9, "resume": "auto"}


def _named(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, each.detach()) for name, each in model.named_parameters()]


def test_a_run_without_it_is_not_resumed_with_it(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    with pytest.raises(ValueError, match=r"trainer\.log_weights was 'absent' and is now True"):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, log_weights=True, resume="must")


def test_the_command_can_resume_it(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, log_weights=True, verbose=True)
    interrupt(trainer, 5)
    # It is no object of the script.
    assert "or dwiml resume" in "".join(capsys.readouterr())
    resumed = small_trainer(tiny_hdf5, tmp_path, from_checkpoint=True)
    assert resumed.settings.log_weights
    resumed.train_and_validate()
    assert len(logs(tmp_path / "exp")) == 2
