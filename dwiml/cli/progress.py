"""How far a command is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def counted(title: str, total: int | None, *, unit: str = "streamline") -> Iterator[Callable[[int], None]]:
    """Give what is told how many more are done.

    Parameters
    ----------
    title
        What is being done.
    total
        How many there are; None where that is not known.
    unit
        Of what, one of them.
    """
    from tqdm import tqdm

    last_line, done = time.perf_counter(), 0
    with tqdm(total=total, desc=title, unit=unit, leave=False, disable=not sys.stderr.isatty()) as bar:

        def count(nb: int) -> None:
            nonlocal last_line, done
            bar.update(nb)
            done += nb
            if bar.disable and time.perf_counter() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.perf_counter()
                print(f"{title}: {done}{'' if total is None else f' of {total}'} {unit}s", file=sys.stderr)

        yield count
