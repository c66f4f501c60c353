"""Streamlines that a classifier rejects, and those that replace them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dwiml import Learn2TrackModel, StreamlineClassifierModel, TensorSequence
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.randomness import other_keys
from dwiml.ops.resampling import resample_nb_points
from dwiml.tracking.acceptance import Acceptance, plausibility_of
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.tracker import Tracker, TrackingSubject

SHAPE = (14, 12, 10)
VOXEL_SIZES = torch.tensor([1.0, 1.5, 2.0])
MASK = torch.zeros(SHAPE, dtype=torch.bool)
MASK[2:-2, 2:-2, 2:-2] = True


class LeftOf:
    """Finds plausible, by 1 / (1 + exp(-outputs)), the streamlines whose mean x, in voxels, is below a limit."""

    nb_points, nb_features, neighborhood_offsets = 4, 3, None
    step_size = compress_lines = None
    forward_uses_last_point = True
    device = torch.device("cpu")

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def eval(self) -> None:
        """Do nothing."""

    def __call__(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        assert inputs.data.shape == (4 * len(streamlines), 3)
        return self.limit - streamlines.data.unflatten(0, (-1, 4))[..., 0].mean(dim=1)

    def plausibility(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


def subject() -> TrackingSubject:
    volume = torch.randn(*SHAPE, 3, generator=torch.Generator().manual_seed(1))
    return TrackingSubject(volume, VOXEL_SIZES, MASK)


def tracker(acceptance: Acceptance | None = None, *, algo: str = "prob", **options: Any) -> Tracker:
    torch.manual_seed(5)
    model = Learn2TrackModel(nb_features=3, rnn_layer_sizes=(12,), nb_previous_dirs=1, dg_key="fisher-von-mises")
    rules = PropagationRules(step_size=0.6, theta=80.0, max_length=12.0, algo=algo)
    return Tracker(model, subject(), rules, **{"min_length": 2.0, **options}, acceptance=acceptance)


def tracked(by: Tracker, nb: int = 60) -> dict[tuple[float, ...], Tensor]:
    """Return {seed: streamline}, in the order in which they are tracked."""
    found = {}
    for group in by.track(Seeds(MASK, total=nb, seed=3)):
        for seed, line in zip(group.seeds, group.streamlines, strict=True):
            found[tuple(seed.tolist())] = line
    return found


def mean_x(line: Tensor) -> float:
    points, _ = resample_nb_points(line.numpy(), [len(line)], 4, VOXEL_SIZES.numpy())
    return float(points[:, 0].mean())


def test_rejected_streamlines_are_left_out() -> None:
    everything = tracked(tracker())
    some = tracker(Acceptance(LeftOf(7.0)))
    found = tracked(some)
    expected = {seed: line for seed, line in everything.items() if mean_x(line) <= 7.0}
    assert 5 < len(expected) < len(everything) - 5
    assert list(found) == list(expected)
    assert all(torch.equal(found[seed], expected[seed]) for seed in expected)
    counts = some.counts
    assert counts.nb_implausible == len(everything) - len(expected)
    assert counts.nb_kept + counts.nb_too_short + counts.nb_implausible == counts.nb_seeds == counts.nb_attempts == 60
    # A higher plausibility is a smaller limit: the sigmoid of 1 is 0.7311.
    strict = tracked(tracker(Acceptance(LeftOf(7.0), min_plausibility=0.7311)))
    assert list(strict) == [seed for seed, line in everything.items() if mean_x(line) <= 6.0]


def test_rejected_streamlines_are_replaced() -> None:
    once, again = tracker(Acceptance(LeftOf(7.0))), tracker(Acceptance(LeftOf(7.0), max_attempts=5))
    first, found = tracked(once), tracked(again)
    assert len(found) > len(first) + 5
    assert all(torch.equal(found[seed], line) for seed, line in first.items())
    for seed, line in found.items():
        assert mean_x(line) <= 7.0 + 1e-4
        assert (line == torch.tensor(seed)).all(dim=1).any()
    order = [tuple(each.tolist()) for each in Seeds(MASK, total=60, seed=3).points(0, 60)]
    assert list(found) == [seed for seed in order if seed in found]
    counts = again.counts
    assert counts.nb_kept + counts.nb_too_short + counts.nb_implausible == counts.nb_seeds == 60
    left = 60 - len(found)
    assert 60 + 5 * left <= counts.nb_attempts + left < 5 * 60
    assert sum(counts.ends.values()) == 2 * counts.nb_attempts


@pytest.mark.parametrize("forward_only", [False, True])
def test_any_number_at_once_gives_the_same_streamlines(forward_only: bool) -> None:
    acceptance = Acceptance(LeftOf(7.0), max_attempts=4)
    expected = tracked(tracker(acceptance, forward_only=forward_only), nb=20)
    assert len(expected) > 5
    for simultaneous in (1, 7):
        found = tracked(tracker(acceptance, forward_only=forward_only, simultaneous=simultaneous), nb=20)
        assert list(found) == list(expected)
        for seed, line in found.items():
            torch.testing.assert_close(line, expected[seed], atol=0.01, rtol=0)


def test_too_short_streamlines_are_tracked_again() -> None:
    everything = Acceptance(LeftOf(1e6), max_attempts=6)
    once, again = tracker(min_length=6.0), tracker(everything, min_length=6.0)
    first, found = tracked(once), tracked(again)
    assert len(found) > len(first)
    assert set(first) <= set(found)
    assert again.counts.nb_implausible == 0


def test_nothing_is_accepted() -> None:
    by = tracker(Acceptance(LeftOf(-1e6), max_attempts=3))
    (group,) = by.track(Seeds(MASK, total=20, seed=3))
    assert len(group.streamlines) == len(group.seeds) == 0
    assert group.plausibility is not None
    assert group.plausibility.shape == (0,)
    assert by.counts.nb_attempts == 60


def test_the_plausibility_is_that_of_the_model() -> None:
    torch.manual_seed(1)
    classifier = StreamlineClassifierModel(nb_features=3, nb_points=8, neighborhood_type="axes", neighborhood_radius=1)
    by = tracker(Acceptance(classifier, min_plausibility=0.0))
    (group,) = by.track(Seeds(MASK, total=30, seed=3))
    assert not classifier.training
    assert group.plausibility is not None
    where = subject()
    for line, plausibility in zip(group.streamlines, group.plausibility, strict=True):
        points, lengths = resample_nb_points(line.numpy(), [len(line)], 8, VOXEL_SIZES.numpy())
        alone = TensorSequence.from_numpy(points, lengths)
        inputs = interpolate_at(where.volume, alone.data, offsets=classifier.neighborhood_offsets)
        expected = torch.sigmoid(classifier(alone.mapped(inputs), alone))[0]
        torch.testing.assert_close(plausibility, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("nb", [0, 1, 2001])
def test_any_number_is_classified(nb: int) -> None:
    lines = TensorSequence(torch.rand(3 * nb, 3) * 8 + 2, torch.full((nb,), 3))
    found = plausibility_of(LeftOf(7.0), lines, subject().volume, VOXEL_SIZES)
    assert found.shape == (nb,)
    assert found.dtype == torch.float32
    if nb:
        assert float(found[-1]) == pytest.approx(
            float(torch.sigmoid(torch.tensor(7.0 - mean_x(lines[nb - 1])))), abs=1e-5
        )


def test_other_keys_differ() -> None:
    keys = torch.arange(1000) << 32
    sets = [set(other_keys(keys, number).tolist()) for number in range(4)]
    assert sets[0] == set(keys.tolist())
    assert len(set.union(*sets)) == 4000


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Learn2TrackModel does not classify streamlines: it has no plausibility"):
        Acceptance(Learn2TrackModel(nb_features=3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_plausibility must be a number from 0 to 1, got 2"):
        Acceptance(LeftOf(1.0), min_plausibility=2)
    with pytest.raises(ValueError, match="max_attempts must be a whole number of at least 1, got 0"):
        Acceptance(LeftOf(1.0), max_attempts=0)
    with pytest.raises(ValueError, match="max_attempts is 2, but algo 'det' gives the same streamline in each attempt"):
        tracker(Acceptance(LeftOf(1.0), max_attempts=2), algo="det")
    other = LeftOf(1.0)
    other.nb_features = 5
    with pytest.raises(ValueError, match="The classifier was trained on 5 features per voxel, but the volume has 3"):
        tracker(Acceptance(other))


def test_a_classifier_without_a_number_of_points_or_in_another_space() -> None:
    class NoPoints(LeftOf):
        nb_points = None  # type: ignore[assignment]

    class InScanner(LeftOf):
        streamlines_space = "rasmm"

    class Incomplete(LeftOf):
        @property
        def neighborhood_offsets(self) -> None:  # type: ignore[override]
            raise AttributeError("neighborhood_offsets")

    with pytest.raises(ValueError, match=r"nb_points of the classifier \(NoPoints\) must be a whole number"):
        Acceptance(NoPoints(1.0))
    with pytest.raises(ValueError, match="InScanner receives scanner space"):
        Acceptance(InScanner(1.0))
    with pytest.raises(ValueError, match="it has no neighborhood_offsets"):
        Acceptance(Incomplete(1.0))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda p: torch.where(torch.arange(len(p)) == 3, torch.nan, p), "it is nan for streamline 3"),
        (lambda p: p + 1, r"it is 1\.\d+ for streamline 0"),
        (lambda p: p[:, None], r"shape \(6,\), from 0 to 1; got \(6, 1\)"),
    ],
)
def test_what_is_not_a_probability_is_refused(wrong: Any, sentence: str) -> None:
    class Wrong(LeftOf):
        def plausibility(self, outputs: Tensor) -> Tensor:
            return wrong(super().plausibility(outputs))

    lines = TensorSequence(torch.rand(18, 3) * 8 + 2, torch.full((6,), 3))
    with pytest.raises(ValueError, match=sentence):
        plausibility_of(Wrong(7.0), lines, subject().volume, VOXEL_SIZES)


def test_the_classifier_receives_batches_on_its_device() -> None:
    sizes: list[int] = []

    class Elsewhere(LeftOf):
        device = torch.device("meta")

        def __call__(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
            assert inputs.device.type == streamlines.device.type == "meta"
            sizes.append(len(streamlines))
            return torch.zeros(len(streamlines))

    lines = TensorSequence(torch.rand(30, 3) * 8 + 2, torch.full((10,), 3))
    told: list[int] = []
    found = plausibility_of(Elsewhere(7.0), lines, subject().volume, VOXEL_SIZES, batch_size=4, on_progress=told.append)
    assert found.tolist() == [0.5] * 10
    assert sizes == told == [4, 4, 2]


def test_a_streamline_of_one_point() -> None:
    torch.manual_seed(1)
    classifier = StreamlineClassifierModel(nb_features=3, nb_points=8).eval()
    lines = TensorSequence(torch.rand(4, 3) * 8 + 2, torch.tensor([1, 3]))
    found = plausibility_of(classifier, lines, subject().volume, VOXEL_SIZES)
    assert found.shape == (2,)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("places", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_model_and_classifier_on_any_devices(places: tuple[str, str]) -> None:
    found = []
    for model_place, classifier_place in (("cpu", "cpu"), places):
        torch.manual_seed(5)
        model = Learn2TrackModel(nb_features=3, rnn_layer_sizes=(12,), nb_previous_dirs=1).to(model_place)
        classifier = StreamlineClassifierModel(nb_features=3, nb_points=8).to(classifier_place)
        rules = PropagationRules(step_size=0.6, theta=80.0, max_length=12.0)
        by = Tracker(model, subject(), rules, min_length=2.0, acceptance=Acceptance(classifier, min_plausibility=0.0))
        (group,) = by.track(Seeds(MASK, total=30, seed=3))
        assert group.plausibility is not None
        found.append(group.plausibility.cpu())
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=0)
