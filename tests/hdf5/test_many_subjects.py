"""Many subjects: in several processes, added to a finished file, without those that are invalid, and killed."""

from __future__ import annotations

import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from dwiml.data.checking import check_hdf5_file
from dwiml.failures import ResourceError
from dwiml.hdf5 import file_writer
from dwiml.hdf5 import workers as module
from dwiml.hdf5.part_folder import PartFolder
from dwiml.hdf5.parts import Part
from dwiml.hdf5.workers import Workers

NAMES = "abcdef"
TIMEOUT = 120


@pytest.fixture
def six(subjects, monkeypatch):
    monkeypatch.setattr(file_writer, "now", lambda: datetime.datetime(2020, 1, 2))
    for seed, name in enumerate(NAMES):
        subjects.plain(name, seed=seed, nb_streamlines=4 + seed)
    return subjects


@pytest.fixture
def others_work(monkeypatch):
    """Have this process do one job only, of those for several processes; a list of what the others do."""
    known, jobs = [], []
    start, here, there = Workers._start, module._done, module._Worker._done

    def starting(workers, nb):
        known.append(workers)
        start(workers, nb)

    def done_here(*job):
        end = time.monotonic() + TIMEOUT
        while known and not known[-1]._jobs.empty():
            assert time.monotonic() < end
            time.sleep(0.01)
        return here(*job)

    def done_there(worker, job):
        jobs.append((job.function, job.item))
        return there(worker, job)

    monkeypatch.setattr(Workers, "_start", starting)
    monkeypatch.setattr(module, "_done", done_here)
    monkeypatch.setattr(module._Worker, "_done", done_there)
    return jobs


def made_by(jobs) -> list[str]:
    return sorted(item.name for function, item in jobs if function is Part.make)


def spoil(six, name: str) -> None:
    """Write a volume with NaN, which only reading it tells."""
    with_nan = np.full((8, 7, 6, 3), np.nan, np.float32)
    six.volume(name, "dwi.nii.gz", with_nan)


def test_any_number_of_processes_gives_the_same_bytes(six, caplog, others_work):
    one = six.create(training=list("edcba"), validation=["f"], step_size=0.7)
    expected = six.out.read_bytes()
    for nb in (2, 9, Workers(2).start()):
        others_work.clear()
        calls: list[tuple[int, int, str]] = []
        again = six.create(
            training=list("edcba"),
            validation=["f"],
            step_size=0.7,
            nbr_processes=nb,
            overwrite=True,
            on_progress=lambda *call, calls=calls: calls.append(call),
        )
        assert six.out.read_bytes() == expected
        assert again == one
        assert len(made_by(others_work)) == 5
        assert [done for done, _, _ in calls] == list(range(7))
        assert sorted(name for _, _, name in calls) == ["", *NAMES]
    assert [record.message for record in caplog.records] == []


def test_messages_and_errors_of_a_process_are_those_of_this_one(six, caplog, others_work):
    groups = json.loads(six.config().read_text())
    groups["input"] |= {"standardization": "all", "std_mask": ["mask.nii.gz"]}
    small = np.zeros((8, 7, 6), np.uint8)
    small[2, 2, 2:4] = 1
    six.volume("c", "mask.nii.gz", small)
    told = "Group 'input' of subject 'c': a mean and a std were computed from only 2 voxels; check the mask"
    for nb in (1, 2):
        caplog.clear()
        six.create(groups, overwrite=True, nbr_processes=nb)
        assert caplog.text.count(told) == 1
    assert "c" in made_by(others_work)
    others_work.clear()
    spoil(six, "d")
    errors = []
    for nb in (1, 2):
        with pytest.raises(ValueError, match="Group 'input' of subject 'd': .* holds 1008 NaN or infinite") as caught:
            six.create(groups, overwrite=True, nbr_processes=nb)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert "d" in made_by(others_work)


def test_a_script_without_main_guard_may_use_processes(six):
    script = six.root / "script.py"
    arguments = (str(six.folder), str(six.out), str(six.config()))
    script.write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1,)).start()\nprint('once')\n"
        f"import dwiml\nprint(len(dwiml.create_hdf5(*{arguments!r}, {list(NAMES)!r}, nbr_processes=2).added))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.stdout == "once\n6\n", done.stderr
    assert not check_hdf5_file(six.out, digests=True).all_faults


def test_a_killed_process_leaves_no_file_and_is_continued(six):
    """It is killed after the headers are checked; its subject is done by the next creation."""
    six.create(training=list(NAMES))
    expected = six.out.read_bytes()
    six.out.unlink()
    workers = Workers(2).start()

    def kill(done, total, name):
        os.kill(workers._running[0].pid, signal.SIGKILL)
        # Until the thread has told it.
        workers._running[0]._thread.join(0.5)

    sentence = r"process that (was being started|worked on subject '.') was killed \(SIGKILL\), usually by the system"
    with pytest.raises(ResourceError, match=sentence):
        six.create(training=list(NAMES), nbr_processes=workers, on_progress=kill)
    assert not six.out.exists()
    assert not list((six.root / ".out.hdf5.parts").glob("*.tmp"))
    six.create(training=list(NAMES), resume=True)
    assert six.out.read_bytes() == expected


def test_no_process_works_any_more_when_unfinished_parts_are_removed(six, monkeypatch):
    """An error leaves jobs, which another process must not begin."""
    workers = Workers(2).start()
    (pid,) = [each.pid for each in workers._running]
    works, remove = [], PartFolder._remove_unfinished

    def removing(place):
        works.append(Path(f"/proc/{pid}").exists())
        remove(place)

    def fail(done, total, name):
        if name:
            raise KeyError(name)

    monkeypatch.setattr(PartFolder, "_remove_unfinished", removing)
    with pytest.raises(KeyError):
        six.create(nbr_processes=workers, on_progress=fail)
    assert works == [True, False]
    assert not list((six.root / ".out.hdf5.parts").glob(".*.tmp"))


@pytest.mark.parametrize("nb", [0, -1, 1.5, True])
def test_a_number_of_processes_is_checked(six, nb):
    with pytest.raises((ValueError, TypeError), match="nbr_processes"):
        six.create(nbr_processes=nb)


def test_subjects_are_added_as_if_created_at_once(six):
    six.create(training=list("abcd"), validation=["e"], testing=["f"])
    expected = six.out.read_bytes()
    six.create(training=list("ab"), overwrite=True)
    first = six.create(training=list("c"), validation=["e"], add=True)
    assert first.subjects == {"training": ["a", "b", "c"], "validation": ["e"], "testing": []}
    assert first.added == ["c", "e"]
    assert first.streamlines["streamlines"].nb_streamlines == 6 + 8
    six.create(training=list("d"), testing=["f"], add=True, nbr_processes=2)
    assert six.out.read_bytes() == expected
    assert not check_hdf5_file(six.out, digests=True).all_faults


@pytest.mark.parametrize(
    "kind", ["option", "new option", "flag", "config", "features", "listed", "absent", "nobody", "no digests"]
)
def test_what_does_not_agree_is_not_added(six, kind):
    six.create(training=list("ab"), step_size=1.0)
    groups, options = json.loads(six.config().read_text()), {"step_size": 1.0, "training": ["c"]}
    if kind == "option":
        options["step_size"] = 0.5
        message = r"out.hdf5' was created with step_size = 1.0, not 0.5; give the same config and options"
    elif kind == "new option":
        six.create(training=list("ab"), overwrite=True)
        message = r"out.hdf5' was created without step_size, not with 1.0; give the same config and options"
    elif kind == "flag":
        options["allow_missing"] = True
        message = "out.hdf5' was created without allow_missing, not with it; give the same"
    elif kind == "config":
        groups["input"]["standardization"] = "all"
        message = r"out.hdf5' was created with another config \('input' differ\)"
    elif kind == "features":
        six.volume("c", "dwi.nii.gz", np.ones((8, 7, 6, 2), np.float32))
        message = "Group 'input' has 2 features for subject 'c', and 3 in '.*out.hdf5'"
    elif kind == "listed":
        options["validation"] = ["b"]
        message = "out.hdf5' already holds 'b'; list only new subjects"
    elif kind == "absent":
        six.out.unlink()
        message = "out.hdf5' was not found; add=True adds subjects to an existing file"
    elif kind == "nobody":
        options["training"] = []
        message = "There is no subject: list at least one"
    else:
        with h5py.File(six.out, "r+") as handle:
            del handle.attrs["dwiml_digest"]
        message = "out.hdf5' has no digests, so it was not created by"
    before = six.out.read_bytes() if six.out.exists() else None
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        six.create(groups, add=True, **options)
    assert (six.out.read_bytes() if six.out.exists() else None) == before
    assert not (six.root / ".out.hdf5.parts").exists()


def test_a_file_that_changes_while_subjects_are_added_is_kept(six):
    six.create(training=list("ab"))

    def change(done, total, name):
        six.out.write_bytes(six.out.read_bytes() + b"more")

    with pytest.raises(ValueError, match="out.hdf5' was changed while subjects were added to it"):
        six.create(training=list("c"), add=True, on_progress=change)
    assert six.out.read_bytes().endswith(b"more")


@pytest.mark.parametrize("nb", [1, 2])
def test_bad_subjects_are_left_out_and_listed(six, caplog, nb, others_work):
    six.create(training=list("ae"))
    expected = six.out.read_bytes()
    spoil(six, "b")
    six.volume("c", "dwi.nii.gz", np.ones((8, 7, 6, 2), np.float32))
    (six.folder / "d/wb.trk").unlink()
    caplog.clear()
    done = six.create(training=["missing", *"abcde"], overwrite=True, skip_bad_subjects=True, nbr_processes=nb)
    assert six.out.read_bytes() == expected
    assert done.added == ["a", "e"]
    assert set(done.skipped) == {"missing", *"bcd"}
    assert "b/dwi.nii.gz' holds 1008 NaN" in done.skipped["b"]
    assert "has 2 features for subject 'c' and 3 for subject 'a'" in done.skipped["c"]
    assert "d/wb.trk' was not found" in done.skipped["d"]
    assert all(f"Subject '{name}' is left out: {reason}" in caplog.text for name, reason in done.skipped.items())


def test_the_odd_one_is_left_out_even_if_it_is_the_first(six):
    six.volume("a", "dwi.nii.gz", np.ones((8, 7, 6, 2), np.float32))
    assert list(six.create(skip_bad_subjects=True).skipped) == ["a"]


def test_without_a_good_training_subject_there_is_no_file(six):
    for name in "ab":
        spoil(six, name)
    with pytest.raises(ValueError, match="There is no training subject left; 'a' was left out because: Group 'input'"):
        six.create(training=list("ab"), validation=list("c"), skip_bad_subjects=True)
    assert not six.out.exists()


def test_a_failing_machine_is_no_bad_subject(six, monkeypatch):
    def fail(part, subject):
        raise MemoryError

    monkeypatch.setattr(Part, "_write", fail)
    with pytest.raises(MemoryError):
        six.create(skip_bad_subjects=True)


PROGRAM = """
import datetime, os, sys
from dwiml.hdf5 import file_writer
from dwiml.hdf5.creator import create_hdf5
from dwiml.hdf5.workers import Workers
file_writer.now = lambda: datetime.datetime(2020, 1, 2)
options = eval(sys.argv[4])
workers = options["nbr_processes"] = Workers(2).start()
# Until both work.
while len({outcome.value for outcome in workers.run(os.readlink, ["/proc/self"] * 4, str)}) < 2:
    pass
print(workers._running[0].pid, flush=True)
ready = lambda done, total, name: None if name else print("ready", flush=True)
create_hdf5(*sys.argv[1:4], **options, on_progress=ready)
"""


def test_a_disk_that_fails_while_subjects_are_copied_leaves_no_file(six, monkeypatch):
    synced, sync = [], file_writer.sync

    def failing_once(path):
        synced.append(path)
        # The system tells only the first one who asks.
        if len(synced) == 1:
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(file_writer, "sync", failing_once)
    with pytest.raises(OSError, match="Input/output error"):
        six.create(training=list("abc"), nbr_processes=2)
    assert not six.out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["both", "the other"])
@pytest.mark.parametrize("add", [False, True])
def test_a_kill_at_any_moment_leaves_no_bad_file_and_is_continued(six, add, whom):
    """At 30 random moments after the headers are checked, the file is valid or absent; --continue ends as if whole."""
    six.create(training=list(NAMES))
    expected = six.out.read_bytes()
    old = None
    if add:
        six.create(training=["a"], overwrite=True)
        old = six.out.read_bytes()
    rng = random.Random(0)
    new = list(NAMES[1:] if add else NAMES)
    options = {"training": new, "add": add, "resume": True}
    paths = [six.folder, six.out, six.root / "config.json"]
    command = [sys.executable, "-c", PROGRAM, *map(str, paths), repr(options)]
    nb_kept = 0
    longest = 0.0
    for moment in range(31):
        if old is None:
            six.out.unlink(missing_ok=True)
        else:
            six.out.write_bytes(old)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            other = int(process.stdout.readline())
            assert process.stdout.readline() == "ready\n"
            begin = time.monotonic()
            if moment == 0:
                # How long it takes when nobody stops it.
                process.communicate(timeout=TIMEOUT)
                assert process.returncode == 0
                longest = time.monotonic() - begin
                assert six.out.read_bytes() == expected
                continue
            time.sleep(rng.uniform(0, longest))
            if whom == "both":
                process.kill()
                process.communicate(timeout=TIMEOUT)
            else:
                kill_other(process, other)
        nb_kept += any((six.root / ".out.hdf5.parts").glob("[a-f]*"))
        found = six.out.read_bytes() if six.out.exists() else None
        assert found in (old, expected)
        if found != expected:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
            assert done.returncode == 0, done.stderr
        assert six.out.read_bytes() == expected
        assert not check_hdf5_file(six.out, digests=True).all_faults
    assert nb_kept


def kill_other(process: subprocess.Popen[str], pid: int) -> None:
    """Kill the other process of a creation; it ends soon, complete or with a sentence."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    errors = process.communicate(timeout=TIMEOUT)[1]
    if process.returncode:
        assert "was killed (SIGKILL), usually by the system because the memory is full" in errors.splitlines()[-1]
