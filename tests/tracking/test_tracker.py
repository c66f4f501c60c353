"""From seeds to streamlines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.tracker import Tracker, TrackingSubject

SHAPE = (14, 12, 10)
VOXEL_SIZES = torch.tensor([1.0, 1.5, 2.0])
MASK = torch.zeros(SHAPE, dtype=torch.bool)
MASK[2:-2, 2:-2, 2:-2] = True


def network(**options: Any) -> Learn2TrackModel:
    torch.manual_seed(5)
    return Learn2TrackModel(nb_features=3, rnn_layer_sizes=(12,), nb_previous_dirs=1, **options)


def subject(mask: torch.Tensor | None = MASK) -> TrackingSubject:
    volume = torch.randn(*SHAPE, 3, generator=torch.Generator().manual_seed(1))
    return TrackingSubject(volume, VOXEL_SIZES, mask)


def rules(**options: Any) -> PropagationRules:
    return PropagationRules(**{"step_size": 0.6, "theta": 80.0, "max_length": 12.0, **options})


def seeds(nb: int = 50) -> Seeds:
    return Seeds(MASK, total=nb, seed=3)


def tracked(tracker: Tracker, where: Seeds) -> tuple[list[torch.Tensor], torch.Tensor]:
    groups = list(tracker.track(where))
    return [line for group in groups for line in group.streamlines], torch.cat([group.seeds for group in groups])


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("algo", "key"),
    [
        ("prob", "fisher-von-mises"),
        ("det", "sphere-classification"),
        ("prob", "sphere-classification"),
        ("prob", "gaussian-mixture"),
    ],
)
def test_any_number_at_once_gives_the_same_streamlines(algo: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(dg_key=key, dg_args={"sphere": "repulsion100"} if "sphere" in key else {})
    all_at_once, begun = tracked(Tracker(model, subject(), rules(algo=algo), min_length=3), seeds())
    assert len(all_at_once) > 10
    for simultaneous in (1, 7):
        tracker = Tracker(model, subject(), rules(algo=algo), min_length=3, simultaneous=simultaneous)
        # The way back in several groups, too.
        monkeypatch.setattr(tracker, "_points_at_once", 25)
        lines, where = tracked(tracker, seeds())
        assert torch.equal(where, begun)
        for line, expected in zip(lines, all_at_once, strict=True):
            torch.testing.assert_close(line, expected, atol=0.01, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["det", "prob"])
def test_five_thousand_at_once_are_those_of_a_hundred_and_of_one(algo: str) -> None:
    torch.manual_seed(2)
    key = {"det": "cosine-regression", "prob": "sphere-classification"}[algo]
    model = Learn2TrackModel(nb_features=3, rnn_layer_sizes=(64, 64), nb_previous_dirs=1, dg_key=key)
    shape = (40, 40, 40)
    volume = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8, 8), size=shape, mode="trilinear")[0]
    where = TrackingSubject(volume.movedim(0, -1).contiguous(), torch.tensor([1.0, 1.2, 0.9]), None)
    whole = torch.ones(shape, dtype=torch.bool)

    def lines(nb: int, simultaneous: int) -> list[torch.Tensor]:
        tracker = Tracker(model, where, rules(algo=algo), min_length=0, simultaneous=simultaneous)
        found, _ = tracked(tracker, Seeds(whole, total=nb, seed=4))
        return found

    reference = lines(5000, 5000)
    assert np.mean([len(line) for line in reference]) > 10
    for nb, simultaneous in ((5000, 100), (300, 1)):
        others = lines(nb, simultaneous)
        differing = sum(
            len(line) != len(other) or not torch.allclose(line, other, atol=0.01, rtol=0)
            for line, other in zip(reference, others, strict=False)
        )
        # A threshold that is met to the last digit.
        assert differing < 0.005 * nb


def test_streamlines_go_through_their_seeds_one_step_after_the_other() -> None:
    # Untrained, a model gives one direction, whatever it has seen: its opposite is as good.
    tracker = Tracker(network(), subject(), rules(antipodal=True), min_length=2.0)
    lines, where = tracked(tracker, seeds())
    for line, seed in zip(lines, where, strict=True):
        steps = torch.linalg.vector_norm(line.diff(dim=0) * VOXEL_SIZES, dim=1)
        torch.testing.assert_close(steps, torch.full_like(steps, 0.6), atol=1e-4, rtol=0)
        assert (line == seed).all(dim=1).any()
        assert 2.0 - 1e-3 < steps.sum() < 12.0 + 1e-3
    counts = tracker.counts
    assert (counts.nb_seeds, counts.nb_kept, counts.nb_too_short) == (50, len(lines), 50 - len(lines))
    assert sum(counts.ends.values()) == 100
    antipodal = sum(bool((line[1:-1] == seed).all(dim=1).any()) for line, seed in zip(lines, where, strict=True))
    assert antipodal > len(lines) / 2


def test_forward_only_begins_at_the_seeds() -> None:
    tracker = Tracker(network(), subject(), rules(), min_length=0, forward_only=True)
    lines, where = tracked(tracker, seeds())
    assert all(torch.equal(line[0], seed) for line, seed in zip(lines, where, strict=True))
    assert sum(tracker.counts.ends.values()) == 50
    assert all(len(line) > 1 for line in lines)


class Straight:
    """Always along x."""

    nb_features, nb_points_to_track, neighborhood_offsets, input_size = 3, 1, None, 3
    device = torch.device("cpu")

    def eval(self) -> Straight:
        return self

    def parameters(self) -> list[torch.Tensor]:
        return []

    def check_tracking(self, *_: Any) -> None: ...

    def track_step(self, inputs: TensorSequence, *_: Any) -> tuple[torch.Tensor, None]:
        return torch.tensor([[1.0, 0, 0]]).repeat(len(inputs), 1), None

    def select_memory(self, *_: Any) -> None: ...

    def get_tracking_directions(self, outputs: torch.Tensor, *_: Any) -> torch.Tensor:
        return outputs


def test_where_the_first_step_leaves_the_mask_the_other_way_is_taken() -> None:
    last_plane = torch.zeros(SHAPE, dtype=torch.bool)
    last_plane[-3, 5, 5] = True
    where = Seeds(last_plane, per_voxel=1, placement="center")
    tracker = Tracker(Straight(), subject(), rules(theta=20.0, step_size=1.0, antipodal=True), min_length=0)
    (line,), _ = tracked(tracker, where)
    # From the mask's last plane to its first one.
    expected = torch.arange(2.5, 12).flip(0)
    torch.testing.assert_close(line, torch.stack([expected, *torch.full((2, 10), 5.5)], dim=1))


def test_short_ones_are_left_out_and_counted() -> None:
    tracker = Tracker(network(), subject(), rules(), min_length=12.0)
    lines, _ = tracked(tracker, seeds())
    assert tracker.counts.nb_too_short == 50 - len(lines) > 0
    assert tracker.counts.as_dict()["nb_too_short"] == tracker.counts.nb_too_short


def test_no_streamline_is_kept() -> None:
    nowhere = torch.zeros(SHAPE, dtype=torch.bool)
    tracker = Tracker(network(), subject(nowhere), rules())
    lines, where = tracked(tracker, seeds(5))
    assert (lines, tuple(where.shape)) == ([], (0, 3))
    assert tracker.counts.as_dict()["ends"]["mask"] == 10


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_length \(20 mm\) is above max_length \(12 mm\)"):
        Tracker(network(), subject(), rules(), min_length=20)
    with pytest.raises(ValueError, match="gives one direction, so it needs algo='det', got 'prob'; the direction"):
        Tracker(network(), subject(), rules(algo="prob"))
    with pytest.raises(ValueError, match="trained on 3 features per voxel, but the volume has 2"):
        Tracker(network(), TrackingSubject(torch.zeros(*SHAPE, 2), VOXEL_SIZES), rules())
    with pytest.raises(ValueError, match="simultaneous must be"):
        Tracker(network(), subject(), rules(), simultaneous=0)


def test_the_number_at_once_follows_the_memory() -> None:
    small, large = (Tracker(network(), subject(), rules(max_length=length)).simultaneous for length in (12.0, 5e4))
    assert 1 <= large <= small <= 5_000
