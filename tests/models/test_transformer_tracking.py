"""Transformers during tracking: cached steps are the whole forward pass, and no value is copied often."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_transformers import CONFIGURATIONS, KINDS, batch, small
from torch import Tensor

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    MultiSubjectDataset,
    check_track_step,
)
from dwiml.batching.lengths import length_warnings, longest_streamline
from dwiml.models.transformers.cache import KeyValueMemory
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.tracker import Tracker, TrackingSubject, _bytes_per_point

Visit = Callable[[KeyValueMemory, Tensor], None]


def check_steps(
    model: Any, lengths: list[int], firsts: list[int], device: str = "cpu", visit: Visit | None = None
) -> None:
    """Continue streamlines from first segments, each to its own length, and compare with the whole forward pass."""
    inputs, lines = (part.to(device) for part in batch(lengths))
    with torch.no_grad():
        expected = lines.mapped(model(inputs, lines))
    nb = torch.tensor(firsts)
    alive = torch.arange(len(lengths))
    outputs, memory = model.track_step(inputs.head(nb), lines.head(nb), None)
    while True:
        wanted = expected.select(alive).head(nb[alive]).last_points()
        torch.testing.assert_close(outputs, wanted, rtol=0, atol=1e-5)
        kept = (nb[alive] < lines.lengths[alive]).nonzero()[:, 0]
        if not len(kept):
            return
        memory = model.select_memory(memory, kept.to(device))
        alive = alive[kept]
        nb[alive] += 1
        so_far = lines.select(alive).head(nb[alive])
        new_inputs = inputs.select(alive).head(nb[alive]).tail(1)
        outputs, memory = model.track_step(new_inputs, so_far.tail(max(model.nb_points_to_track, 2)), memory)
        if visit is not None:
            visit(memory, nb[alive])


@pytest.mark.parametrize("options", CONFIGURATIONS)
@pytest.mark.parametrize(
    ("lengths", "firsts"),
    [([9, 9, 9], [1, 1, 1]), ([30, 3, 40, 12, 1, 25, 20, 33], [5, 1, 2, 12, 1, 24, 1, 30]), ([40, 33], [1, 32])],
)
def test_cached_steps_are_the_whole_forward_pass(
    options: dict[str, Any], lengths: list[int], firsts: list[int]
) -> None:
    check_steps(small(**options).eval(), lengths, firsts)


@pytest.mark.parametrize("kind", KINDS)
def test_tracking_is_checked_as_for_any_model(kind: str) -> None:
    check_track_step(small(kind, dropout=0.5).train())


@pytest.mark.gpu
@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_cached_steps_on_the_gpu(options: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check_steps(small(**options).eval().cuda(), [30, 3, 40, 12, 1], [5, 1, 2, 12, 1], "cuda")


def test_buffers_double_and_lose_the_rows_of_ended_streamlines() -> None:
    places: list[int] = []

    def visit(memory: KeyValueMemory, lengths: Tensor) -> None:
        (buffer, *_) = memory.buffers.values()
        _, nb_rows, _, nb_columns, _ = buffer.shape
        assert memory.lengths.tolist() == lengths.tolist()
        assert nb_rows * 0.75 <= len(lengths)
        assert memory.nb_columns <= nb_columns <= max(2 * memory.nb_columns, 20)
        places.append(buffer.data_ptr())

    lengths = [*range(2, 130, 4), *[130] * 8]
    check_steps(small("src-only").eval(), lengths, [1] * len(lengths), visit=visit)
    moves = sum(before != after for before, after in pairwise(places))
    # 4 times doubled; 40 streamlines become 8 in steps of a quarter.
    assert moves <= 12 < len(places) // 8


def test_columns_of_long_ended_streamlines_are_left() -> None:
    last: list[int] = []
    model = small("src-and-tgt", max_len=64).eval()
    # The streamline of 60 points ends at once; the others would otherwise reach column 60 + 60.
    check_steps(model, [61, 61, 61], [60, 2, 2], visit=lambda memory, _: last.append(memory.nb_columns))
    assert last[-1] == 61


def test_a_memory_takes_no_part_in_later_steps() -> None:
    model = small("src-tgt-concat").eval()
    inputs, lines = batch([6, 6])
    _, memory = model.track_step(inputs.head(4), lines.head(4), None)
    again = [model.track_step(inputs.head(5).tail(1), lines.head(5).tail(2), memory)[0] for _ in range(2)]
    assert torch.equal(*again)


def test_more_points_than_max_len_in_a_step() -> None:
    model = small("src-only", max_len=5).eval()
    inputs, lines = batch([6, 6])
    _, memory = model.track_step(inputs.head(5), lines.head(5), None)
    with pytest.raises(ValueError, match=r"^A streamline has 6 points; this model takes at most 5 \(max_len\)"):
        model.track_step(inputs.tail(1), lines.tail(2), memory)


def test_more_points_than_max_len_is_told_before_tracking() -> None:
    subject = TrackingSubject(torch.zeros(4, 4, 4, 4), torch.ones(3))
    model = small("src-only", max_len=100)
    sentence = (
        "max_length (50 mm) in steps of 0.5 mm makes up to 101 points a streamline; the model takes at most 100 "
        "(max_len): choose a smaller max_length, or a larger step_size."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Tracker(model, subject, PropagationRules(step_size=0.5, max_length=50.0))
    Tracker(model, subject, PropagationRules(step_size=0.5, max_length=49.5))


def test_memory_limits_how_many_are_tracked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwiml.tracking.tracker._points_that_fit", lambda model: 100_000)
    subject = TrackingSubject(torch.zeros(4, 4, 4, 4), torch.ones(3))
    rules = PropagationRules(step_size=0.5, max_length=49.5)
    model = small("src-only", nb_layers_encoder=8)
    at_once = Tracker(model, subject, rules).simultaneous
    fits = 100_000 * _bytes_per_point(model) / (rules.max_steps * model.tracking_bytes_per_point)
    assert 0.8 * fits < at_once < fits


def test_more_points_than_max_len_is_told_before_training(tiny_hdf5: Path, tmp_path: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data()
    longest = longest_streamline(dataset, "streamlines", small("src-only"))
    assert longest is not None
    # The last point gives no direction, so the model does not receive it.
    fits = small("src-only", nb_features=dataset.nb_features["input"], max_len=longest.nb_points - 1)
    assert length_warnings(dataset, "streamlines", fits) == []
    model = small("src-only", nb_features=dataset.nb_features["input"], max_len=longest.nb_points - 2)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines")
    loader = DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines")
    sentence = (
        f"Streamline {longest.number} of subject '{longest.subject_id}' gives the model {longest.nb_points - 1} "
        f"points; it takes at most {longest.nb_points - 2} (max_len): give the model a larger max_len, or a larger "
        "step_size (mm)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        DWIMLTrainerOneInput(model, tmp_path, "exp", sampler, loader)
    assert not (tmp_path / "exp").exists()
    compressing = small("src-only", max_len=longest.nb_points - 2, compress_lines=0.1)
    assert length_warnings(dataset, "streamlines", compressing) == []
