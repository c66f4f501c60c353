"""Keeping freed memory in the process: on the CPU, reallocating it may take a third of a training step."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make the C library keep the memory that torch frees, for the next step.

    A training step frees tensors of tens of MB, and the next step allocates as much again. By default, glibc returns
    such blocks to the system, which then provides zeroed pages: for Learn2Track (2 x 256 GRU, 500 streamlines), 480 000
    page faults per step, a third of the processor time. With this setting, the process keeps its peak memory until it
    ends. It applies to the whole process (``mallopt``, glibc manual, "Malloc Tunable Parameters"): a program that
    trains on the CPU should call this function; importing a library should not.

    Returns
    -------
    bool
        Whether the setting was made, which needs glibc (Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # No mmap, which returns every block when freed; no trimming of the top of the heap.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
