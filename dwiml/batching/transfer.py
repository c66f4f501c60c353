"""From the loader to the model's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from dwiml.batching.delivery import delivered
from dwiml.batching.fetcher import BatchSlices
from dwiml.ops.sequences import TensorSequence


def on_device(
    batches: Iterable[tuple[TensorSequence, BatchSlices]], device: torch.device
) -> Iterator[tuple[TensorSequence, BatchSlices]]:
    """Give batches on a device.

    To a GPU they go from page-locked memory on a stream of their own: the copy of a batch overlaps with the step
    before, which the GPU is still working at when the next batch is asked for. Nothing waits on the host.

    Parameters
    ----------
    batches
        On the CPU, in ordinary memory.
    device
        The model's.
    """
    if device.type != "cuda":
        for streamlines, ids_per_subj in delivered(batches):
            yield streamlines.to(device), ids_per_subj.to(device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for streamlines, ids_per_subj in delivered(batches):
        with torch.cuda.stream(copying):
            streamlines = streamlines.pin_memory().to(device, non_blocking=True)
            ids_per_subj = ids_per_subj.pin_memory().to(device, non_blocking=True)
        working = torch.cuda.current_stream(device)
        working.wait_stream(copying)
        for tensor in (streamlines.data, *ids_per_subj.data_per_streamline.values()):
            # Its memory may be used again only once the work that reads it is done.
            tensor.record_stream(working)
        yield streamlines, ids_per_subj
