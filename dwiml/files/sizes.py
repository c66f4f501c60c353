"""Sizes that a file announces: what does not fit in the memory of this machine is refused before it is allocated."""

from __future__ import annotations

import os


def machine_memory() -> int | None:
    """Return the memory of this machine, or what the control group of this job allows, in bytes; None: unknown."""
    sizes = []
    if hasattr(os, "sysconf"):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as stream:
                sizes.append(int(stream.read()))
        except (OSError, ValueError):
            continue
    return min((size for size in sizes if size > 0), default=None)


def check_memory(nb_bytes: int, what: str) -> None:
    """Check that a number of bytes fits in the memory of this machine.

    Parameters
    ----------
    nb_bytes
        As a file announces them.
    what
        Whose they are, for the sentence.

    Raises
    ------
    MemoryError
        When they are.
    """
    memory = machine_memory()
    if memory is not None and nb_bytes > memory:
        raise MemoryError(
            f"{what} would take {nb_bytes / 1e9:,.1f} GB of memory; this machine has {memory / 1e9:,.1f} GB"
        )
