"""Warnings and errors about streamlines with very many points, before the training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_training import small_trainer
from tests_support import write_hdf5

from dwiml.batching import lengths


def with_a_long_one(path: Path, nb_points: int) -> Path:
    """Write a tiny file whose subject 'sub-b' has a streamline of many points, number 3, going back and forth."""
    write_hdf5(path, {"sub-a": 5, "sub-b": 6}, {"sub-c": 4})
    with h5py.File(path, "r+") as handle:
        group = handle["sub-b/streamlines"]
        data, sizes, offsets = group["data"][:], group["lengths"][:], group["offsets"][:]
        lines = [data[start : start + size] for start, size in zip(offsets, sizes, strict=True)]
        middle = np.tile(np.float32([[5.0, 5.0, 5.0], [5.2, 5.0, 5.0]]), (nb_points // 2, 1))
        lines[3] = middle
        steps = np.diff(middle, axis=0) * group.attrs["voxel_sizes"]
        euclidean = group["euclidean_lengths"][:]
        euclidean[3] = np.linalg.norm(steps, axis=1).sum()
        for name, values in (
            ("data", np.concatenate(lines)),
            ("lengths", np.array([len(line) for line in lines])),
            ("offsets", np.cumsum([0, *(len(line) for line in lines[:-1])])),
            ("euclidean_lengths", euclidean),
        ):
            dtype = group[name].dtype
            del group[name]
            group[name] = values.astype(dtype)
    return path


NOT_RESAMPLED: dict[str, Any] = {"model_args": {"step_size": None}, "learning_rates": 0.01}


def test_many_points_give_a_warning_before_the_training(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A low limit keeps the training short.
    monkeypatch.setattr(lengths, "MANY_POINTS", 200)
    path = with_a_long_one(tmp_path / "data.hdf5", 400)
    trainer = small_trainer(path, tmp_path, max_epochs=1, verbose=True, **NOT_RESAMPLED)
    assert "Longest    400 points in a streamline, as given to the model" in trainer.summary()
    with caplog.at_level(logging.WARNING):
        trainer.train_and_validate()
    assert "Streamline 3 of subject 'sub-b' has 400 points after resampling. A recurrent model" in caplog.text
    caplog.clear()
    # About 60 points after resampling to 2 mm.
    small_trainer(path, tmp_path, "resampled", max_epochs=1).train_and_validate()
    assert not caplog.records


def test_too_many_are_refused(tmp_path: Path) -> None:
    path = with_a_long_one(tmp_path / "data.hdf5", 100_002)
    with pytest.raises(
        ValueError,
        match=r"Streamline 3 of subject 'sub-b' has 100 002 points; the maximum is 100 000: give the model",
    ):
        small_trainer(path, tmp_path, **NOT_RESAMPLED)
    assert not (tmp_path / "exp").exists()


def test_one_step_per_epoch_gives_a_hint(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 10}, {"sub-b": 4})
    summary = small_trainer(path, tmp_path).summary()
    assert "Training   1 subject, 10 streamlines, " in summary
    assert " meters; 1 batch, an epoch uses it" in summary
    assert "Hint       the weights are updated only once per epoch: a smaller batch_size_training learns" in summary
    more = write_hdf5(tmp_path / "more.hdf5", {"sub-a": 60}, {"sub-b": 4})
    assert "Hint" not in small_trainer(more, tmp_path).summary()
    accumulated = small_trainer(more, tmp_path, accumulate_batches=2).summary()
    assert "only twice per epoch: a smaller batch_size_training or accumulate_batches learns faster" in accumulated
    assert "Hint" not in small_trainer(more, tmp_path, max_batches_per_epoch_training=1).summary()
