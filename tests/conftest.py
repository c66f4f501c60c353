"""Fixtures that any test may use; what they are made with is in tests/support."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests_support import write_hdf5

# A shell's background job and nohup begin with signals ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nothing_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test's call of seed_everything end with the test."""
    monkeypatch.setattr("dwiml.seeding._global_seed", None)


@pytest.fixture(scope="session")
def tiny_hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training subjects (30, 20 and 10 streamlines), one validation subject (12), one testing subject (5)."""
    path = tmp_path_factory.mktemp("data") / "tiny.hdf5"
    return write_hdf5(path, {"sub-a": 30, "sub-b": 20, "sub-c": 10}, {"sub-d": 12}, {"sub-e": 5})
