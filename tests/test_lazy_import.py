"""``import dwiml`` and every command's help load none of the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dwiml.cli.main import COMMANDS

HEAVY = ["torch", "comet_ml", "matplotlib", "h5py", "nibabel", "dipy", "scipy"]

# Runs the code given, then says which heavy libraries it loaded.
PROBE = """
import sys
try:
    exec(sys.argv[1])
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *(name for name in {heavy!r} if name in sys.modules))
"""


def loaded_by(code: str) -> tuple[list[str], str]:
    """Return the heavy libraries that a fresh interpreter holds after `code`, and what it printed before."""
    command = [sys.executable, "-W", "error", "-c", PROBE.format(heavy=HEAVY), code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    printed, _, names = done.stdout.rpartition("loaded:")
    return names.split(), printed


def test_the_probe_sees_a_heavy_library() -> None:
    assert "h5py" in loaded_by("import h5py")[0]


def test_import_is_light() -> None:
    assert loaded_by("import dwiml; dwiml.__version__; dir(dwiml)")[0] == []


def test_help_of_dwiml_is_light() -> None:
    loaded, printed = loaded_by("from dwiml.cli.main import main; main(['--help'])")
    assert loaded == []
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_light(command: str) -> None:
    loaded, printed = loaded_by(f"from dwiml.cli.main import main; main([{command!r}, '--help'])")
    assert loaded == []
    assert printed.startswith("usage:")
