"""What the generation-validation phase holds streamlines against: connectivity matrices and true bundles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from small_training import logs, small_trainer
from tests_support import AFFINE, SHAPE, VOXEL_SIZES, write_hdf5

from dwiml import TensorSequence
from dwiml.data.connectivity import Connectivity
from dwiml.ops.connectivity_matrix import ConnectivityMatrix
from dwiml.ops.regions import BlocRegions
from dwiml.training.generation.measures import SubjectReference, measure_continued
from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase
from dwiml.training.reporting.metrics import DIFFERENCE_FROM_BEST, name_of

BLOCS = (2, 1, 3)
SUBJECTS = {"sub-b": 9, "sub-c": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file whose validation subjects have a matrix of blocs, (0, 1, 3) connected with all, 2, 4, 5 not."""
    path = write_hdf5(tmp_path_factory.mktemp("gv") / "data.hdf5", {"sub-a": 30}, SUBJECTS)
    matrix = np.zeros((6, 6), dtype=np.uint8)
    matrix[[0, 1, 3]] = matrix[:, [0, 1, 3]] = 1
    with h5py.File(path, "a") as handle:
        for name in SUBJECTS:
            group = handle[name]["streamlines"]
            group.create_dataset("connectivity_matrix", data=matrix)
            group.attrs["connectivity_matrix_type"] = "from_blocs"
            group.attrs["connectivity_nb_blocs"] = BLOCS
    return path


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the truth of all subjects: a bundle from the lower to the upper third of x."""
    folder = tmp_path_factory.mktemp("truth")
    x = np.indices(SHAPE)[0]
    for name, inside in (("mask", x >= 0), ("head", x < 4), ("tail", x >= 8)):
        nib.save(nib.Nifti1Image(inside.astype(np.uint8), AFFINE), folder / f"{name}.nii.gz")
    entry = {name: f"{name}.nii.gz" for name in ("mask", "head", "tail")}
    (folder / "ground_truth.json").write_text(json.dumps({"along x": entry}))
    return folder


def test_shares_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    lines = [rng.uniform(0, SHAPE, size=(2, 3)).astype(np.float32) for _ in range(200)]
    matrix = np.zeros((6, 6), dtype=bool)
    matrix[[0, 1, 3]] = matrix[:, [0, 1, 3]] = True
    known = SubjectReference(
        torch.from_numpy(VOXEL_SIZES).float(),
        Connectivity(BlocRegions(SHAPE, BLOCS), ConnectivityMatrix.from_dense(matrix)),
    )
    streamlines = TensorSequence.from_list([torch.from_numpy(line) for line in lines])
    values = measure_continued(streamlines, streamlines, known)
    places = np.arange(6).reshape(BLOCS)
    wrong = []
    for line in lines:
        first, last = (places[tuple((point / SHAPE * BLOCS).astype(int))] for point in line)
        wrong.append(not matrix[first, last])
    assert 0 < np.mean(wrong) < 1
    assert values["gv_invalid_connections"].tolist() == wrong
    assert values["gv_endpoint_distance_mm"].tolist() == pytest.approx([0.0] * 200)
    assert values["gv_length_ratio"].tolist() == pytest.approx([1.0] * 200)
    assert set(values) == {"gv_invalid_connections", "gv_endpoint_distance_mm", "gv_length_ratio"}


def test_a_mask_is_left_too_soon_before_95_percent_of_the_length() -> None:
    true = TensorSequence.from_list([torch.tensor([[0.0, 0, 0], [10, 0, 0]])] * 4)
    made = TensorSequence.from_list([torch.tensor([[0.0, 0, 0], [x, 0, 0]]) for x in (9.4, 9.6, 12.0, 3.0)])
    left = torch.tensor([True, True, True, False])
    values = measure_continued(made, true, SubjectReference(torch.ones(3)), left_mask=left)
    assert values["gv_left_mask"].tolist() == [1, 0, 0, 0]


def test_the_phase_logs_them(data: Path, truth: Path, tmp_path: Path) -> None:
    trainer = small_trainer(
        data,
        tmp_path,
        tracking=True,
        tracking_phase_theta=180.0,
        tracking_phase_ground_truth=str(truth),
    )
    assert isinstance(trainer, DWIMLTrainerOneInputWithGVPhase)
    trainer.model.get_tracking_directions = lambda outputs, *_, **__: torch.tensor([1.0, 0, 0]).expand(len(outputs), 3)
    measured = []
    measure = trainer._measure

    def keep(subject: int, true: TensorSequence) -> dict[str, torch.Tensor]:
        measured.append(measure(subject, true))
        return measured[-1]

    trainer._measure = keep  # type: ignore[method-assign]
    got = trainer.run_tracking_phase()
    for name in ("gv_valid_connections", "gv_invalid_connections"):
        every = torch.cat([values[name] for values in measured])
        assert len(every) == sum(SUBJECTS.values())
        assert got[name] == pytest.approx(every.mean().item())
        assert 0 < got[name] < 1


@pytest.mark.parametrize("metric", ["gv_valid_connections", "gv_invalid_connections"])
def test_the_best_model_by_what_is_known(
    data: Path, truth: Path, tmp_path: Path, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = small_trainer(
        data,
        tmp_path,
        tracking=True,
        best_model_metric=metric,
        max_epochs=4,
        verbose=True,
        tracking_phase_theta=180.0,
        tracking_phase_ground_truth=str(truth),
    )
    trainer.train_and_validate()
    told = capsys.readouterr().err
    assert len(re.findall(rf"{re.escape(name_of(metric))} [01]\.\d{{3}}", told)) == 4
    assert f"the best model by {name_of(metric)} is that of epoch {trainer.best.best_epoch}." in told
    values = [line[metric] for line in logs(tmp_path / "exp")]
    best = max(values) if metric == "gv_valid_connections" else min(values)
    assert values[trainer.best.best_epoch] == best
    assert DIFFERENCE_FROM_BEST[metric](0.25) == (0.75 if metric == "gv_valid_connections" else 0.25)


def test_the_truth_of_each_subject_is_found_by_its_name(data: Path, truth: Path, tmp_path: Path) -> None:
    for name in SUBJECTS:
        (tmp_path / name).symlink_to(truth)
    trainer = small_trainer(data, tmp_path, tracking=True, tracking_phase_ground_truth=f"{tmp_path}/{{subject}}")
    assert "gv_valid_connections" in trainer.run_tracking_phase()
    with pytest.raises(NotADirectoryError, match=r"'.*sub-b_gone' is not a folder"):
        small_trainer(data, tmp_path, "gone", tracking=True, tracking_phase_ground_truth=f"{tmp_path}/{{subject}}_gone")


def test_what_would_never_be_measured_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'gv_valid_connections' needs tracking_phase_ground_truth"):
        small_trainer(data, tmp_path, tracking=True, best_model_metric="gv_valid_connections")
    without = write_hdf5(tmp_path / "without.hdf5", {"sub-a": 5}, {"sub-b": 5})
    with pytest.raises(ValueError, match=r"needs a connectivity matrix of each validation subject .* 'streamlines'"):
        small_trainer(without, tmp_path, tracking=True, best_model_metric="gv_invalid_connections")


def test_a_truth_on_another_grid_is_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    nib.save(nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])), folder / "one.nii.gz")
    with pytest.raises(ValueError, match="subject 'sub-b' is not on the grid of its volume .*affines.*mrgrid"):
        small_trainer(data, tmp_path, tracking=True, tracking_phase_ground_truth=str(folder))


def test_a_truth_whose_affine_was_rounded_is_on_the_same_grid(data: Path, tmp_path: Path) -> None:
    """A definition of its own stopped the phase where creation, tracking and scoring had accepted the header."""
    folder = tmp_path / "rounded"
    folder.mkdir()
    rounded = AFFINE + 0.03 * np.array([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    nib.save(nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), rounded), folder / "one.nii.gz")
    small_trainer(data, tmp_path, tracking=True, tracking_phase_ground_truth=str(folder))
