"""Check that data fit in the memory of the machine before memory is allocated."""

from __future__ import annotations

import os


def machine_memory() -> int | None:
    """Return the memory of this machine, or the limit of the job's control group, in bytes; None if unknown."""
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
        Size of the data, in bytes.
    what
        Description of the data, the beginning of the error message.

    Raises
    ------
    MemoryError
        If they do not fit.
    """
    memory = machine_memory()
    if memory is not None and nb_bytes > memory:
        raise MemoryError(
            f"{what} would need {nb_bytes / 1e9:.1f} GB of memory; this machine has {memory / 1e9:.1f} GB"
        )
