"""The data per streamline that a model learns: in the batches of all phases, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tests_support import write_hdf5

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    MultiSubjectDataset,
    StreamlineClassifierModel,
    load_experiment,
    seed_everything,
)
from dwiml.batching.target_values import check_target_values
from dwiml.cli.main import main

COUNTS = {"sub-a": 30, "sub-b": 20, "sub-d": 12, "sub-e": 5}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A file whose streamlines have random 0 and 1 in data_per_streamline 'valid', and a subject without any."""
    path = tmp_path / "labelled.hdf5"
    write_hdf5(path, {"sub-a": 30, "sub-b": 20, "sub-empty": 0}, {"sub-d": 12}, {"sub-e": 5})
    rng = np.random.default_rng(3)
    with h5py.File(path, "r+") as handle:
        for subject, nb in COUNTS.items():
            data = handle[f"{subject}/streamlines/data_per_streamline"]
            data.create_dataset("valid", data=rng.integers(2, size=(nb, 1)).astype(np.float32))
    return path


def loader(path: Path, *, lazy: bool = False, **options: Any) -> DWIMLBatchLoaderOneInput:
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    nb_features = dataset.nb_features["input"]
    seed_everything(1)
    model = StreamlineClassifierModel(**{"nb_features": nb_features, "nb_points": 8, "nb_channels": (4, 4), **options})
    return DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines", seed=1)


@pytest.mark.parametrize("lazy", [False, True])
def test_the_loss_receives_the_values_of_the_file(labelled: Path, lazy: bool) -> None:
    load = loader(labelled, lazy=lazy)
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=50, seed=1)
    (batch_ids,) = sampler
    targets, slices = load.load_batch_streamlines(batch_ids)
    batch = load.model_batch(targets, slices)
    values = np.concatenate(
        [
            load.dataset.training_set.data_of(subject)
            .streamlines["streamlines"]
            .gather_data_per_streamline("valid", rows)
            for subject, rows in batch_ids
        ]
    )
    received: dict[str, Any] = {}
    model = load.model

    def remembered(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, int]:
        received.update(kwargs)
        return StreamlineClassifierModel.compute_loss(model, *args, **kwargs)  # type: ignore[arg-type]

    model.compute_loss = remembered  # type: ignore[attr-defined]
    loss, n = batch.loss(model, batch.run(model))
    assert n == 50
    assert torch.isfinite(loss)
    np.testing.assert_array_equal(received["values"].numpy(), values)
    assert 0 < values.mean() < 1


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "plausible",
            None,
            r"learns 'plausible' \(target_key\), but the .*sub-a.* it has: .*'valid'",
        ),
        ("valid", 2.0, r"which must be from 0 to 1, but it is 2 for streamline 3 of the .*sub-b"),
        ("valid", np.nan, r"which must be from 0 to 1, but it is nan for streamline 3 of the .*sub-b"),
    ],
)
def test_other_values_are_refused(labelled: Path, key: str, value: float | None, sentence: str) -> None:
    if value is not None:
        with h5py.File(labelled, "r+") as handle:
            handle["sub-b/streamlines/data_per_streamline/valid"][3] = value
    with pytest.raises(ValueError, match=sentence):
        loader(labelled, target_key=key)


def test_other_numbers_of_values_are_refused(labelled: Path) -> None:
    with h5py.File(labelled, "r+") as handle:
        for subject, width in (("sub-a", 1), ("sub-b", 2), ("sub-d", 2)):
            data = handle[f"{subject}/streamlines/data_per_streamline"]
            data.create_dataset("pair", data=np.ones((COUNTS[subject], width), dtype=np.float32))
    with pytest.raises(ValueError, match=r"'pair' .* 2 values per streamline in .*sub-b.* 1 according to the model"):
        loader(labelled, target_key="pair")

    class AnySize(StreamlineClassifierModel):
        target_size = None

    dataset = MultiSubjectDataset(labelled)
    dataset.load_data()
    with pytest.raises(ValueError, match=r"2 values per streamline in the .*sub-b.*, but 1 according to the .*sub-a"):
        check_target_values(dataset, AnySize(nb_features=3, target_key="pair"), "streamlines")


def test_testing_subjects_need_no_values(labelled: Path) -> None:
    with h5py.File(labelled, "r+") as handle:
        del handle["sub-e/streamlines/data_per_streamline/valid"]
    assert loader(labelled).model is not None


def test_training_learns_the_values(labelled: Path, tmp_path: Path) -> None:
    """Valid: the streamline starts in the upper half."""
    with h5py.File(labelled, "r+") as handle:
        for subject in COUNTS:
            group = handle[f"{subject}/streamlines"]
            points, offsets = group["data"][:], group["offsets"][:]
            valid = (points[offsets, 2:3] > np.median(points[:, 2])).astype(np.float32)
            group["data_per_streamline/valid"][:] = valid
    load = loader(labelled, dropout=0.0, nb_channels=(32, 32))
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=10, seed=1)
    options: dict[str, Any] = {"seed": 1, "verbose": False, "learning_rates": 0.003}
    trainer = DWIMLTrainerOneInput(load.model, tmp_path, "exp", sampler, load, max_epochs=60, **options)
    trainer.train_and_validate()
    loaded = load_experiment(tmp_path / "exp")
    assert loaded.model.target_key == "valid"
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "exp/logs/metrics.jsonl").read_text().splitlines()]
    assert losses[0] > 0.6
    assert losses[-1] < 0.3


def test_commands_for_models_of_points_refuse_it(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "streamline-classifier", str(labelled), str(tmp_path), "exp", "--input_group_name", "input"]
    words += ["--streamline_group_name", "streamlines", "--max_epochs", "1", "-q"]
    assert main(words) == 0
    capsys.readouterr()
    for command, sentence in (
        (
            ["track", "sub-a", str(tmp_path / "out.trk"), "--tracking_mask", "wm_mask"],
            "classifies streamlines: give it as --class",
        ),
        (["show_loss", "sub-a", str(tmp_path / "loss")], "has one loss per streamline, and none per point"),
    ):
        assert main([command[0], str(tmp_path / "exp"), *command[1:]]) == 2
        printed = capsys.readouterr().err
        assert sentence in printed
        assert printed.count("error: ") == 1
    assert main(["info", str(tmp_path / "exp")]) == 0
    printed = capsys.readouterr().out
    assert f"dwiml filter_plausible {tmp_path / 'exp'} SUBJECT IN.trk OUT.trk" in printed
    assert "dwiml track" not in printed
