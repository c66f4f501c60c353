"""The largest memory of the process and on its GPU."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from dwiml.training.reporting.metrics import GPU_MEMORY, MEMORY


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the largest memory so far by its names in the log, in MB (1e6 bytes).

    Parameters
    ----------
    device
        Device of the model. For a GPU, the result also has what torch has allocated there at most since
        :func:`forget_peak`.
    """
    found = {MEMORY: peak_bytes() / 1e6}
    if device.type == "cuda":
        found[GPU_MEMORY] = torch.cuda.max_memory_allocated(device) / 1e6
    return found


def forget_peak(device: torch.device) -> None:
    """Start to measure the memory on a GPU again; that of the process is measured from its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes() -> int:
    """Return the largest resident memory of this process since it started, in bytes, without its loader processes."""
    # The system's count for getrusage begins with the memory of the process that started this one.
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
