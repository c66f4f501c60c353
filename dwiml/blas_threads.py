"""Limit the threads with which NumPy multiplies matrices, while other processes use the other cores."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The libraries of a process, where the system lists them.
_MAPS = Path("/proc/self/maps")
# OpenBLAS, and the names that it has in the wheels of NumPy and SciPy.
_GET_AND_SET = [
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("", "scipy_")
    for suffix in ("", "64_")
]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have OpenBLAS use one thread in the block, in all threads of this process.

    With more threads than free cores, they wait for each other, which takes longer than the work. On systems other than
    Linux, and for other libraries, this has no effect; the environment variable ``OMP_NUM_THREADS=1`` has.
    """
    before = [(set_threads, get_threads()) for get_threads, set_threads in _functions()]
    try:
        for set_threads, _ in before:
            set_threads(1)
        yield
    finally:
        for set_threads, nb in before:
            set_threads(nb)


def _functions() -> list[tuple[Callable[[], int], Callable[[int], object]]]:
    """Return the functions that tell and change the number of threads, of each OpenBLAS that is loaded."""
    found: list[tuple[Callable[[], int], Callable[[int], object]]] = []
    with suppress(OSError):
        mapped = [line.split(maxsplit=5)[-1] for line in _MAPS.read_text(errors="replace").splitlines()]
        for path in sorted({path for path in mapped if "blas" in Path(path).name}):
            # One that was deleted since it was loaded, for instance.
            with suppress(OSError):
                library = ctypes.CDLL(path)
                for get_name, set_name in _GET_AND_SET:
                    if hasattr(library, get_name) and hasattr(library, set_name):
                        found.append((getattr(library, get_name), getattr(library, set_name)))
    return found
