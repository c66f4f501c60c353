"""Other data than those of the training: told when it resumes, and while it reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import small_trainer
from tests_support import add_digests, edited, write_hdf5

from dwiml import MultiSubjectDataset
from dwiml.ops.resampling import lengths_mm
from dwiml.training.experiment.parameters import refuse_differences


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return add_digests(write_hdf5(tmp_path / "data.hdf5", {"sub-a": 30, "sub-b": 20}, {"sub-d": 12}))


def test_50_points_that_moved_are_refused_at_the_resume(path: Path, tmp_path: Path) -> None:
    small_trainer(path, tmp_path, max_epochs=1).train_and_validate()
    with edited(path) as handle:
        group = handle["sub-b/streamlines"]
        points = group["data"][()]
        points[100:150, 1] += 0.5
        group["data"][...] = points
        sizes = np.linalg.norm(group.attrs["affine"][:3, :3], axis=0)
        group["euclidean_lengths"][...] = lengths_mm(points, group["lengths"][()], sizes)
    add_digests(path)
    with pytest.raises(ValueError, match=r"data.fingerprint was .* \(or allow_changed_data=True"):
        small_trainer(path, tmp_path, max_epochs=2, resume="auto").train_and_validate()
    small_trainer(path, tmp_path, max_epochs=2, resume="auto", allow_changed_data=True).train_and_validate()


def test_a_fingerprint_of_an_earlier_dwiml_cannot_be_compared() -> None:
    recorded, current = ({"data": {"fingerprint": text}} for text in ("0a1b" * 8, "v2-0a1b"))
    with pytest.raises(ValueError, match="an earlier dwiml computed it in another way"):
        refuse_differences(recorded, current, "exp")
    refuse_differences(recorded, current, "exp", allow_changed_data=True)
    recorded["sampler"], current["sampler"] = {"batch_size": "16"}, {"batch_size": "8"}
    with pytest.raises(ValueError, match=r"applies to the data only\), or start"):
        refuse_differences(recorded, current, "exp")
    del recorded["sampler"], current["sampler"]
    with pytest.raises(ValueError, match="data.fingerprint was 'v2-x' and is now 'v2-0a1b'") as caught:
        refuse_differences({"data": {"fingerprint": "v2-x"}}, current, "exp")
    assert "earlier" not in str(caught.value)


def test_a_parameter_that_an_earlier_dwiml_did_not_have() -> None:
    refuse_differences({"model": {"dropout": 0.1}}, {"model": {"dropout": 0.1, "new": None}}, "exp")
    for recorded, current, told in (
        ({}, {"new": 0}, "model.new was 'absent' and is now 0"),
        ({"new": None}, {}, "model.new was None and is now 'absent'"),
        ({"new": None}, {"new": {}}, "model.new was None and is now {}"),
    ):
        with pytest.raises(ValueError, match=told):
            refuse_differences({"model": recorded}, {"model": current}, "exp")


@pytest.mark.parametrize("nb_cpu_processes", [0, 1])
def test_a_file_replaced_under_a_lazy_training_is_told(path: Path, tmp_path: Path, nb_cpu_processes: int) -> None:
    trainer = small_trainer(path, tmp_path, max_epochs=3, nb_cpu_processes=nb_cpu_processes, lazy=True)
    dataset = trainer.batch_loader.dataset
    assert isinstance(dataset, MultiSubjectDataset)
    assert dataset.lazy
    os.replace(write_hdf5(tmp_path / "other.hdf5", {"sub-a": 30, "sub-b": 20}, {"sub-d": 12}, seed=1), path)
    with pytest.raises(ValueError, match=f"HDF5 file '{path}' was replaced by another file after it was loaded"):
        trainer.train_and_validate()


@pytest.mark.parametrize("nb_cpu_processes", [0, 1])
def test_a_worker_tells_it_too(path: Path, tmp_path: Path, nb_cpu_processes: int) -> None:
    trainer = small_trainer(path, tmp_path, lazy=True)
    trainer.batch_sampler.set_position("training", 0)
    os.replace(write_hdf5(tmp_path / "other.hdf5", {"sub-a": 30, "sub-b": 20}, {"sub-d": 12}, seed=1), path)
    batches = trainer.batch_loader.data_loader("training", trainer.batch_sampler, nb_cpu_processes=nb_cpu_processes)
    with pytest.raises((ValueError, RuntimeError), match=f"'{path}' was replaced by another file after it was loaded"):
        next(iter(batches))


@pytest.mark.parametrize("change", ["written to", "cut off"])
def test_a_volume_that_is_kept_is_not_read_from_a_changed_file(path: Path, tmp_path: Path, change: str) -> None:
    # Batches that workers have read before meet the volume as it is in the file by then; tracking reads nothing else.
    loader = small_trainer(path, tmp_path, lazy=True).batch_loader
    points = torch.full((5, 3), 4.0)
    loader.volumes.inputs_at(points, "validation", 0)
    if change == "cut off":
        os.truncate(path, 0)
    else:
        with edited(path) as handle:
            handle["sub-d/input/data"][...] += 1
    with pytest.raises(ValueError, match=f"'{path}' was .* after it was loaded"):
        loader.volumes.inputs_at(points, "validation", 0)
