"""What is only read may be read-only, its folder too; what may not be read at all is told to be so."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import BASES
from fuzzing import Outcome, give_up_root, run_watched

from dwiml.cli.main import main

# Lines whose only outputs are those that are named.
_LINES = [line for line in BASES if not line.startswith(("phantom", "train", "resume", "visualize_logs exps --save"))]


@pytest.fixture(scope="module")
def read_only(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the files that nobody may write."""
    folder = tmp_path_factory.mktemp("read_only") / "world"
    shutil.copytree(world, folder, ignore=shutil.ignore_patterns("odd", "out"), copy_function=shutil.copy2)
    every = [folder, *folder.rglob("*")]
    for path in every:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in every:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _run(line: str, world: Path, out: Path) -> Outcome:
    words = [word.replace("out", str(out), 1) if word.split("/")[0] == "out" else word for word in shlex.split(line)]

    def act() -> int:
        import torch

        torch.set_num_threads(1)
        give_up_root()
        return main(words)

    return run_watched(act, cwd=world, watched=[world])


@pytest.mark.first(10)
@pytest.mark.parametrize("line", _LINES)
def test_every_command_reads_what_nobody_may_write(read_only: Path, tmp_path: Path, line: str) -> None:
    outcome = _run(line, read_only, tmp_path)
    assert outcome.kind == "read", outcome.err


def test_what_cannot_be_written_is_told_before_the_work(read_only: Path, tmp_path: Path) -> None:
    for line in _LINES:
        if " out/" in line:
            outcome = _run(line, read_only, read_only)
            assert outcome.kind == "sentence", line
            assert "permission denied" in outcome.err.lower(), outcome.err
    outcome = _run("visualize_logs exps --save", read_only, tmp_path)
    assert "permission denied in the folder 'exps'; save the figure elsewhere with out=FILE." in outcome.err


_EXPERIMENT = ("evaluate", "show_loss")
# Each file, and what reads it.
READ = {
    "images/input.nii.gz": ("track",),
    "images/mask.nii.gz": ("track", "show_tractogram", "connectivity_matrix"),
    "images/labels.nii.gz": ("connectivity_score",),
    "lines.trk": ("score", "show_tractogram"),
    "lines.tck": ("connectivity_matrix",),
    "lines.trx": ("score", "show_tractogram"),
    "outside.trk": ("filter_latent",),
    "autoencoder/parameters.json": ("autoencode", "filter_latent"),
    "autoencoder/model_state.pt": ("autoencode", "filter_latent"),
    "matrix.npy": ("connectivity_score",),
    "data.hdf5": ("track", "show_loss"),
    "connected.hdf5": ("connectivity_score",),
    "config.json": ("create_hdf5",),
    "training.txt": ("create_hdf5",),
    "truth/ground_truth.json": ("score",),
    "truth/inside.trk": ("score",),
    "exps/exp/parameters.json": ("track", *_EXPERIMENT),
    "exps/exp/best_model/model_state.pt": ("track", *_EXPERIMENT),
    "exps/exp/logs/metrics.jsonl": ("visualize_logs",),
}


@pytest.mark.parametrize("name", READ)
def test_what_may_not_be_read_is_told_to_be_so(read_only: Path, tmp_path: Path, name: str) -> None:
    """Not called missing, nor damaged."""
    given = {"truth/ground_truth.json": "truth", "truth/inside.trk": "truth"}.get(name, name)
    given = "exps/exp" if name.startswith("exps/") else given
    given = "autoencoder" if name.startswith("autoencoder/") else given
    (read_only / name).chmod(0)
    try:
        for command in READ[name]:
            line = next(each for each in _LINES if each.startswith(f"{command} ") and given in shlex.split(each))
            (tmp_path / command).mkdir()
            outcome = _run(line, read_only, tmp_path / command)
            assert outcome.kind == "sentence", f"{line}: {outcome.err}"
            assert "permission denied" in outcome.err.lower(), outcome.err
            assert "damaged" not in outcome.err
            assert os.path.basename(name) in outcome.err
    finally:
        (read_only / name).chmod(0o444)
