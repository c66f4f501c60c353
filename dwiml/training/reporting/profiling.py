"""Measuring how the time of a step is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepProfiler:
    """Sums the time of each part of a step; the time of a nested part is not counted for the outer one.

    Parameters
    ----------
    device
        Device to wait for at the start and end of each part.
    enabled
        Whether to measure; if not, a part costs nothing.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self._device = device
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        if not self.enabled:
            yield
            return
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def report(self, phase: str, nb_batches: int) -> str:
        """Return a table of the time of each part since the last report, and reset; ``phase`` is its title."""
        total = sum(self._seconds.values())
        lines = [f"{'Time of ' + phase:24} {'ms/batch':>10} {'share':>6}"]
        for name, seconds in sorted(self._seconds.items(), key=lambda item: -item[1]):
            share = seconds / max(total, 1e-12)
            lines.append(f"  {name:22} {seconds * 1e3 / max(nb_batches, 1):10.1f} {share:6.1%}")
        self._seconds.clear()
        return "\n".join(lines)
