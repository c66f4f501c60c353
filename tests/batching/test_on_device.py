from __future__ import annotations

import pytest
import torch

from dwiml import TensorSequence
from dwiml.batching.fetcher import BatchSlices, on_device
from dwiml.ops.randomness import BatchKey


def some_batches(nb: int) -> list[tuple[TensorSequence, BatchSlices]]:
    return [
        (
            TensorSequence(torch.full((1000, 3), float(i)), torch.tensor([400, 600])),
            BatchSlices({0: slice(0, 2)}, BatchKey("training", 0, i), {"id": torch.full((2, 1), float(i))}),
        )
        for i in range(nb)
    ]


def test_on_the_cpu_batches_are_not_copied() -> None:
    batches = some_batches(3)
    for (moved, slices), (original, original_slices) in zip(
        on_device(batches, torch.device("cpu")), batches, strict=True
    ):
        assert moved.data.data_ptr() == original.data.data_ptr()
        assert slices == original_slices
        assert slices.key == original_slices.key
        assert torch.equal(slices.data_per_streamline["id"], original_slices.data_per_streamline["id"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_each_batch_is_complete() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    means = []
    for i, (moved, slices) in enumerate(on_device(some_batches(50), device)):
        assert moved.device == slices.data_per_streamline["id"].device == device
        assert slices.key.batch_index == i
        work = torch.randn(2000, 2000, device=device)
        means.append((moved.data.mean() + (work @ work).sum() * 0, slices.data_per_streamline["id"].mean()))
    assert [float(mean) for mean, _ in means] == [float(rows) for _, rows in means] == list(range(50))
