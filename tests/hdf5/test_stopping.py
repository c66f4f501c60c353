"""``dwiml create_hdf5`` at a signal: it is gone within seconds, and an older file stays; nothing else is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import importlib, sys, time

module, _, name = sys.argv.pop(1).rpartition(".")
module = importlib.import_module(module)

def slow(*_, **__):
    sys.stderr.write("at work\\n")
    time.sleep(60)

setattr(module, name, slow)
from dwiml.cli.main import main
sys.exit(main(["create_hdf5", *sys.argv[1:]]))
"""
PLACES = {
    "looking at headers": "dwiml.hdf5.creator.plan_subjects",
    "reading volumes": "dwiml.hdf5.inputs.volumes.open_image",
    "standardizing": "dwiml.hdf5.inputs.volumes.standardize",
    "reading tractograms": "dwiml.hdf5.inputs.streamlines.open_tractogram",
    "writing": "dwiml.hdf5.file_writer.write_streamlines",
    "the last digests": "dwiml.hdf5.file_writer.write_group_digests",
}
OLDER = b"\x89HDF\r\n\x1a\nolder"
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@pytest.mark.first(2)
@pytest.mark.parametrize("k", range(len(PLACES)), ids=PLACES)
def test_a_signal_leaves_the_older_file_and_nothing_else(subjects, k):
    subjects.plain("a")
    subjects.out.write_bytes(OLDER)
    (subjects.root / "list.txt").write_text("a\n")
    sent = SIGNALS[k % len(SIGNALS)]
    (subjects.root / "nobody.txt").touch()
    lists = [subjects.root / "list.txt", *[subjects.root / "nobody.txt"] * 2]
    words = [subjects.folder, subjects.out, subjects.config(), *lists, "-f"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, list(PLACES.values())[k], *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert next(line for line in process.stderr if "WARNING" not in line) == "at work\n"
        begin = time.monotonic()
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
    assert process.returncode == 128 + sent
    assert "Traceback" not in errors
    assert f"Stopped ({sent.name}): " in errors
    assert subjects.out.read_bytes() == OLDER
    left = {path.name for path in subjects.root.iterdir()}
    assert left == {"config.json", "list.txt", "nobody.txt", "out.hdf5", "subjects"}


@pytest.mark.first(2)
@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "> /dev/full", "2> /dev/full", "| true"])
def test_a_message_that_cannot_be_written_costs_no_file(subjects, redirect):
    """A full disk under the output, a closed stream, a pipe that ended: the file was thrown away over its progress."""
    for name in ("a", "b", "c"):
        subjects.plain(name)
    (subjects.root / "list.txt").write_text("a\nb\nc\n")
    (subjects.root / "nobody.txt").touch()
    lists = [subjects.root / "list.txt", *[subjects.root / "nobody.txt"] * 2]
    words = [subjects.folder, subjects.out, subjects.config(), *lists]
    command = f"{sys.executable} -m dwiml.cli.main create_hdf5 {' '.join(map(str, words))} {redirect}"
    subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    subjects.out.rename(subjects.root / "made")
    subjects.assert_nothing_written()
    subjects.create()
    # But for the date.
    assert (subjects.root / "made").stat().st_size == subjects.out.stat().st_size
