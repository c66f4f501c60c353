"""NumPy multiplies with one thread in a block, and with as many as before after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dwiml import blas_threads

PROGRAM = """
import numpy
from dwiml import blas_threads

tell = lambda: [get() for get, _ in blas_threads._functions()]
before = tell()
try:
    with blas_threads.one_blas_thread():
        inside = tell()
        raise KeyError
except KeyError:
    print(before, inside, tell())
"""


def test_one_thread_in_the_block_and_as_many_as_before_after_it(monkeypatch):
    if not blas_threads._functions():
        pytest.skip("NumPy is not built with OpenBLAS, or this is not Linux")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # No more than there are cores.
    nb = 1 if "[1] [1] [1]" in done.stdout else 2
    assert done.stdout == f"[{nb}] [1] [{nb}]\n"


def test_without_a_list_of_libraries_it_does_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(blas_threads, "_MAPS", tmp_path / "absent")
    assert blas_threads._functions() == []
    with blas_threads.one_blas_thread():
        pass


def test_a_library_that_is_gone_is_left_out(monkeypatch, tmp_path):
    (tmp_path / "maps").write_text(f"7f0-7f1 r-xp 00000000 fe:00 1 {tmp_path / 'my openblas.so'} (deleted)\n7f2-7f3\n")
    monkeypatch.setattr(blas_threads, "_MAPS", Path(tmp_path / "maps"))
    assert blas_threads._functions() == []
