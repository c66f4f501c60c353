"""``dwiml create_hdf5`` on real files."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from dwiml.cli import create_hdf5

SHAPE = (5, 6, 7)
AFFINE = np.array([[1.5, 0, 0, -4], [0, 0, -2.5, 9], [0, 2.0, 0, 1], [0, 0, 0, 1]])


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Write two subjects with a volume and a tractogram, and return the six arguments of the command."""
    rng = np.random.default_rng(0)
    for subject in ("sub-1", "sub-2"):
        folder = tmp_path / "subjects" / subject
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(rng.normal(size=(*SHAPE, 2)).astype(np.float32), AFFINE), folder / "dwi.nii.gz")
        lines = [np.cumsum(rng.uniform(0.1, 0.3, (12, 3)), axis=0) @ AFFINE[:3, :3].T + AFFINE[:3, 3] for _ in range(4)]
        lines.append(lines[0][:1])
        tractogram = nib.streamlines.Tractogram([line.astype(np.float32) for line in lines], affine_to_rasmm=np.eye(4))
        nib.streamlines.save(tractogram, str(folder / "wb.tck"))
    groups = {
        "input": {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all"},
        "streamlines": {"type": "streamlines", "files": ["wb.tck"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(groups))
    for name, content in (("training", "sub-1\n"), ("validation", "sub-2\n"), ("testing", "# nobody\n")):
        (tmp_path / f"{name}.txt").write_text(content)
    names = ("subjects", "out.hdf5", "config.json", "training.txt", "validation.txt", "testing.txt")
    return [str(tmp_path / name) for name in names]


def run(*arguments: str, command: str | None = "create_hdf5") -> subprocess.CompletedProcess[str]:
    words = [*([command] if command else []), *arguments]
    return subprocess.run([sys.executable, "-m", "dwiml.cli.main", *words], capture_output=True, text=True, timeout=60)


def test_the_command_writes_the_file_and_prints_its_content(arguments):
    done = run(*arguments, "--remove_invalid", "--step_size", "0.5")
    assert done.returncode == 0, done.stderr
    assert "sub-1 done (1 of 2)\nsub-2 done (2 of 2)\n" in done.stdout
    assert "out.hdf5: 2 subjects (1 training, 1 validation, 0 testing), 0.000 GB" in done.stdout
    assert "  input        volume, 2 features: dwi.nii.gz\n" in done.stdout
    assert "  streamlines  8 streamlines, " in done.stdout
    assert "(2 invalid removed)" in done.stdout
    assert done.stderr.count("1 of one point") == 2
    with h5py.File(arguments[1]) as handle:
        assert set(handle) == {"sub-1", "sub-2"}
        assert handle.attrs["step_size"] == 0.5
        assert len(handle["sub-1/streamlines/lengths"]) == 4


def test_lists_may_be_omitted_or_be_dev_null(arguments, capsys):
    for given in (arguments[:4], arguments[:5], [*arguments[:4], "/dev/null", "/dev/null"]):
        assert create_hdf5.main([*given, "--remove_invalid", "-f"]) == 0
        assert f"(1 training, {int(given == arguments[:5])} validation, 0 testing)" in capsys.readouterr().out


def test_bad_input_gets_one_sentence_and_exit_code_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: Group 'streamlines' of subject 'sub-1': ")
    assert not Path(arguments[1]).exists()


def test_the_options_reach_the_creator(arguments, capsys):
    assert create_hdf5.main([*arguments, "--remove_invalid", "--nb_points", "5", "-v"]) == 0
    with h5py.File(arguments[1]) as handle:
        assert handle["sub-2/streamlines/lengths"][()].tolist() == [5] * 4
    assert create_hdf5.main([*arguments, "--remove_invalid"]) == 2
    assert "exists; replace it with -f." in capsys.readouterr().err
    Path(arguments[0], "sub-2", "wb.tck").unlink()
    assert create_hdf5.main([*arguments, "--remove_invalid", "-f"]) == 2
    assert "wb.tck' was not found" in capsys.readouterr().err
    assert create_hdf5.main([*arguments, "--remove_invalid", "--allow_missing", "-f", "--compress", "0.2"]) == 0
    with h5py.File(arguments[1]) as handle:
        assert handle["sub-2/streamlines/data"].shape == (0, 3)
        assert handle.attrs["compress"] == 0.2


def test_a_wrong_order_of_the_arguments_is_explained(arguments, capsys):
    folder, out, config, *lists = arguments
    for words in ([folder, config, out, *lists], [folder, out, *lists]):
        assert create_hdf5.main(words) == 2
        assert capsys.readouterr().err.endswith(
            "; the arguments are FOLDER OUT.hdf5 CONFIG.json TRAINING.txt [VALIDATION.txt] [TESTING.txt], "
            "in this order.\n"
        )


@pytest.mark.parametrize(
    "options", [["--step_size", "1", "--nb_points", "4"], ["--step_size", "much"], ["--no_such_option"]]
)
def test_unusable_options_exit_with_2(arguments, options, capsys):
    with pytest.raises(SystemExit) as caught:
        create_hdf5.main([*arguments, *options])
    assert caught.value.code == 2
    assert "create_hdf5: error:" in capsys.readouterr().err


PROGRAM = """
import sys, time
from dwiml.cli import create_hdf5
from dwiml.hdf5 import parts

def slow(*_):
    print("at work", flush=True)
    time.sleep(60)

parts.read_volume_group = slow
sys.exit(create_hdf5.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_stopped_command_leaves_nothing(arguments, sent, code):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in errors
    folder = Path(arguments[1]).parent
    assert [path.name for path in folder.iterdir() if "hdf5" in path.name] == []


def test_subjects_are_added_and_left_out_in_two_processes(arguments):
    folder = Path(arguments[0])
    assert run(*arguments[:4], "--remove_invalid").returncode == 0
    shutil.copytree(folder / "sub-2", folder / "sub-3")
    (folder / "sub-3/dwi.nii.gz").write_bytes(b"nothing")
    lists = [*arguments[:3], "/dev/null", arguments[4], str(folder.parent / "bad.txt")]
    Path(lists[-1]).write_text("sub-3\n")
    done = run(*lists, "--remove_invalid", "--add", "--skip_bad_subjects", "--nbr_processes", "2", "--continue")
    assert done.returncode == 0, done.stderr
    assert "out.hdf5: 2 subjects (1 training, 1 validation, 0 testing)" in done.stdout
    assert "  added        1 subject, whose streamlines are counted above\n" in done.stdout
    assert "  left out     'sub-3': Group 'input' of subject 'sub-3': " in done.stdout
    assert "WARNING: Subject 'sub-3' is left out: " in done.stderr
    assert run("check_hdf5", arguments[1], command=None).returncode == 0


@pytest.mark.slow
def test_finished_subjects_are_told_when_a_stopped_command_is_continued(arguments):
    folder = Path(arguments[0])
    whole = (folder / "sub-2/dwi.nii.gz").read_bytes()
    image = nib.load(folder / "sub-2/dwi.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), folder / "sub-2/dwi.nii.gz")
    stopped = run(*arguments, "--remove_invalid")
    assert stopped.returncode == 2
    assert "1 subject is finished and kept in " in stopped.stderr
    (folder / "sub-2/dwi.nii.gz").write_bytes(whole)
    refused = run(*arguments, "--remove_invalid")
    assert refused.returncode == 2
    assert "that was stopped: go on with --continue, or start over with -f.\n" in refused.stderr
    done = run(*arguments, "--remove_invalid", "--continue")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 of 2 subjects: finished by the creation that was stopped.\nsub-2 done (2 of 2)")
