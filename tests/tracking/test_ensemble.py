"""Ensembles: against hand computation, against their members alone, and against forward on whole streamlines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_transformers import small

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.ops.interpolation import interpolate_trilinear
from dwiml.ops.randomness import KeyedDraws
from dwiml.tracking.ensemble import TrackingEnsemble
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.tracker import Tracker, TrackingSubject

SHAPE = (14, 12, 10)
VOXEL_SIZES = torch.tensor([1.0, 1.5, 2.0])
MASK = torch.zeros(SHAPE, dtype=torch.bool)
MASK[2:-2, 2:-2, 2:-2] = True
X, Y = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])


class Constant:
    """Predicts the same directions for all streamlines, one a row, and the same probability of the end."""

    device = torch.device("cpu")
    nb_features, nb_points_to_track, neighborhood_offsets, step_size = 4, 1, None, 1.0

    def __init__(self, directions: Any, eos: float | None = None) -> None:
        self.directions, self.eos = torch.as_tensor(directions), eos

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(3, 3)])

    def eval(self) -> Constant:
        return self

    def check_tracking(self, algo: str, eos_stopping_thresh: float | None) -> None:
        if eos_stopping_thresh is not None and self.eos is None:
            raise ValueError("It predicts no end.")

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        return self.directions.expand(len(streamlines), 3), None

    def select_memory(self, memory: Any, kept: torch.Tensor) -> Any:
        return None

    def eos_probability(self, outputs: torch.Tensor) -> torch.Tensor:
        return torch.full((len(outputs),), float(self.eos or 0))

    def get_tracking_directions(
        self, outputs: torch.Tensor, algo: str, eos_stopping_thresh: float | None = None, **options: Any
    ) -> torch.Tensor:
        assert eos_stopping_thresh is None
        return outputs


def network(seed: int = 5, **options: Any) -> Learn2TrackModel:
    torch.manual_seed(seed)
    sizes = {"rnn_layer_sizes": (12,), "nb_previous_dirs": 1, **options}
    return Learn2TrackModel(nb_features=4, **sizes)


def subject() -> TrackingSubject:
    volume = torch.randn(*SHAPE, 4, generator=torch.Generator().manual_seed(1))
    return TrackingSubject(volume, VOXEL_SIZES, MASK)


def lines_of(model: Any, nb: int = 40, *, simultaneous: int | None = None, **rules: Any) -> list[torch.Tensor]:
    given = PropagationRules(**{"step_size": 0.6, "theta": 80.0, "max_length": 12.0, **rules})
    tracker = Tracker(model, subject(), given, min_length=2, simultaneous=simultaneous)
    return [line for group in tracker.track(Seeds(MASK, total=nb, seed=3)) for line in group.streamlines]


def combined(members: list[Any], outputs: list[Any], algo: str = "det", **options: Any) -> torch.Tensor:
    antipodal = options.pop("antipodal", False)
    ensemble = TrackingEnsemble(members, antipodal=antipodal)
    return ensemble.get_tracking_directions(tuple(outputs), algo, **options)


@pytest.mark.parametrize("key", ["cosine-regression", "sphere-classification", "fisher-von-mises"])
@pytest.mark.parametrize("antipodal", [False, True])
def test_a_model_with_itself_is_the_model(key: str, antipodal: bool) -> None:
    model = network(dg_key=key)
    expected = lines_of(model, antipodal=antipodal)
    assert len(expected) > 10
    found = lines_of(TrackingEnsemble([model] * 2, antipodal=antipodal), antipodal=antipodal)
    for line, other in zip(found, expected, strict=True):
        torch.testing.assert_close(line, other, atol=1e-3, rtol=0)


def test_one_step_of_a_model_with_itself_is_that_of_the_model() -> None:
    model = network().eval()
    outputs = torch.randn(100, model.direction_getter.output_size, generator=torch.Generator().manual_seed(2))
    expected = model.get_tracking_directions(outputs, "det")
    for antipodal in (False, True):
        found = combined([model] * 3, [outputs] * 3, antipodal=antipodal)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_mean_of_two_unit_directions() -> None:
    first = torch.tensor([[2.0, 0, 0], [0, 0.1, 0], [1, 0, 0], [0, 0, 0], [torch.nan, 1, 0], [0, 0, 0]])
    second = torch.tensor([[0.0, 3, 0], [0, 0, 7], [-5, 0, 0], [0, 4, 3], [0, 0, -2], [0, 0, 0]])
    half = np.sqrt(0.5)
    # The last but three cancel out; a member without a direction is left out.
    expected = [[half, half, 0], [0, half, half], [0, 0, 0], [0, 0.8, 0.6], [0, 0, -1], [0, 0, 0]]
    members = [Constant(X), Constant(Y)]
    found = combined(members, [first, second])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(combined(members, [second, first]), found)
    # Three members: (1, 0, 0), (1, 0, 0) and (0, 1, 0).
    three = combined([*members, Constant(X)], [X[None], Y[None], X[None]])
    torch.testing.assert_close(three, torch.tensor([[2.0, 1.0, 0.0]]) / 5**0.5)


def test_opposite_directions_are_the_same_if_antipodal() -> None:
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(3, 50, 3)) * 0.3 + np.array([0.2, 1.0, -0.4])
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    signs = rng.choice([-1.0, 1.0], size=(3, 50, 1))
    outputs = [torch.from_numpy(each) for each in axes * signs]
    found = combined([Constant(X)] * 3, outputs, antipodal=True).numpy()
    for row in range(50):
        _, vectors = np.linalg.eigh(sum(np.outer(axis, axis) for axis in axes[:, row]))
        assert abs(found[row] @ vectors[:, -1]) == pytest.approx(1, abs=1e-9)
    assert np.array_equal(combined([Constant(X)] * 2, [torch.zeros(1, 3)] * 2, antipodal=True), np.zeros((1, 3)))


def test_the_end_is_compared_with_its_mean_probability() -> None:
    members = [Constant(X, eos=0.9), Constant(Y, eos=0.2)]
    outputs = [X.expand(4, 3), Y.expand(4, 3)]
    draws = KeyedDraws(1, torch.arange(4), 0)
    for options in ({"algo": "det"}, {"algo": "prob", "draws": draws}):
        assert combined(members, outputs, eos_stopping_thresh=0.56, **options).isfinite().all()
        assert combined(members, outputs, eos_stopping_thresh=0.54, **options).isnan().all()


def test_members_are_drawn_evenly_and_apart_from_other_draws() -> None:
    nb = 40_000
    members = [Constant(X), Constant(Y), Constant(-X)]
    outputs = [each.directions.expand(nb, 3) for each in members]
    draws = KeyedDraws(7, torch.arange(nb), 3)
    found = combined(members, outputs, "prob", draws=draws)
    chosen = torch.stack([(found == each.directions).all(dim=1) for each in members]).to(torch.float64)
    assert (chosen.sum(dim=0) == 1).all()
    # Five standard deviations of a binomial distribution.
    assert (chosen.mean(dim=1) - 1 / 3).abs().max() < 5 * (2 / 9 / nb) ** 0.5
    assert torch.equal(combined(members, outputs, "prob", draws=draws), found)
    other = combined(members, outputs, "prob", draws=KeyedDraws(7, torch.arange(nb), 4))
    assert abs(float((other == found).all(dim=1).double().mean()) - 1 / 3) < 0.02
    correlations = np.corrcoef(np.vstack([chosen[0].numpy(), draws.uniforms(64).T.numpy()]))[0, 1:]
    assert np.abs(correlations).max() < 5 / nb**0.5
    # A streamline's member depends on its own key only.
    part = KeyedDraws(7, torch.arange(nb)[100:200], 3)
    assert torch.equal(combined(members, [each[100:200] for each in outputs], "prob", draws=part), found[100:200])


def test_the_mixture_of_two_distributions() -> None:
    """Frequencies of the directions of a sphere are the means of the members' probabilities."""
    nb, options = 60_000, {"dg_key": "sphere-classification", "dg_args": {"sphere": "repulsion100", "add_eos": False}}
    members = [network(seed, **options).eval() for seed in (1, 2)]
    outputs = [2 * torch.randn(1, 100, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    sphere = members[0].direction_getter.directions

    def frequencies(ensemble: list[Any], rows: list[torch.Tensor]) -> np.ndarray:
        draws = KeyedDraws(5, torch.arange(nb), 0)
        found = combined(ensemble, [each.expand(nb, -1) for each in rows], "prob", draws=draws)
        return np.bincount((found @ sphere.T).argmax(dim=1).numpy(), minlength=100) / nb

    probabilities = [each.double().softmax(dim=1)[0].numpy() for each in outputs]
    for ensemble, rows, expected in (
        (members, outputs, (probabilities[0] + probabilities[1]) / 2),
        (members[:1] * 2, outputs[:1] * 2, probabilities[0]),
    ):
        spread = np.sqrt(expected * (1 - expected) / nb)
        assert (np.abs(frequencies(ensemble, rows) - expected) < 5 * spread + 1e-4).all()


@pytest.mark.parametrize("algo", ["det", "prob"])
def test_any_number_at_once_gives_the_same_streamlines(algo: str) -> None:
    members = [network(5, dg_key="sphere-classification"), network(6, dg_key="fisher-von-mises", rnn_key="lstm")]
    ensemble = TrackingEnsemble(members)
    expected = lines_of(ensemble, algo=algo)
    assert len(expected) > 10
    for simultaneous in (1, 7):
        for line, other in zip(lines_of(ensemble, algo=algo, simultaneous=simultaneous), expected, strict=True):
            torch.testing.assert_close(line, other, atol=0.01, rtol=0)


def test_each_member_keeps_its_own_memory() -> None:
    """The steps of the ensemble are those of the members' forward on whole streamlines."""
    members = [
        network(5, rnn_layer_sizes=(8, 8)),
        network(6, rnn_key="lstm", nb_previous_dirs=3),
        small("src-only"),
        small("src-and-tgt", sos="repulsion100"),
        small("src-tgt-concat"),
    ]
    ensemble = TrackingEnsemble(members)
    assert ensemble.nb_points_to_track == max(member.nb_points_to_track for member in members)
    assert ensemble.max_len == 1000
    rules = PropagationRules(step_size=0.6, theta=180.0, max_length=6.0)
    tracker = Tracker(ensemble, subject(), rules, min_length=0, forward_only=True)
    tracked = [line for group in tracker.track(Seeds(MASK, total=30, seed=3)) for line in group.streamlines]
    lengths = {len(line) for line in tracked}
    # Streamlines that end at different steps: memories were selected.
    assert len(lengths) > 3
    for line in tracked[:10]:
        whole = TensorSequence(line, torch.tensor([len(line)]))
        inputs = whole.mapped(interpolate_trilinear(subject().volume, line))
        with torch.no_grad():
            rows = [model(inputs, whole) for model in members]
        unit = [torch.nn.functional.normalize(each[:, :3], dim=1) for each in rows]
        mean = sum(unit) / len(unit)
        steps = torch.nn.functional.normalize(mean * VOXEL_SIZES, dim=1) * 0.6 / VOXEL_SIZES
        torch.testing.assert_close(line[1:] - line[:-1], steps[:-1], atol=2e-4, rtol=0)


class WithOffsets(Constant):
    neighborhood_offsets = torch.zeros(3, 3)


class OtherStep(Constant):
    step_size = 0.5


class OtherFeatures(Constant):
    nb_features = 9


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], "An ensemble needs one or more models, got none."),
        ([Constant(X), OtherStep(X)], "must have the same step_size: model 1 has 1.0, model 2 has 0.5."),
        ([Constant(X), Constant(X), OtherFeatures(X)], "the same nb_features: model 1 has 4, model 3 has 9."),
        ([Constant(X), WithOffsets(X)], "the same neighborhood_offsets: model 1 has None, model 2 has "),
        ([Constant(X), torch.nn.Linear(2, 2)], "An ensemble needs a model that tracks; Linear has no device"),
    ],
)
def test_models_that_are_no_ensemble(members: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        TrackingEnsemble(members)


def test_what_a_member_does_not_support() -> None:
    sphere = network(dg_key="sphere-classification")
    sentence = "Model 2 of the ensemble: 'cosine-regression' gives one direction, so it needs algo='det', got 'prob'"
    with pytest.raises(ValueError, match=sentence):
        lines_of(TrackingEnsemble([sphere, network()]), algo="prob")
    with pytest.raises(ValueError, match="Model 2 of the ensemble: .* does not predict the end of streamlines"):
        lines_of(TrackingEnsemble([sphere, network()]), eos_stopping_thresh=0.5)
    limited = TrackingEnsemble([sphere, sphere])
    with pytest.raises(ValueError, match=r"needs draws \(KeyedDraws\), got None"):
        limited.get_tracking_directions((torch.zeros(1, 725),) * 2, "prob")
    no_eos = Constant(X, eos=0.5)
    no_eos.__class__ = type("Silent", (Constant,), {"__getattribute__": _without_eos})
    with pytest.raises(ValueError, match=r"Model 1 of the ensemble: Silent has no eos_probability\(outputs\)"):
        TrackingEnsemble([no_eos]).check_tracking("det", 0.5)


def _without_eos(self: Any, name: str) -> Any:
    if name == "eos_probability":
        raise AttributeError(name)
    return object.__getattribute__(self, name)


def test_the_shortest_maximum_length_of_the_members() -> None:
    ensemble = TrackingEnsemble([network(), small("src-only", max_len=15)])
    with pytest.raises(ValueError, match=r"the model takes at most 15 \(max_len\)"):
        lines_of(ensemble)
