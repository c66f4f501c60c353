"""Progress of a long loop: a bar on a terminal, plain lines elsewhere (a log file, a cluster job)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield the items; say how far the loop is, every tenth of the way when there is no terminal."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label)
        return
    told = 0
    for done, item in enumerate(items, start=1):
        yield item
        tenth = 10 * done // len(items)
        if tenth > told:
            told = tenth
            print(f"{label}: {10 * tenth}%", flush=True)
