"""Keep freed memory in the process: on the CPU, a third of a training step may go into asking for it again."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have the C library keep what torch frees, for the next step.

    A training step frees tensors of tens of MB and the next one asks for the same again. By default glibc gives such
    blocks back to the system, which has to hand out zeroed pages anew: for Learn2Track (2 x 256 GRU, 500 streamlines)
    480 000 page faults a step, a third of the processor time. Afterwards the process keeps its peak memory until it
    ends. It holds for the whole process, so it is for a program that trains on the CPU, not for a library's import.

    Returns
    -------
    bool
        Whether it was done: only with glibc (Linux); elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Never by mmap, which gives every block back when freed; never trim the heap's top.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
