"""Fixtures that any test may use; what they are made with is in tests/support."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from tests_support import write_hdf5

# A shell's background job and nohup begin with signals ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the parameter sets of a test after its ``first(number)`` be slow."""
    seen: Counter[str] = Counter()
    for item in items:
        marker = item.get_closest_marker("first")
        if marker is not None and item.get_closest_marker("slow") is None:
            name = item.nodeid.partition("[")[0]
            seen[name] += 1
            if seen[name] > marker.args[0]:
                item.add_marker("slow")


@pytest.fixture(autouse=True)
def nothing_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test's call of seed_everything end with the test."""
    monkeypatch.setattr("dwiml.seeding._global_seed", None)


@pytest.fixture(scope="session")
def tiny_hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training subjects (30, 20 and 10 streamlines), one validation subject (12), one testing subject (5)."""
    path = tmp_path_factory.mktemp("data") / "tiny.hdf5"
    return write_hdf5(path, {"sub-a": 30, "sub-b": 20, "sub-c": 10}, {"sub-d": 12}, {"sub-e": 5})


@pytest.fixture(scope="session")
def phantom_hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated subjects: sub-01 for training, sub-02 (anisotropic) for validation, sub-03 (oblique) for testing."""
    from dwiml.hdf5.creator import create_hdf5
    from dwiml.phantom.create import create_phantom

    root = tmp_path_factory.mktemp("simulated") / "phantom"
    create_phantom(root, nb_subjects=3, size="small")
    lists = [root / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(root / "subjects", root / "data.hdf5", root / "config.json", *lists)
    return root / "data.hdf5"
