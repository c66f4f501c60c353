"""How commands end: after a signal, with a full disk or a closed pipe as output, without memory."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_world import add_classifier, add_transformer
from without_volume import SMALL_AUTOENCODER

# Modules that take the functions which tests replace must be imported before.
import dwiml.scoring.connectivity_scores  # noqa: F401
from dwiml import AutoencoderModel
from dwiml.cli import run_command, train
from dwiml.cli.main import COMMANDS, main
from dwiml.hdf5.creator import create_hdf5
from dwiml.phantom.create import create_phantom

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP]
DATA = ["--input_group_name", "input", "--streamline_group_name", "streamlines"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom, its HDF5 file, an experiment 'exp' of one epoch, and untrained models of other kinds."""
    folder = tmp_path_factory.mktemp("signals")
    root = create_phantom(folder / "phantom", nb_subjects=3, size="small")
    lists = [root / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(root / "subjects", folder / "data.hdf5", root / "config.json", *lists)
    options = [*DATA, "--rnn_layer_sizes", "8", "--seed", "1", "--max_epochs", "1", "--step_size", "1.5", "-q"]
    assert train.main(["learn2track", str(folder / "data.hdf5"), str(folder), "exp", *options]) == 0
    AutoencoderModel(**SMALL_AUTOENCODER).save(folder / "autoencoder")
    add_transformer(folder)
    add_classifier(folder)
    np.save(folder / "m.npy", np.ones((8, 8)))
    return folder


def killing(number: signal.Signals, at_call: int = 1, then: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that sends a signal to this process at its nth call."""
    calls: list[int] = []

    def act(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at_call:
            os.kill(os.getpid(), number)
            time.sleep(20)
        return then(*args, **kwargs) if then is not None else None

    return act


def command_at(name: str, work: Path, out: Path) -> tuple[list[str], str]:
    """Return a command that writes in `out`, and the name of a function that it calls during its work."""
    subject = work / "phantom/subjects/sub-03"
    hdf5, experiment = str(work / "data.hdf5"), str(work / "exp")
    bundle, labels = str(subject / "bundles/helix.trk"), str(subject / "labels/endpoints.nii.gz")
    lists = [str(work / f"phantom/{each}.txt") for each in ("training", "validation", "testing")]
    config = str(work / "phantom/config.json")
    return {
        "phantom": (["phantom", str(out / "ph")], "dwiml.phantom.create.simulate_subject"),
        "create_hdf5": (
            ["create_hdf5", str(work / "phantom/subjects"), str(out / "new.hdf5"), config, *lists],
            "dwiml.hdf5.parts.read_streamlines_group",
        ),
        "join_hdf5": (["join_hdf5", hdf5, str(out / "new.hdf5")], "dwiml.hdf5.joining.digest_of_rows"),
        "check_hdf5": (["check_hdf5", hdf5], "dwiml.data.checking.SubjectStreamlines"),
        "info": (["info", hdf5], "dwiml.inspection.hdf5_file.checked_group"),
        "extract_hdf5": (
            ["extract_hdf5", hdf5, "sub-03", "streamlines", str(out / "a.trk")],
            "dwiml.inspection.extraction.SubjectStreamlines",
        ),
        "train": (["train", "learn2track", hdf5, str(out), "exp", *DATA], "dwiml.data.dataset.SubjectVolume"),
        "resume": (["resume", experiment, "--new_max_epochs", "2"], "dwiml.data.dataset.SubjectVolume"),
        "evaluate": (["evaluate", experiment], "dwiml.evaluation.direction_error.evaluate_directions"),
        "track": (
            ["track", experiment, "sub-03", str(out / "a.trk"), "--tracking_mask", "wm_mask", "--nb_seeds", "5"],
            "dwiml.tracking.propagation.GrowingStreamlines",
        ),
        "score": (
            ["score", bundle, "--ground_truth", str(subject), "--json", str(out / "scores.json")],
            "dwiml.scoring.scores.score_streamlines",
        ),
        "curate": (
            ["curate", bundle, "--bundles", str(subject), "-o", str(out / "a.trk")],
            "dwiml.curation.curating.curate_bundle",
        ),
        "connectivity_matrix": (
            ["connectivity_matrix", bundle, str(out / "m.npy"), "--labels", labels],
            "dwiml.ops.connectivity_matrix.count_connections",
        ),
        "connectivity_score": (
            ["connectivity_score", bundle, str(work / "m.npy"), "--nb_blocs", "2", "--json", str(out / "scores.json")],
            "dwiml.scoring.connectivity_scores.score_connectivity",
        ),
        "import_dwi_ml": (
            ["import_dwi_ml", str(work / "dwi_ml"), str(out / "new")],
            "dwiml.importing.experiment.write_parameters",
        ),
        "autoencode": (
            ["autoencode", str(work / "autoencoder"), bundle, str(out / "a.trk")],
            "dwiml.evaluation.latent_space.resample_nb_points",
        ),
        "filter_plausible": (
            ["filter_plausible", str(work / "classifier"), "sub-03", bundle, str(out / "a.trk")],
            "dwiml.tracking.acceptance.resample_nb_points",
        ),
        "filter_latent": (
            ["filter_latent", str(work / "autoencoder"), bundle, str(out / "a.trk"), "--reference", bundle],
            "dwiml.evaluation.latent_space.resample_nb_points",
        ),
        "show_loss": (["show_loss", experiment, "sub-03", str(out)], "dwiml.evaluation.losses_by_point.measure_losses"),
        "show_batch": (
            ["show_batch", experiment, str(out / "a.png")],
            "dwiml.evaluation.batch_rows.rows_of_batch",
        ),
        "show_attention": (
            ["show_attention", str(work / "transformer"), "sub-03", "--out", str(out), "--streamlines", "0"],
            "dwiml.evaluation.attention.measure_attention",
        ),
        "show_tractogram": (
            ["show_tractogram", bundle, str(out / "a.png"), "--background", str(subject / "metrics/fa.nii.gz")],
            "dwiml.viz.figure_file.save_figure",
        ),
        "runs": (["runs", str(work)], "dwiml.inspection.runs.read_events"),
        "report": (["report", experiment, str(out / "a.html")], "dwiml.inspection.report.charts_of"),
        "comet_upload": (["comet_upload", experiment], "dwiml.inspection.comet_upload.read_metrics"),
        "visualize_logs": (
            ["visualize_logs", experiment, "--out", str(out / "a.png")],
            "dwiml.viz.curves.reading.read_metrics",
        ),
    }[name]


@pytest.mark.first(6)
@pytest.mark.parametrize("i_command", range(len(COMMANDS)), ids=list(COMMANDS))
def test_a_signal_ends_each_command_cleanly(
    i_command: int,
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number, name = SIGNALS[i_command % len(SIGNALS)], list(COMMANDS)[i_command]
    command, target = command_at(name, work, tmp_path)
    module, _, attribute = target.rpartition(".")
    before = [signal.getsignal(each) for each in SIGNALS]
    monkeypatch.setattr(importlib.import_module(module), attribute, killing(number))
    begin = time.monotonic()
    assert main(command) == 128 + number
    assert time.monotonic() - begin < 15
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if line.startswith("Stopped (")]
    assert len(lines) == 1
    assert lines[0].startswith(f"Stopped ({number.name}): ")
    assert "Traceback" not in printed
    assert ("nothing was trained" in lines[0]) == (name in ("train", "resume"))
    assert list(tmp_path.rglob("*")) == []
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_interrupted_tracking_keeps_its_streamlines(
    suffix: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dwiml.tracking.tracker import Tracker

    group = Tracker._track_group
    monkeypatch.setattr(Tracker, "_track_group", killing(signal.SIGTERM, 3, group))
    # killing() returns a plain function, which the class binds.
    command = ["track", str(work / "exp"), "sub-03", str(tmp_path / f"a{suffix}"), "--tracking_mask", "wm_mask"]
    options = ["--nb_seeds", "60", "--simultaneous", "20", "--min_length", "2"]
    assert main([*command, *options]) == 128 + signal.SIGTERM
    partial = tmp_path / f"a.partial{suffix}"
    assert any(str(partial) in message for message in caplog.messages)
    assert not (tmp_path / f"a{suffix}").exists()
    if suffix != ".trx":
        assert 0 < len(nib.streamlines.load(partial).streamlines) <= 40
    else:
        assert partial.exists()


LOADING = """
import sys, time
from dwiml.data import dataset

def slow(*_, **__):
    print("loading", flush=True)
    time.sleep(60)

dataset.SubjectVolume = slow
"""
SCRIPT = """
data = dataset.MultiSubjectDataset(sys.argv[1])
data.load_data()
"""
COMMAND = """
from dwiml.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def stop_while_loading(code: str, arguments: list[str], number: signal.Signals, **environment: str) -> tuple[int, str]:
    with subprocess.Popen(
        [sys.executable, "-c", LOADING + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.slow
def test_a_script_stopped_while_loading_says_so(work: Path) -> None:
    code, errors = stop_while_loading(SCRIPT, [str(work / "data.hdf5")], signal.SIGUSR1)
    assert code == 128 + signal.SIGUSR1
    assert errors == "Stopped (SIGUSR1) while loading the data; nothing was trained yet.\n"


def test_a_job_stopped_while_loading_is_requeued(work: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    command = ["train", "learn2track", str(work / "data.hdf5"), str(tmp_path), "exp", *DATA]
    options = ["--requeue", "--stop_signal", "USR2"]
    code, errors = stop_while_loading(COMMAND, [*command, *options], signal.SIGUSR2, PATH=path, SLURM_JOB_ID="77")
    assert code == 128 + signal.SIGUSR2
    assert "Stopped (SIGUSR2): the training had not started; nothing was trained" in errors
    assert "SLURM is asked to requeue the job" in errors
    assert asked.read_text() == "requeue 77\n"
    assert not (tmp_path / "exp").exists()


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")


def shell(command: str, work: Path) -> subprocess.CompletedProcess[str]:
    full = f"set -o pipefail; {command.replace('dwiml', f'{sys.executable} -m dwiml.cli.main', 1)}"
    return subprocess.run(["bash", "-c", full], cwd=work, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.first(1)
@needs_full
@pytest.mark.parametrize(("redirect", "code"), [("> /dev/full", 1), ("2> /dev/full", 0), (">&-", 1), ("2>&-", 0)])
def test_scores_that_cannot_be_printed_are_still_written(redirect: str, code: int, work: Path, tmp_path: Path) -> None:
    subject = "phantom/subjects/sub-03"
    written = tmp_path / "scores.json"
    done = shell(f"dwiml score {subject}/bundles/helix.trk --ground_truth {subject} --json {written} {redirect}", work)
    assert done.returncode == code, done.stderr
    assert '"scores"' in written.read_text() or '"bundles"' in written.read_text()
    if code:
        assert "error: the results could not be printed (standard output: " in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_closed_pipe_is_not_a_failure(work: Path) -> None:
    subject = "phantom/subjects/sub-03"
    done = shell(f"dwiml score {subject}/bundles/helix.trk --ground_truth {subject} | head -1", work)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    # The reader exits before the first line.
    done = shell(f"dwiml score {subject}/bundles/helix.trk --ground_truth {subject} | true", work)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize(("redirect", "code"), [("> /dev/full 2>&1", 1), ("2> /dev/full | true", 0)])
def test_creation_continues_when_progress_cannot_be_printed(
    redirect: str, code: int, work: Path, tmp_path: Path
) -> None:
    lists = " ".join(f"phantom/{each}.txt" for each in ("training", "validation", "testing"))
    new = tmp_path / "new.hdf5"
    done = shell(f"dwiml create_hdf5 phantom/subjects {new} phantom/config.json {lists} {redirect}", work)
    assert done.returncode == code
    assert new.stat().st_size == (work / "data.hdf5").stat().st_size


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize("redirect", ["> /dev/full 2>&1", "2> >(head -c 1 > /dev/null)", ">&- 2>&-"])
def test_a_training_continues_when_its_output_is_closed(redirect: str, work: Path, tmp_path: Path) -> None:
    options = f"{' '.join(DATA)} --rnn_layer_sizes 8 --max_epochs 2 --max_batches_per_epoch_training 2 -v"
    done = shell(f"dwiml train learn2track data.hdf5 {tmp_path} exp {options} {redirect}", work)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "exp/logs/metrics.jsonl").read_text().splitlines()) == 2


def test_missing_memory_is_reported(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dwiml.evaluation.direction_error.evaluate_directions", lambda *_, **__: np.empty(2**50))
    assert main(["evaluate", str(work / "exp")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: There is not enough memory (Unable to allocate 8.00 PiB for an array with shape")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "options", "advice"),
    [
        ("show_loss", ["--batch_size", "7"], "give a lower --batch_size (now: 7)"),
        ("track", ["--simultaneous", "3"], "give a lower --simultaneous (now: 3)"),
        ("track", [], "give a lower --simultaneous (now: auto)"),
        ("autoencode", [], "give a lower --batch_size (now: 1000)"),
        ("show_attention", [], "choose shorter streamlines with --streamlines"),
        ("filter_latent", ["--batch_size", "7"], "give a lower --batch_size (now: 7)"),
        ("filter_plausible", ["--batch_size", "7"], "give a lower --batch_size (now: 7)"),
    ],
)
def test_missing_memory_names_the_option_that_needs_less(
    name: str,
    options: list[str],
    advice: str,
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    command, target = command_at(name, work, tmp_path)
    module, _, attribute = target.rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), attribute, fail)
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: There is not enough memory")
    assert advice in error
    assert len(error.splitlines()) == 1


def test_a_second_ctrl_c_in_a_training_states_what_is_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dwiml import DWIMLTrainerOneInput

    def twice(*_: Any) -> None:
        for _each in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(DWIMLTrainerOneInput, "run_one_batch", twice)
    options = [*DATA, "--rnn_layer_sizes", "8", "--seed", "1", "--requeue"]
    assert main(["train", "learn2track", str(work / "data.hdf5"), str(work), "twice", *options]) == 130
    assert (
        "Stopped (SIGINT): immediately, at the second Ctrl-C; the last checkpoint is unchanged."
        in capsys.readouterr().err
    )


def test_system_errors_are_reported_without_their_number(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write_more_than_allowed() -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), "out.trk")

    assert run_command(write_more_than_allowed, parser=argparse.ArgumentParser()) == 2
    assert capsys.readouterr().err == "error: 'out.trk': file too large.\n"

    def write_on_a_full_disk() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert run_command(write_on_a_full_disk, parser=argparse.ArgumentParser()) == 2
    assert capsys.readouterr().err == "error: No space left on the disk.\n"
