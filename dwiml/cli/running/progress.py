"""Show the progress of a command: a bar in a terminal, otherwise a line every minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def progress_bar(title: str, total: int | None, *, unit: str = "streamline") -> Iterator[Callable[[int], None]]:
    """Show progress on standard error while the context lasts.

    Parameters
    ----------
    title
        Name of the work.
    total
        Total number of items; None if unknown.
    unit
        Name of an item, in the singular.

    Yields
    ------
    Callable
        Function to call with the number of items finished since the last call.
    """
    from tqdm import tqdm

    last_line, nb_done = time.perf_counter(), 0
    with tqdm(total=total, desc=title, unit=unit, leave=False, disable=not sys.stderr.isatty()) as bar:

        def advance(nb: int) -> None:
            nonlocal last_line, nb_done
            bar.update(nb)
            nb_done += nb
            if bar.disable and time.perf_counter() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.perf_counter()
                print(f"{title}: {nb_done}{'' if total is None else f' of {total}'} {unit}s", file=sys.stderr)

        yield advance
