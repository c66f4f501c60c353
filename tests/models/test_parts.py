"""Inputs, neighborhoods, previous directions, embeddings and direction getters."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from dwiml import (
    Learn2TrackModel,
    ModelWithDirectionGetter,
    ModelWithNeighborhood,
    ModelWithOneInput,
    ModelWithPreviousDirections,
    TensorSequence,
)
from dwiml.models.direction_getters import DIRECTION_GETTERS
from dwiml.ops.randomness import KeyedDraws


def streamlines(*lengths: int, seed: int = 0) -> TensorSequence:
    generator = torch.Generator().manual_seed(seed)
    return TensorSequence(torch.randn(sum(lengths), 3, generator=generator).cumsum(0), torch.tensor(lengths))


def test_input_size_is_an_int_whatever_it_was_read_from(own_loss_model: Any) -> None:
    model = own_loss_model(nb_features=np.int64(6), input_embedding_key="nn_embedding", input_embedded_size=4)
    assert type(model.nb_features) is int
    assert model.input_size == 6
    assert model.embed_inputs(TensorSequence(torch.randn(5, 6), torch.tensor([2, 3]))).shape == (5, 4)


@pytest.mark.parametrize("bases", list(itertools.permutations([ModelWithOneInput, ModelWithNeighborhood])))
def test_neighborhood_in_any_order_of_bases(bases: tuple[type, ...]) -> None:
    members = {"forward": lambda self: None, "compute_loss": lambda self: None}
    cls: Any = type("Mixed", bases, members)
    model = cls(nb_features=4, neighborhood_type="grid", neighborhood_radius=1)
    assert model.input_size == 4 * 27
    assert model.neighborhood_offsets.shape == (27, 3)
    assert not model.neighborhood_offsets[0].any()
    assert "neighborhood_offsets" not in model.state_dict()
    assert model.to("meta").neighborhood_offsets.device.type == "meta"
    assert cls(nb_features=4).neighborhood_offsets is None
    # With a shift, no offset is zero; without neighbors, there is still one.
    shifted = cls(nb_features=4, neighborhood_type="grid", neighborhood_radius=1, volume_shift=0.25)
    assert shifted.neighborhood_offsets.shape == (27, 3)
    assert shifted.neighborhood_offsets[0].tolist() == [0.25] * 3
    assert cls(nb_features=4, volume_shift=0.25).neighborhood_offsets.tolist() == [[0.25] * 3]


def test_a_model_without_neighborhood_says_none(own_loss_model: Any) -> None:
    assert own_loss_model(nb_features=4).neighborhood_offsets is None


@pytest.mark.parametrize("nb_features", [0, -1, 2.5, "4", True, None])
def test_nb_features_is_checked(nb_features: Any, own_loss_model: Any) -> None:
    with pytest.raises(ValueError, match="nb_features must be a whole number of at least 1"):
        own_loss_model(nb_features=nb_features)


def test_wrong_number_of_features_is_named(own_loss_model: Any) -> None:
    with pytest.raises(ValueError, match="has 5 features per point; this model was built for 4"):
        own_loss_model(nb_features=4).embed_inputs(TensorSequence(torch.zeros(2, 5), torch.tensor([2])))


def previous_model(**kwargs: Any) -> Any:
    members = {"forward": lambda self: None, "compute_loss": lambda self: None}
    return type("Previous", (ModelWithPreviousDirections,), members)(**kwargs)


def test_previous_directions_of_a_model() -> None:
    lines = streamlines(3, 1, 4)
    raw = previous_model(nb_previous_dirs=2, normalize_prev_dirs=False).previous_dirs(lines)
    assert raw.shape == (8, 6)
    torch.testing.assert_close(raw[2], torch.cat([lines.data[2] - lines.data[1], lines.data[1] - lines.data[0]]))
    model = previous_model(nb_previous_dirs=2, prev_dirs_embedding_key="nn_embedding", prev_dirs_embedded_size=5)
    unit = model.previous_dirs(lines)
    torch.testing.assert_close(unit[1, :3].norm(), torch.tensor(1.0))
    assert model.embed_previous_dirs(unit).shape == (8, 5)
    assert model.embedded_prev_dirs_size == 5
    nothing = previous_model()
    assert nothing.embed_previous_dirs(nothing.previous_dirs(lines)).shape == (8, 0)


def test_previous_directions_are_checked() -> None:
    with pytest.raises(ValueError, match="nb_previous_dirs must be a whole number of at least 0, got -2"):
        previous_model(nb_previous_dirs=-2)
    for wrong in ("2", 2.5, None, True):
        with pytest.raises(ValueError, match="nb_previous_dirs must be a whole number of at least 0, got"):
            previous_model(nb_previous_dirs=wrong)
    with pytest.raises(ValueError, match="^prev_dirs_embedding_key='nn_embedding' and prev_dirs_embedded_size=4 "):
        previous_model(prev_dirs_embedding_key="nn_embedding", prev_dirs_embedded_size=4)
    with pytest.raises(ValueError, match=r"^prev_dirs_embedding_args=\{\} needs nb_previous_dirs of at least 1, got 0"):
        previous_model(prev_dirs_embedding_args={})


def test_cosine_loss_is_that_of_numpy(pointwise_model: Any) -> None:
    model: ModelWithDirectionGetter = pointwise_model(nb_features=2)
    lines = streamlines(4, 0, 1, 3)
    outputs = torch.randn(5, 3)
    steps = np.concatenate([np.diff(line.numpy(), axis=0) for line in lines if len(line) > 1])
    out = outputs.numpy()
    cosines = (out * steps).sum(1) / np.linalg.norm(out, axis=1) / np.linalg.norm(steps, axis=1)
    losses, n = model.compute_loss(outputs, lines, average_results=False)
    np.testing.assert_allclose(losses, 1 - cosines, atol=1e-6)
    mean, n_mean = model.compute_loss(outputs, lines)
    assert n == n_mean == 5
    assert mean.ndim == 0
    assert mean.item() == pytest.approx(np.mean(1 - cosines), abs=1e-6)


def test_cosine_loss_of_known_angles(pointwise_model: Any) -> None:
    model = pointwise_model(nb_features=2)
    line = TensorSequence(torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [4.0, 0, 0], [6.0, 0, 0]]), torch.tensor([4]))
    losses, _ = model.compute_loss(torch.tensor([[5.0, 0, 0], [0, 0.1, 0], [-3.0, 0, 0]]), line, average_results=False)
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("normalize", [True, False])
def test_l2_loss(pointwise_model: Any, normalize: bool) -> None:
    model = pointwise_model(nb_features=2, dg_key="l2-regression", dg_args={"normalize_targets": normalize})
    line = TensorSequence(torch.tensor([[0.0, 0, 0], [2.0, 0, 0]]), torch.tensor([2]))
    loss, n = model.compute_loss(torch.tensor([[0.0, 3.0, 0.0]]), line)
    assert (loss.item(), n) == (9 + (1 if normalize else 4), 1)


@pytest.mark.parametrize("key", ["cosine-regression", "l2-regression"])
def test_repeated_points_are_left_out_of_the_mean(pointwise_model: Any, key: str) -> None:
    model = pointwise_model(nb_features=2, dg_key=key)
    points = streamlines(4).data
    repeated = TensorSequence(points[[0, 1, 1, 2, 3]], torch.tensor([5]))
    outputs = torch.randn(4, 3, requires_grad=True)
    with_repeat, n = model.compute_loss(outputs, repeated)
    without, _ = model.compute_loss(outputs[[0, 2, 3]], TensorSequence(points, torch.tensor([4])))
    torch.testing.assert_close(with_repeat, without)
    assert n == 4
    (gradient,) = torch.autograd.grad(with_repeat, outputs)
    assert gradient.isfinite().all()
    assert not gradient[1].any()


def test_nan_is_not_hidden(pointwise_model: Any) -> None:
    model = pointwise_model(nb_features=2)
    lines = streamlines(4)
    lines.data[1, 0] = torch.nan
    assert model.compute_loss(torch.randn(3, 3), lines)[0].isnan()
    assert model.compute_loss(torch.full((3, 3), torch.nan), streamlines(4))[0].isnan()


@pytest.mark.parametrize("lengths", [[], [0, 0], [1, 1]])
@pytest.mark.parametrize("kind", ["pointwise", "learn2track"])
def test_a_batch_without_directions_has_loss_0(pointwise_model: Any, lengths: list[int], kind: str) -> None:
    model = pointwise_model(nb_features=2) if kind == "pointwise" else Learn2TrackModel(nb_features=2)
    lines = TensorSequence(torch.zeros(sum(lengths), 3), torch.tensor(lengths, dtype=torch.int64))
    trimmed = lines.trimmed_last()
    outputs = model(TensorSequence(torch.zeros(0, 2), trimmed.lengths), trimmed)
    loss, n = model.compute_loss(outputs, lines)
    loss.backward()
    assert (loss.item(), n) == (0.0, 0)


def test_outputs_that_do_not_fit_are_named(pointwise_model: Any) -> None:
    with pytest.raises(ValueError, match=r"outputs have shape \(4, 3\), the targets have 3 directions"):
        pointwise_model(nb_features=2).compute_loss(torch.zeros(4, 3), streamlines(4))


def test_direction_getters_are_checked(pointwise_model: Any) -> None:
    with pytest.raises(ValueError, match="dg_key must be one of .*'l2-regression'.*, got 'cosine'"):
        pointwise_model(nb_features=2, dg_key="cosine")
    with pytest.raises(ValueError, match=r"dg_key must be one of .*, got \['l2-regression'\]"):
        pointwise_model(nb_features=2, dg_key=["l2-regression"])
    for wrong in ("dropout", ["dropout"], 0.1):
        with pytest.raises(ValueError, match="dg_args must be a dict of options"):
            pointwise_model(nb_features=2, dg_args=wrong)
    with pytest.raises(ValueError, match="dropout must be at least 0 and less than 1, got '0.1'"):
        pointwise_model(nb_features=2, dg_args={"dropout": "0.1"})
    with pytest.raises(ValueError, match="has no option 'dropot'; it has: .*'dropout'"):
        pointwise_model(nb_features=2, dg_args={"dropot": 0.1})
    with pytest.raises(ValueError, match="has no option 'input_size'"):
        pointwise_model(nb_features=2, dg_args={"input_size": 3})
    with pytest.raises(ValueError, match="dropout must be at least 0"):
        pointwise_model(nb_features=2, dg_args={"dropout": 1.0})


def test_tracking_directions(pointwise_model: Any) -> None:
    model = pointwise_model(nb_features=2, dg_key="l2-regression")
    assert model.forward_uses_last_point is False
    got = model.get_tracking_directions(torch.tensor([[0.0, 4.0, 3.0], [0.0, 0.0, 0.0]]), "det", None)
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.8, 0.6], [0.0, 0.0, 0.0]]))
    with pytest.raises(
        ValueError,
        match="needs algo='det', got 'prob'; .* are 'sphere-classification', 'smooth-sphere-classification', 'gau",
    ):
        model.get_tracking_directions(torch.zeros(1, 3), "prob", None)
    with pytest.raises(ValueError, match="eos_stopping_thresh must be None, got 0.5"):
        model.get_tracking_directions(torch.zeros(1, 3), "det", 0.5)


def test_a_model_of_its_own_gets_all_points(own_loss_model: Any) -> None:
    assert own_loss_model(nb_features=2).forward_uses_last_point is True


@pytest.mark.parametrize("size", ["8", 8.5, None, True, [8]])
def test_embedded_sizes_of_another_type(pointwise_model: Any, size: Any) -> None:
    with pytest.raises(ValueError, match="embedded size of 'nn_embedding' must be a whole number of at least 1, got"):
        pointwise_model(nb_features=2, input_embedding_key="nn_embedding", input_embedded_size=size)
    with pytest.raises(ValueError, match=r"^input_embedding_key must be one of .*, got \['nn_embedding'\]"):
        pointwise_model(nb_features=2, input_embedding_key=["nn_embedding"])


class WithoutGetter(ModelWithDirectionGetter, ModelWithOneInput):
    """Its author forgot to call instantiate_direction_getter."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = torch.nn.Linear(self.input_size, 8)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Any:
        return self.direction_getter(self.layer(inputs.data))


def test_a_forgotten_direction_getter_is_named() -> None:
    model = WithoutGetter(nb_features=2)
    for use in (
        lambda: model.forward_uses_last_point,
        lambda: model.layers_by_point,
        lambda: model.get_tracking_directions(torch.zeros(1, 3), "det"),
    ):
        with pytest.raises(TypeError, match=r"^WithoutGetter has no direction getter: call self\.instantiate_"):
            use()


@pytest.mark.parametrize("key", sorted(DIRECTION_GETTERS))
@pytest.mark.parametrize("args", [{"output_size": 7}, {"input_size": 3}, {"droput": 0.1}, {3: 1}])
def test_options_that_are_not_the_user_s_are_refused(key: str, args: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"dg_args of .* has no option .*; it has: \['dropout'"):
        WithoutGetter(nb_features=2, dg_key=key, dg_args=args)


@pytest.mark.parametrize("algo", ["max", None, 3, ["det"], torch.zeros(3)])
@pytest.mark.parametrize("key", sorted(DIRECTION_GETTERS))
def test_an_unknown_algorithm_is_a_sentence(key: str, algo: Any) -> None:
    model = WithoutGetter(nb_features=2, dg_key=key)
    model.instantiate_direction_getter(8)
    with pytest.raises(ValueError, match="algo must be 'det' or 'prob'|needs algo='det'"):
        model.get_tracking_directions(torch.zeros(2, model.direction_getter.output_size), algo)


@pytest.mark.parametrize("threshold", ["0.5", -0.1, 1.5, float("nan"), [0.5]])
def test_a_threshold_is_a_probability(threshold: Any) -> None:
    model = WithoutGetter(nb_features=2, dg_key="sphere-classification")
    model.instantiate_direction_getter(8)
    with pytest.raises(ValueError, match="eos_stopping_thresh must be a number from 0 to 1"):
        model.check_tracking("det", threshold)


def test_draws_are_one_a_row() -> None:
    model = WithoutGetter(nb_features=2, dg_key="sphere-classification")
    model.instantiate_direction_getter(8)
    outputs = torch.zeros(2, model.direction_getter.output_size)
    with pytest.raises(ValueError, match=r"a key for each of the 2 rows of outputs, got 3 keys\.$"):
        model.get_tracking_directions(outputs, "prob", draws=KeyedDraws(0, torch.arange(3), 0))
    with pytest.raises(ValueError, match=r"a key for each of the 2 rows of outputs, got an object of type Tensor\.$"):
        model.get_tracking_directions(outputs, "prob", draws=torch.zeros(2))  # type: ignore[arg-type]
