"""``dwiml show_batch``, and what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import small_trainer

from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.evaluation.batch_rows import rows_of_batch
from dwiml.ops.spaces import to_vox_corner
from dwiml.training.loading import rebuild_experiment

GROUPS = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
NOISE = ["--reverse_ratio", "0.5", "--split_ratio", "0.5", "--noise_gaussian_size_forward", "0.05"]


@pytest.fixture(scope="module")
def experiment(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    options = ["--seed", "1", "--max_epochs", "1", "-q", "--neighborhood_type", "axes", "--neighborhood_radius", "1"]
    assert train.main(["learn2track", str(tiny_hdf5), str(folder), "exp", *GROUPS, *NOISE, *options]) == 0
    return folder / "exp"


def test_the_rows_are_the_batch_of_the_training(tiny_hdf5: Path, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    received: list[Any] = []
    forward = type(trainer.model).forward

    def spy(self: Any, inputs: Any, streamlines: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            received.append(streamlines)
        return forward(self, inputs, streamlines, *args, **kwargs)

    monkeypatch.setattr(type(trainer.model), "forward", spy)
    trainer.train_and_validate()
    found = rows_of_batch(rebuild_experiment(tmp_path / "exp", lazy=True), batch=1, nb=5)
    subject = trainer.batch_sampler.dataset.training_set.data_of(found.index)
    lines = subject.streamlines["streamlines"]
    stored, of_model, targets = found.rows[:3]
    points = to_vox_corner(
        of_model.points, space="rasmm", origin="center", affine=lines.affine, voxel_sizes=lines.voxel_sizes
    )
    nb = len(of_model.lengths)
    np.testing.assert_array_equal(of_model.lengths, received[1].lengths[:nb])
    np.testing.assert_allclose(points, received[1].data[: len(points)], atol=1e-4)
    assert len(stored.lengths) == 5 <= nb == len(targets.lengths)
    assert f"{nb - 5} split" in found.text
    for row in found.rows[:3]:
        starts = np.cumsum(row.lengths) - row.lengths
        np.testing.assert_array_equal(row.place[starts], 0)
        assert (row.place <= 1).all()


def test_the_command(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "batch.png"
    assert main(["show_batch", str(experiment), str(out), "--max_streamlines", "6", "--dpi", "40"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: 6 of ")
    assert "noise: gaussian forward 0.05 voxel" in printed
    assert main(["show_batch", str(experiment), str(out), "-f", "--dpi", "40", "--phase", "validation"]) == 0
    assert "none reversed or split" in capsys.readouterr().out
    found = rows_of_batch(rebuild_experiment(experiment, lazy=True), nb=3)
    assert [row.name.split()[0] for row in found.rows] == ["as", "as", "targets", "neighborhood"]
    sticks = found.rows[3]
    # Six neighbors at one voxel around each point that is shown, and the streamline itself.
    assert (sticks.lengths[1:] == 2).all()
    assert (len(sticks.lengths) - 1) % 6 == 0
    ends = sticks.points[sticks.lengths[0] :].reshape(-1, 2, 3)
    assert (np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) > 0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch", "99"], "batch must be"),
        (["--epoch", "-1"], "epoch must be"),
        (["--max_streamlines", "0"], "nb must be"),
        (["--dpi", "0"], "--dpi must be"),
    ],
)
def test_bad_input_is_one_sentence(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main(["show_batch", str(experiment), str(tmp_path / "a.png"), *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "a.png").exists()
