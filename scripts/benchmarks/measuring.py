"""How the benchmarks measure: the least of some repeats, in turns with a baseline, and what the memory delivers."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

Work = Callable[[], object]

CPU = torch.device("cpu")


@dataclass
class Figure:
    """One line of the table: a speed beside a baseline's.

    Attributes
    ----------
    name, unit
        What was measured.
    value, baseline
        Speeds, in that unit.
    baseline_name
        What the baseline does.
    peak_mb
        Most memory that the process had in RAM before the baseline ran, torch itself included (MB).
    bytes_each
        Bytes that one unit (a point) has to read and write; None where memory was not looked at, as the next two.
    bandwidth
        Bytes that a copy of a large array reads and writes in a second, in the same process.
    bandwidth_share
        ``value * bytes_each / bandwidth``.
    """

    name: str
    value: float
    unit: str
    baseline: float
    baseline_name: str
    peak_mb: float
    bytes_each: int | None = None
    bandwidth: float | None = None

    @property
    def bandwidth_share(self) -> float | None:
        """The bytes moved in a second, as a share of what a copy moves."""
        if self.bytes_each is None or self.bandwidth is None:
            return None
        return self.value * self.bytes_each / self.bandwidth

    def as_json(self) -> dict[str, Any]:
        """Return the object of the JSON file."""
        return {**asdict(self), "ratio": self.value / self.baseline, "bandwidth_share": self.bandwidth_share}


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Work, device: torch.device = CPU) -> float:
    """Return how long a piece of work takes."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def peak_mb(device: torch.device = CPU) -> float:
    """Return the most memory that this process has had: in RAM, or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def compare(
    work: Work, baseline: Work, *, repeats: int, baseline_repeats: int, device: torch.device = CPU
) -> tuple[float, float, float]:
    """Time a piece of work and its baseline.

    The work runs once alone, for the memory; then both take turns, so that whatever else the machine does slows them
    alike.

    Returns
    -------
    seconds, baseline_seconds, peak
        The least of the repeats of each, and the memory (MB).
    """
    work()
    peak = peak_mb(device)
    best = best_baseline = float("inf")
    for repeat in range(max(repeats, baseline_repeats)):
        if repeat < repeats:
            best = min(best, seconds_of(work, device))
        if repeat < baseline_repeats:
            best_baseline = min(best_baseline, seconds_of(baseline, device))
    return best, best_baseline, peak


def copy_bandwidth(device: torch.device, nb_bytes: int = 2**28) -> float:
    """Return the bytes that a copy of a large array reads and writes in a second."""
    source = torch.ones(nb_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * nb_bytes / min(seconds_of(lambda: target.copy_(source), device) for _ in range(6))
