from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.models.recurrent.stacked import TimeMajor

LENGTHS = [7, 2, 1, 0, 12, 7, 3]


def batch(lengths: list[int], nb_features: int = 4, seed: int = 0) -> tuple[TensorSequence, TensorSequence]:
    """Inputs under each point but the last of each streamline, and the whole streamlines."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(sum(lengths), 3, dtype=torch.float64, generator=generator).cumsum(0)
    targets = TensorSequence(points, torch.tensor(lengths))
    trimmed = targets.trimmed_last()
    features = torch.randn(trimmed.total_points, nb_features, dtype=torch.float64, generator=generator)
    return trimmed.mapped(features), targets


def small(**kwargs: Any) -> Learn2TrackModel:
    torch.manual_seed(5)
    options: dict[str, Any] = {"nb_features": 4, "rnn_layer_sizes": (6, 5), "nb_previous_dirs": 2, **kwargs}
    return Learn2TrackModel(**options).double()


def plain_loss(model: Learn2TrackModel, inputs: TensorSequence, targets: TensorSequence) -> Tensor:
    """The sum of all losses, one streamline and one previous direction at a time, with torch's own layers."""
    total = torch.zeros((), dtype=torch.float64)
    for features, line in zip(inputs, targets, strict=True):
        if len(line) < 2:
            continue
        directions = nn.functional.normalize(line[1:] - line[:-1], dim=1)
        zero = torch.zeros(3, dtype=torch.float64)
        embedded = model.input_embedding(features)
        if model.nb_previous_dirs:
            rows = [
                torch.cat([directions[i - 1 - k] if i - 1 - k >= 0 else zero for k in range(model.nb_previous_dirs)])
                for i in range(len(directions))
            ]
            assert model.prev_dirs_embedding is not None
            embedded = torch.cat([embedded, model.prev_dirs_embedding(torch.stack(rows))], 1)
        below, outputs = embedded, []
        for i, layer in enumerate(model.rnn.layers):
            output = layer(below)[0]
            if i < len(model.rnn.layers) - 1:
                output = model.rnn.norms[i](output)
            outputs.append(output)
            below = torch.cat([output, embedded], 1) if model.rnn.use_skip_connection else output
        top = torch.cat(outputs, 1) if model.rnn.use_skip_connection else outputs[-1]
        got = model.direction_getter(top)
        if model.dg_key == "cosine-regression":
            total = total + (1 - nn.functional.cosine_similarity(got, directions, dim=1)).sum()
        else:
            total = total + (got - directions).square().sum()
    return total


CONFIGURATIONS = [
    {},
    {"rnn_key": "lstm"},
    {"use_skip_connection": False, "use_layer_normalization": False, "dg_key": "l2-regression"},
    {"nb_previous_dirs": 0, "rnn_layer_sizes": (5,)},
    {
        "input_embedding_key": "nn_embedding",
        "input_embedded_size": 8,
        "prev_dirs_embedding_key": "nn_embedding",
        "prev_dirs_embedded_size": 3,
        "rnn_layer_sizes": (4, 5, 6),
    },
]


@pytest.mark.parametrize("options", CONFIGURATIONS)
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4], [2]])
def test_gradients_are_those_of_one_streamline_at_a_time(options: dict[str, Any], lengths: list[int]) -> None:
    model = small(**options)
    inputs, targets = batch(lengths)
    mean, n = model.compute_loss(model(inputs, targets.trimmed_last()), targets)
    assert n == sum(max(length - 1, 0) for length in lengths)
    expected = plain_loss(model, inputs, targets)
    torch.testing.assert_close(mean * n, expected)
    ours = torch.autograd.grad(mean * n, list(model.parameters()))
    for got, wanted in zip(ours, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def test_gradients_of_the_input() -> None:
    model = small()
    inputs, targets = batch(LENGTHS)
    inputs.data.requires_grad_()
    loss, n = model.compute_loss(model(inputs, targets.trimmed_last()), targets)
    (got,) = torch.autograd.grad(loss * n, inputs.data)
    (expected,) = torch.autograd.grad(plain_loss(model, inputs, targets), inputs.data)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("pointwise_loss", ["pointwise_model", "own_loss_model"])
def test_gradients_of_other_models(pointwise_loss: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(pointwise_loss)(nb_features=4).double()
    inputs, targets = batch(LENGTHS)
    lines = targets.trimmed_last()
    if model.forward_uses_last_point:
        lines, inputs = targets, targets.mapped(torch.randn(targets.total_points, 4, dtype=torch.float64))
    loss, n = model.compute_loss(model(inputs, lines), targets)
    ours = torch.autograd.grad(loss * n, list(model.parameters()))
    parts = []
    for i in range(len(targets)):
        one = targets[i : i + 1]
        loss, n_one = model.compute_loss(model(inputs[i : i + 1], lines[i : i + 1]), one)
        if n_one:
            parts.append(loss * n_one)
    for got, wanted in zip(ours, torch.autograd.grad(sum(parts), list(model.parameters())), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("rnn_key", ["gru", "lstm"])
@pytest.mark.parametrize("whole", [True, False])
def test_step_by_step_equals_the_whole_sequence(rnn_key: str, whole: bool) -> None:
    model = small(rnn_key=rnn_key)
    inputs, targets = batch([9, 9, 9])
    lines = targets.trimmed_last()
    with torch.no_grad():
        outputs, final = model(inputs, lines, return_hidden=True)
        expected = lines.mapped(outputs).padded()
        states = None
        for i in range(8):
            # Tracking hands over whole streamlines, or only the points that the previous directions need.
            start = 0 if whole or i == 0 else max(0, i - model.nb_previous_dirs)
            so_far = TensorSequence.from_list([line[start : i + 1] for line in lines])
            new = TensorSequence.from_list([features[i : i + 1] for features in inputs])
            got, states = model(new, so_far, states, return_hidden=True)
            torch.testing.assert_close(got, expected[:, i])
    assert states is not None
    for got_state, final_state in zip(states, final, strict=True):
        torch.testing.assert_close(got_state, final_state)


def test_going_on_with_some_streamlines_and_several_points() -> None:
    model = small()
    inputs, targets = batch([9, 6, 7])
    lines = targets.trimmed_last()
    with torch.no_grad():
        expected = lines.mapped(model(inputs, lines))
        parts = list(zip(inputs, lines, strict=True))
        first = TensorSequence.from_list([features[:3] for features, _ in parts])
        _, states = model(first, TensorSequence.from_list([line[:3] for _, line in parts]), return_hidden=True)
        kept = torch.tensor([2, 0])
        states = [tuple(part[kept] for part in layer) for layer in states]
        rest = TensorSequence.from_list([parts[i][0][3:] for i in (2, 0)])
        got = model(rest, TensorSequence.from_list([parts[i][1] for i in (2, 0)]), states)
    torch.testing.assert_close(got, torch.cat([expected[2][3:], expected[0][3:]]))


def test_streamlines_of_no_point_keep_their_hidden_state() -> None:
    model = small()
    inputs, targets = batch([4, 0, 3])
    states = [(torch.randn(3, size, dtype=torch.float64),) for size in (6, 5)]
    _, after = model(inputs, targets.trimmed_last(), states, return_hidden=True)
    for (before,), (now,) in zip(states, after, strict=True):
        assert torch.equal(now[1], before[1])
        assert not torch.equal(now[0], before[0])


def test_inputs_that_do_not_fit_are_named() -> None:
    model = small()
    inputs, targets = batch([4, 3])
    with pytest.raises(ValueError, match="got 5 inputs in 2 sequences for 7 points in 2 streamlines"):
        model(inputs, targets)


def one_run(model_class: Any, options: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    model = model_class(nb_features=4, **options)
    optimizer = torch.optim.Adam(model.parameters())
    for seed in range(3):
        inputs, targets = batch([20 - i % 9 for i in range(140)], seed=seed)
        inputs, targets = inputs.mapped(inputs.data.float()), targets.mapped(targets.data.float())
        optimizer.zero_grad()
        model.compute_loss(model(inputs, targets.trimmed_last()), targets)[0].backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_are_bit_identical(threads: int) -> None:
    chosen = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        options = {"rnn_layer_sizes": (16, 16), "nb_previous_dirs": 1, "dropout": 0.1}
        runs = [one_run(Learn2TrackModel, options) for _ in range(2)]
    finally:
        torch.set_num_threads(chosen)
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_weights_are_those_of_torchs_layers() -> None:
    for (i, layer), key in itertools.product(enumerate((6, 5)), ("gru", "lstm")):
        weights = small(rnn_key=key).rnn.layers[i].state_dict()
        reference = (nn.GRU if key == "gru" else nn.LSTM)(10 + (6 if i else 0), layer).state_dict()
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in reference.items()
        }


@pytest.mark.gpu
@pytest.mark.parametrize("rnn_key", ["gru", "lstm"])
def test_the_gpu_gives_the_same(rnn_key: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = small(rnn_key=rnn_key)
    inputs, targets = batch(LENGTHS)
    expected, n = model.compute_loss(model(inputs, targets.trimmed_last()), targets)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    model.cuda()
    inputs, targets = inputs.to("cuda"), targets.to("cuda")
    loss, n_cuda = model.compute_loss(model(inputs, targets.trimmed_last()), targets)
    assert n_cuda == n
    torch.testing.assert_close(loss.cpu(), expected)
    for got, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), gradients, strict=True):
        torch.testing.assert_close(got.cpu(), wanted)


def test_layers_of_dwi_ml_step_by_step_and_whole() -> None:
    """With the options of imported models, tracking gives the outputs of training."""
    options = {"rnn_args": {"activation": "relu", "normalize_last": True, "skip_to_output": True}}
    model = small(**options).eval()
    assert model.rnn.output_size == 6 + 5 + 4 + 6
    inputs, targets = batch([6, 6])
    lines = targets.trimmed_last()
    with torch.no_grad():
        whole = model(inputs, lines)
        first, states = model(inputs.head(3), lines.head(3), return_hidden=True)
        rest = model(inputs.tail(2), lines.tail(2 + 2), states)
    torch.testing.assert_close(whole.reshape(2, 5, 3)[:, :3], first.reshape(2, 3, 3))
    torch.testing.assert_close(whole.reshape(2, 5, 3)[:, 3:], rest.reshape(2, 2, 3))
    assert type(model)(**model.params).params == model.params


def test_dropout_of_embeddings_is_in_training_only() -> None:
    model = small(embedding_dropout=0.9, nb_previous_dirs=0)
    inputs, targets = batch([6, 6])
    lines = targets.trimmed_last()
    assert not torch.equal(model(inputs, lines), model(inputs, lines))
    model.eval()
    assert torch.equal(model(inputs, lines), model(inputs, lines))
    assert torch.equal(model(inputs, lines), small(nb_previous_dirs=0)(inputs, lines))


def test_dropout_comes_before_the_activation_as_in_dwi_ml() -> None:
    """The outputs given to the direction getter are those after dropout, unlike without an activation."""
    torch.manual_seed(2)
    inputs, _ = batch([4])
    order = TimeMajor(inputs.lengths, inputs.device)
    for args, has_zeros in (({"activation": "relu"}, True), (None, False)):
        rnn = small(rnn_args=args, dropout=0.9, nb_previous_dirs=0).rnn
        result, _ = rnn(order.pack(inputs.data), order)
        assert bool((result[:, :6] == 0).any()) == has_zeros


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rnn_args": [1]}, "rnn_args must be a dict of options such as {'activation': 'relu'}, got \\[1\\]"),
        ({"rnn_args": {"dropout": 1}}, "rnn_args of 'gru' has no option 'dropout'; it has: \\['activation', "),
        ({"rnn_args": {"activation": "tanh"}}, "rnn_args: activation must be"),
        ({"rnn_args": {"normalize_last": "yes"}}, "normalize_last must be True or False, got 'yes'"),
        ({"rnn_args": {"normalize_last": True}, "use_layer_normalization": False}, "normalize_last needs use_layer_"),
        ({"rnn_args": {"skip_to_output": True}, "use_skip_connection": False}, "skip_to_output needs use_skip_conn"),
        ({"embedding_dropout": 1.0}, "embedding_dropout must be at least 0 and less than 1, got 1.0"),
        ({"volume_shift": 2}, "volume_shift must be"),
        ({"dg_args": {"hidden_size": 0}}, "dg_args: hidden_size must be a whole number of at least 1, got 0"),
    ],
)
def test_options_of_layers_are_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**options)
