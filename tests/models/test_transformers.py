"""The transformers: their layers are torch's, no point sees the future, and batches change nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from small_transformers import CONFIGURATIONS, batch, small
from torch import Tensor, nn
from torch.nn import functional

from dwiml import TensorSequence, TransformerSrcAndTgtModel, TransformerSrcOnlyModel, TransformerSrcTgtConcatModel
from dwiml.models.transformers.attention import RecordedAttention, WholeStreamlines
from dwiml.models.transformers.buckets import LengthBuckets
from dwiml.models.transformers.layers import Decoder, Encoder, LayerOptions
from dwiml.models.transformers.positions import rotated, rotation, sinusoidal
from dwiml.models.transformers.targets import TargetEmbedding

CPU = torch.device("cpu")


def causal_mask(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("final_norm", [True, False])
def test_layers_are_those_of_torch(norm_first: bool, activation: str, final_norm: bool) -> None:
    torch.manual_seed(0)
    options = LayerOptions(12, 3, 20, 0.0, activation, norm_first, rotary=False)
    encoder, decoder = Encoder(options, 2, final_norm=final_norm), Decoder(options, 2, final_norm=final_norm)
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        # Biases too.
        nn.init.normal_(parameter, std=0.3)
    kind = {"dropout": 0.0, "activation": activation, "norm_first": norm_first, "batch_first": True}
    norms = [nn.LayerNorm(12) if final_norm else None for _ in range(2)]
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(12, 3, 20, **kind), 2, norms[0], enable_nested_tensor=False
    ).train()
    theirs_too = nn.TransformerDecoder(nn.TransformerDecoderLayer(12, 3, 20, **kind), 2, norms[1]).train()
    theirs.load_state_dict(encoder.state_dict())
    theirs_too.load_state_dict(decoder.state_dict())
    lengths = torch.tensor([5, 20, 0, 1, 7, 20])
    sources, targets = (TensorSequence(torch.randn(53, 12), lengths) for _ in range(2))
    buckets = LengthBuckets(lengths, CPU)
    attending = WholeStreamlines(buckets)
    encoded = encoder(buckets.sort(sources.data), attending)
    decoded = decoder(buckets.sort(targets.data), encoded, attending)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        if not len(source):
            continue
        mask = causal_mask(len(source))
        memory = theirs(source[None], mask=mask)
        torch.testing.assert_close(sources.mapped(buckets.unsort(encoded))[i], memory[0], rtol=0, atol=2e-6)
        expected = theirs_too(target[None], memory, tgt_mask=mask, memory_mask=mask)
        torch.testing.assert_close(sources.mapped(buckets.unsort(decoded))[i], expected[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_no_point_sees_the_future(options: dict[str, Any]) -> None:
    model = small(**options).eval()
    inputs, lines = batch([9, 9, 5])
    with torch.no_grad():
        before = lines.mapped(model(inputs, lines)).padded()
        for k in range(8):
            position = lines.positions() > k
            other_inputs = inputs.mapped(torch.where(position[:, None], inputs.data + 1, inputs.data))
            other_lines = lines.mapped(torch.where(position[:, None], lines.data.flip(0), lines.data))
            after = lines.mapped(model(other_inputs, other_lines)).padded()
            assert torch.equal(after[:, : k + 1], before[:, : k + 1])
            assert not torch.isclose(after[0, k + 1], before[0, k + 1], atol=1e-5).all()


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_padding_and_the_rest_of_the_batch_change_nothing(options: dict[str, Any]) -> None:
    model = small(**options)
    inputs, lines = batch([30, 9, 1, 0, 17, 9, 30, 100])
    outputs = model(inputs, lines)
    whole = lines.mapped(outputs)
    gradients = torch.autograd.grad(outputs.square().sum(), list(model.parameters()))
    own = []
    for i in range(len(lines)):
        own.append(model(inputs[i : i + 1], lines[i : i + 1]))
        torch.testing.assert_close(own[-1], whole[i], rtol=0, atol=1e-6)
    total = torch.stack([each.square().sum() for each in own]).sum()
    for got, expected in zip(gradients, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert model(inputs[:0], lines[:0]).shape == (0, 3)


def test_each_row_is_in_one_bucket_and_comes_back() -> None:
    lengths = torch.tensor([40, 0, 3, 200, 41, 16, 17, 0, 199, 15])
    buckets = LengthBuckets(lengths, CPU)
    rows = torch.randn(int(lengths.sum()), 2, 3)
    assert torch.equal(buckets.unsort(buckets.sort(rows)), rows)
    ordered = buckets.sort(rows)
    parts = [bucket.unpad(bucket.pad(ordered)) for bucket in buckets.buckets]
    assert torch.equal(torch.cat(parts), ordered)
    for bucket in buckets.buckets:
        nb, longest = bucket.shape
        assert longest <= 19 or (bucket.rows.stop - bucket.rows.start) * 1.3 > nb * longest
    assert LengthBuckets(torch.tensor([0, 0]), CPU).buckets == []


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("positional_encoding", ["sinusoidal", "rotary"])
def test_attention_is_a_softmax_of_products(norm_first: bool, positional_encoding: str) -> None:
    model = small("src-only", norm_first=norm_first, positional_encoding=positional_encoding).eval()
    inputs, lines = batch([6, 9])
    weights = model.attention(inputs, lines)["encoder"]
    assert [each.shape for each in weights] == [(2, 4, 9, 9)] * 2
    layer = model.encoder.layers[0]
    for i, features in enumerate(inputs):
        n = len(features)
        rows = model.input_embedding(features)
        if positional_encoding == "sinusoidal":
            rows = rows + sinusoidal(torch.arange(n), 16).float()
        rows = layer.norm1(rows) if norm_first else rows
        projected = functional.linear(rows, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias)
        queries, keys, _ = (each.view(n, 4, 4) for each in projected.chunk(3, dim=1))
        if positional_encoding == "rotary":
            queries, keys = (rotated(each, rotation(torch.arange(n), 4).float()) for each in (queries, keys))
        scores = torch.einsum("ihd,jhd->hij", queries, keys) / 2
        expected = scores.masked_fill(causal_mask(n), -torch.inf).softmax(dim=-1)
        torch.testing.assert_close(weights[0][i, :, :n, :n], expected)
    assert torch.equal(weights[1][0, :, 6:], torch.zeros(4, 3, 9))
    torch.testing.assert_close(weights[1][0, :, :6].sum(-1), torch.ones(4, 6))


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_attention_is_what_the_forward_pass_uses(options: dict[str, Any]) -> None:
    model = small(**options, dropout=0.3).train()
    inputs, lines = batch([30, 1, 0, 17, 6])
    found = model.attention(inputs, lines)
    assert model.training
    assert list(found) == (["encoder", "decoder", "cross"] if options["kind"] == "src-and-tgt" else ["encoder"])
    for weights in found.values():
        for layer in weights:
            assert layer.shape == (5, 4, 30, 30)
            assert not layer.triu(1).any()
    recorded = RecordedAttention(LengthBuckets(lines.lengths, CPU))
    torch.testing.assert_close(model.eval()._outputs(inputs, lines, recorded), model(inputs, lines))


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_bf16_autocast(options: dict[str, Any]) -> None:
    model = small(**options)
    inputs, lines = batch([30, 9, 1, 17])
    expected = model(inputs, lines)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(inputs, lines)
    torch.testing.assert_close(outputs.float(), expected, rtol=0.1, atol=0.1)
    outputs.float().square().sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_dropout_only_in_training() -> None:
    model = small("src-and-tgt", dropout=0.5)
    inputs, lines = batch([9, 4])
    assert not torch.equal(model(inputs, lines), model(inputs, lines))
    model.eval()
    assert torch.equal(model(inputs, lines), model(inputs, lines))


def test_encodings_of_positions() -> None:
    table = sinusoidal(torch.arange(50), 6)
    for position in (0, 1, 49):
        for i in range(3):
            angle = torch.tensor(position / 10_000 ** (2 * i / 6), dtype=torch.float64)
            torch.testing.assert_close(table[position, 2 * i : 2 * i + 2], torch.stack([angle.sin(), angle.cos()]))
    assert sinusoidal(torch.arange(4), 5).shape == (4, 5)
    query, key = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def product(at: int, other: int) -> Tensor:
        places = torch.tensor([at, other])
        both = rotated(torch.cat([query, key]), rotation(places, 8))
        return both[0, 0] @ both[1, 0]

    torch.testing.assert_close(product(0, 0), query[0, 0] @ key[0, 0])
    torch.testing.assert_close(product(9, 4), product(105, 100))
    assert not torch.isclose(product(9, 4), product(9, 5))


def test_targets_are_the_steps_that_led_to_each_point() -> None:
    line = TensorSequence(torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 0, 0], [2, 3, 0]]), torch.tensor([4]))
    inputs = line.mapped(torch.zeros(4, 4))
    model = small("src-tgt-concat")
    weight, bias = model.target_embedding.linear.weight, model.target_embedding.linear.bias
    rows = torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    expected = torch.relu(rows @ weight.T + bias)
    torch.testing.assert_close(model.embedded_targets(inputs, line), expected)
    # In tracking: the last points only.
    last = model.embedded_targets(inputs.tail(1), line.tail(2))
    torch.testing.assert_close(last, expected[3:])
    raw = small("src-tgt-concat", normalize_targets=False).embedded_targets(inputs, line)
    torch.testing.assert_close(raw, torch.relu(rows * torch.tensor([2.0, 3, 1, 1]) @ weight.T + bias))


def test_targets_as_classes() -> None:
    torch.manual_seed(0)
    embedding = TargetEmbedding(5, "repulsion100")
    nn.init.normal_(embedding.linear.bias)
    assert embedding.linear.weight.shape == (5, 101)
    directions = torch.nn.functional.normalize(torch.randn(6, 3), dim=1)
    directions[2] = 0
    is_start = torch.tensor([True, False, False, False, True, False])
    classes = (directions @ embedding.vertices.T).argmax(1)
    one_hot = functional.one_hot(torch.where(is_start, 100, classes), 101).float()
    # A repeated point has no class.
    one_hot[2] = 0
    torch.testing.assert_close(embedding(directions, is_start), torch.relu(embedding.linear(one_hot)))


def test_classes_are_the_nearest_under_autocast_too() -> None:
    embedding = TargetEmbedding(5, "repulsion724")
    directions, is_start = torch.randn(1000, 3), torch.zeros(1000, dtype=torch.bool)
    expected = embedding(directions, is_start)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embedding(directions, is_start), expected)


def test_sizes() -> None:
    model = TransformerSrcOnlyModel(nb_features=28)
    assert (model.d_model, model.encoder.layers[0].linear1.out_features) == (256, 1024)
    model = TransformerSrcOnlyModel(nb_features=28, input_embedding_key="no_embedding", nb_heads=7)
    assert model.d_model == 28
    concat = TransformerSrcTgtConcatModel(nb_features=28, input_embedded_size=20, target_embedded_size=4)
    assert concat.d_model == 24
    both = TransformerSrcAndTgtModel(nb_features=4, nb_layers_encoder=1, nb_layers_decoder=2, input_embedded_size=8)
    assert [len(layers) for layers in both.attentions.values()] == [1, 2, 2]
    # 5 attentions of 8 features, keys and values of 4 bytes, with room to double.
    assert both.tracking_bytes_per_point == 5 * 8 * 2 * 4 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nb_heads": 3}, "nb_heads must be a divisor of d_model (16: the size of the embedded input), got 3; choose"),
        ({"nb_heads": 0}, "nb_heads must be a whole number of at least 1, got 0."),
        (
            {"nb_heads": 16, "positional_encoding": "rotary"},
            "positional_encoding 'rotary' needs an even number of features per head, got 1 (d_model=16: ",
        ),
        (
            {"positional_encoding": "learned"},
            "positional_encoding must be one of 'sinusoidal', 'rotary', got 'learned'.",
        ),
        ({"activation": "tanh"}, "activation must be one of 'relu', 'gelu', got 'tanh'."),
        ({"dropout": 1}, "dropout must be at least 0 and less than 1, got 1."),
        ({"max_len": 0}, "max_len must be a whole number of at least 1, got 0."),
        ({"ffnn_hidden_size": -1}, "ffnn_hidden_size must be a whole number of at least 1, got -1."),
        ({"nb_layers_encoder": 0}, "nb_layers_encoder must be a whole number of at least 1, got 0."),
        ({"norm_first": "no"}, "norm_first must be True or False, got 'no'."),
    ],
)
def test_parameters_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        small("src-only", **options)


def test_parameters_of_targets_are_checked() -> None:
    with pytest.raises(
        ValueError, match=r"^sos must be 'label' or the name of one of DIPY's spheres, .* got 'ball'\.$"
    ):
        small("src-and-tgt", sos="ball")
    with pytest.raises(ValueError, match=r"\(21: 16 of the embedded input \+ 5 of target_embedded_size\), got 4"):
        small("src-tgt-concat", target_embedded_size=5)
    with pytest.raises(ValueError, match=r"^target_embedded_size must be a whole number of at least 1, got 0\.$"):
        small("src-tgt-concat", target_embedded_size=0)
    with pytest.raises(ValueError, match=r"^nb_layers_decoder must be a whole number of at least 1, got 0\.$"):
        small("src-and-tgt", nb_layers_decoder=0)


def test_inputs_that_do_not_fit_are_named() -> None:
    model = small("src-only", max_len=8)
    inputs, lines = batch([4, 3])
    with pytest.raises(ValueError, match="got 7 inputs in 2 sequences for 5 points in 2 streamlines"):
        model(inputs, lines.trimmed_last())
    with pytest.raises(ValueError, match=r"^A streamline has 9 points; this model takes at most 8 \(max_len\): use"):
        model(*batch([4, 9]))


@pytest.mark.gpu
@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_the_gpu_gives_the_same(options: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = small(**options).eval()
    inputs, lines = batch([30, 9, 1, 0, 17])
    expected = model(inputs, lines)
    got = model.cuda()(inputs.to("cuda"), lines.to("cuda"))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)
