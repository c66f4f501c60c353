"""The files that fuzzed command lines read."""

from __future__ import annotations

from pathlib import Path

import command_lines
import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid files and odd ones."""
    command_lines.import_all()
    folder = tmp_path_factory.mktemp("fuzzed")
    command_lines.make(folder)
    return folder
