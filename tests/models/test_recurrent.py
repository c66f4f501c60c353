"""Recurrent layers against torch's own, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from dwiml.models.recurrent.cells import RaggedGRU, RaggedLSTM
from dwiml.models.recurrent.parallel import map_parts
from dwiml.models.recurrent.stacked import RNN_LAYERS, StackedRNN, TimeMajor, run_layer

CPU = torch.device("cpu")
RAGGED = [3, 0, 5, 1, 5, 2, 0, 4]


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


def torchs_layer(layer: Any, x: Tensor, lengths: list[int], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One sequence at a time, through the module itself."""
    outputs, ends = [], []
    for i, line in enumerate(torch.split(x, lengths)):
        before = [part[i : i + 1] for part in states]
        if len(line):
            given = tuple(before) if isinstance(layer, nn.LSTM) else before[0]
            output, after = layer(line, given)
            outputs.append(output)
            ends.append(after if isinstance(layer, nn.LSTM) else (after,))
        else:
            ends.append(tuple(before))
    return torch.cat(outputs), [torch.cat(parts) for parts in zip(*ends, strict=True)]


@pytest.mark.parametrize("key", ["gru", "lstm"])
@pytest.mark.parametrize("lengths", [RAGGED, [4, 4, 4], [1, 1], [6], [0, 2]])
@pytest.mark.parametrize(("use_cudnn", "nb_groups"), [(True, 1), (False, 1), (False, 2), (False, 3)])
def test_outputs_and_gradients_are_torchs(key: str, lengths: list[int], use_cudnn: bool, nb_groups: int) -> None:
    torch.manual_seed(0)
    layer = RNN_LAYERS[key](4, 6).double()
    x = random(sum(lengths), 4, seed=1)
    states = [random(len(lengths), 6, seed=2 + i) for i in range(2 if key == "lstm" else 1)]
    order = TimeMajor(torch.tensor(lengths), CPU, nb_groups)
    rows, ends = run_layer(layer, order.pack(x), order, tuple(states), use_cudnn=use_cudnn)
    results = {"ours": (order.unpack(rows), list(ends)), "torch": torchs_layer(layer, x, lengths, states)}
    gradients = {}
    weight = random(6, seed=9).detach()
    for name, (output, last) in results.items():
        total = (output * weight).square().sum() + torch.stack([part.pow(3).sum() for part in last]).sum()
        gradients[name] = torch.autograd.grad(total, [x, *states, *layer.parameters()])
    ours, expected = [results["ours"][0], *results["ours"][1]], [results["torch"][0], *results["torch"][1]]
    for got, wanted in zip([*ours, *gradients["ours"]], [*expected, *gradients["torch"]], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", [[[3, 2, 2, 1]], [[2, 1], [2, 2, 1]]])
@pytest.mark.parametrize("key", ["gru", "lstm"])
def test_gradcheck(key: str, sizes: list[list[int]]) -> None:
    gates = 4 if key == "lstm" else 3
    nb_rows, nb_sequences = sum(map(sum, sizes)), sum(group[0] for group in sizes)
    states = [random(nb_sequences, 3, seed=i) for i in range(2 if key == "lstm" else 1)]
    weights = [random(gates * 3, *shape, seed=5 + i) for i, shape in enumerate([(2,), (3,), (), ()])]
    cell = RaggedLSTM if key == "lstm" else RaggedGRU
    assert gradcheck(lambda *inputs: cell.apply(*inputs, sizes), (random(nb_rows, 2, seed=4), *states, *weights))


def test_the_order_is_that_of_packed_sequences() -> None:
    lengths = [2, 5, 1, 4]
    lines = [torch.randn(n, 3) for n in lengths]
    packed = nn.utils.rnn.pack_sequence(lines, enforce_sorted=False)
    order = TimeMajor(torch.tensor(lengths), CPU, 1)
    assert torch.equal(order.pack(torch.cat(lines)), packed.data)
    assert order.sizes == [packed.batch_sizes.tolist()]
    assert torch.equal(order.unpack(packed.data), torch.cat(lines))


@pytest.mark.parametrize("lengths", [RAGGED, [], [0, 0], [1]])
@pytest.mark.parametrize("nb_groups", [1, 3])
def test_packing_and_back(lengths: list[int], nb_groups: int) -> None:
    order = TimeMajor(torch.tensor(lengths, dtype=torch.int64), CPU, nb_groups)
    rows = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(order.unpack(order.pack(rows)), rows)
    assert gradcheck(lambda x: order.pack(x) ** 2, (rows,))
    states = torch.randn(len(lengths), 2)
    assert torch.equal(order.unsort_states(order.sort_states(states)), states)


def test_threads_get_groups_of_a_useful_size() -> None:
    lengths = torch.full((400,), 2)
    chosen = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert len(TimeMajor(lengths, CPU).sizes) == 3
        assert len(TimeMajor(lengths[:130], CPU).sizes) == 2
        assert len(TimeMajor(lengths[:5], CPU).sizes) == 1
        threads = map_parts(lambda _: torch.get_num_threads(), [0, 1])
        assert threads == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(chosen)


def test_an_error_in_a_thread_is_raised() -> None:
    def fail(part: int) -> None:
        raise RuntimeError(f"part {part}")

    with pytest.raises(RuntimeError, match="part 1"):
        map_parts(fail, [1, 2])


def test_inference_mode_on_several_threads() -> None:
    layer = nn.GRU(2, 3)
    order = TimeMajor(torch.tensor([3, 2, 2]), CPU, 2)
    rows = torch.randn(7, 2)
    expected, _ = run_layer(layer, rows, order)
    with torch.inference_mode():
        got, _ = run_layer(layer, rows, order)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("skip", [True, False])
def test_stack_is_what_its_docstring_says(skip: bool) -> None:
    torch.manual_seed(0)
    stack = StackedRNN(
        4,
        rnn_key="gru",
        layer_sizes=[5, 6, 7],
        use_skip_connection=skip,
        use_layer_normalization=True,
        dropout=0.0,
    ).double()
    x = random(9, 4, seed=3)
    order = TimeMajor(torch.tensor([9]), CPU)
    got, _ = stack(x, order)
    first = stack.norms[0](stack.layers[0](x)[0])
    second = stack.norms[1](stack.layers[1](torch.cat([first, x], 1) if skip else first)[0])
    third = stack.layers[2](torch.cat([second, x], 1) if skip else second)[0]
    torch.testing.assert_close(got, torch.cat([first, second, third], 1) if skip else third)
    assert got.shape[1] == stack.output_size == (18 if skip else 7)
    assert len(stack.norms) == 2


def test_dropout_acts_between_layers_in_training_only() -> None:
    options = {"rnn_key": "gru", "use_skip_connection": True, "use_layer_normalization": False}
    stack = StackedRNN(4, layer_sizes=[5, 6], dropout=0.5, **options)  # type: ignore[arg-type]
    order, rows = TimeMajor(torch.tensor([9]), CPU), torch.randn(9, 4)
    torch.manual_seed(1)
    trained, again = stack(rows, order)[0], stack(rows, order)[0]
    assert torch.equal(trained[:, :5], again[:, :5])
    assert not torch.equal(trained[:, 5:], again[:, 5:])
    stack.eval()
    assert torch.equal(stack(rows, order)[0], stack(rows, order)[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rnn_key": "rnn"}, r"rnn_key must be one of 'gru', 'lstm', got 'rnn'"),
        ({"layer_sizes": []}, r"one positive size per layer, got \[\]"),
        ({"layer_sizes": [4, 0]}, r"one positive size per layer, got \[4, 0\]"),
        ({"rnn_key": ["gru"]}, r"rnn_key must be one of .*, got \['gru'\]"),
        ({"layer_sizes": 8}, "one positive size per layer, got 8"),
        ({"layer_sizes": "8"}, "one positive size per layer, got '8'"),
        ({"layer_sizes": None}, "one positive size per layer, got None"),
        ({"layer_sizes": [8.5]}, r"one positive size per layer, got \[8.5\]"),
        ({"layer_sizes": np.array(8)}, r"one positive size per layer, got array\(8\)"),
        ({"dropout": "0.1"}, "dropout must be at least 0 and less than 1, got '0.1'"),
        ({"dropout": True}, "dropout must be at least 0 and less than 1, got True"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"dropout": 0.1, "layer_sizes": [4]}, "dropout acts between two layers"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {
        "rnn_key": "gru",
        "layer_sizes": [4, 4],
        "use_skip_connection": True,
        "use_layer_normalization": True,
        "dropout": 0.0,
    }
    with pytest.raises(ValueError, match=message):
        StackedRNN(3, **{**options, **wrong})


def test_layer_sizes_may_be_an_array() -> None:
    stacked = StackedRNN(
        3,
        rnn_key="gru",
        layer_sizes=np.array([4, 5]),  # type: ignore[arg-type]
        use_skip_connection=True,
        use_layer_normalization=True,
        dropout=0.0,
    )
    assert stacked.layer_sizes == [4, 5]
    assert all(type(size) is int for size in stacked.layer_sizes)
