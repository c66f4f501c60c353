"""The trainer that lets the model track, and judges it by what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import logs, same_weights, small_trainer
from tests_support import SHAPE, VOXEL_SIZES, write_hdf5

from dwiml import DWIMLBatchLoaderOneInput, ModelWithOneInput, TensorSequence

METRICS = {"gv_endpoint_distance_mm", "gv_length_ratio"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdf5(tmp_path_factory.mktemp("gv") / "data.hdf5", {"sub-a": 30}, {"sub-b": 9, "sub-c": 8})


def straight(outputs: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.tensor([1.0, 0.0, 0.0]).expand(len(outputs), 3)


def ended_by_hand(line: np.ndarray, nb_init: int, step: float) -> tuple[np.ndarray, float]:
    """Go straight along x from a streamline's first points, as far as it is long; return the end and the length."""
    lengths = np.linalg.norm(np.diff(line * VOXEL_SIZES, axis=0), axis=1)
    length = lengths[:nb_init].sum()
    point = line[nb_init].astype(np.float64)
    while lengths.sum() - length >= step / 2 and point[0] + step / VOXEL_SIZES[0] < SHAPE[0]:
        point[0] += step / VOXEL_SIZES[0]
        length += step
    return point, length


@pytest.mark.parametrize("nb_init", [1, 3])
def test_metrics_are_those_of_a_loop_by_hand(data: Path, tmp_path: Path, nb_init: int) -> None:
    trainer = small_trainer(
        data, tmp_path, tracking=True, tracking_phase_nb_segments_init=nb_init, tracking_phase_theta=180.0
    )
    trainer.model.get_tracking_directions = straight
    got = trainer.run_tracking_phase()
    distances, ratios = [], []
    fetcher = trainer.batch_loader.fetcher("validation", augment=False)
    trainer.batch_sampler.set_position("validation", 0, max_batches=None)
    for batch_ids in trainer.batch_sampler:
        for line in fetcher[batch_ids][0]:
            if len(line) > nb_init + 1:
                true = line.numpy()
                end, length = ended_by_hand(true, nb_init, 2.0)
                distances.append(np.linalg.norm((end - true[-1]) * VOXEL_SIZES))
                ratios.append(length / np.linalg.norm(np.diff(true * VOXEL_SIZES, axis=0), axis=1).sum())
    assert got == pytest.approx({"gv_endpoint_distance_mm": np.mean(distances), "gv_length_ratio": np.mean(ratios)})


def test_a_mask_that_is_left(data: Path, tmp_path: Path) -> None:
    trainer = small_trainer(
        data, tmp_path, tracking=True, tracking_phase_mask_group="wm_mask", tracking_phase_theta=180
    )
    for subject in trainer.batch_sampler.dataset.validation_set:
        volume = subject.volumes["wm_mask"].as_tensor()
        volume[:] = 1
    assert trainer.run_tracking_phase()["gv_left_mask"] == 0
    for subject in trainer.batch_sampler.dataset.validation_set:
        subject.volumes["wm_mask"].as_tensor()[:] = 0
    assert trainer.run_tracking_phase()["gv_left_mask"] == 1


def test_a_map_of_probabilities_is_the_mask_that_it_is_for_dwiml_track(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"tracking": True, "tracking_phase_mask_group": "wm_mask", "tracking_phase_theta": 180}
    trainer = small_trainer(data, tmp_path, **options)
    # Everywhere above 0, and nowhere 0.5.
    for subject in trainer.batch_sampler.dataset.validation_set:
        volume = subject.volumes["wm_mask"].as_tensor()
        volume[:] = torch.linspace(0.01, 0.49, volume.numel()).reshape(volume.shape)
    assert trainer.run_tracking_phase()["gv_left_mask"] == 1
    trainer._check_data()
    assert (
        "Volume group 'wm_mask' (tracking_phase_mask_group) of subject 'sub-b' is not a 0/1 mask (values from 0.01 to "
        "0.49): voxels of at least 0.5 are inside." in caplog.text
    )


def test_epochs_without_the_phase_have_nothing_of_it(data: Path, tmp_path: Path) -> None:
    trainer = small_trainer(data, tmp_path, tracking=True, tracking_phase_frequency=2, max_epochs=5)
    trainer.train_and_validate()
    assert [set(line) >= METRICS for line in logs(tmp_path / "exp", durations=True)] == [False, True, False, True, True]
    assert not any("gv_left_mask" in line for line in logs(tmp_path / "exp"))


@pytest.mark.first(1)
@pytest.mark.parametrize("metric", ["gv_endpoint_distance_mm", "gv_length_ratio", "valid_loss"])
def test_the_best_model_is_that_of_the_metric(data: Path, tmp_path: Path, metric: str) -> None:
    trainer = small_trainer(
        data, tmp_path, tracking=True, best_model_metric=metric, max_epochs=6, tracking_phase_frequency=2
    )
    trainer.train_and_validate()
    values = {line["epoch"]: line[metric] for line in logs(tmp_path / "exp", durations=True) if metric in line}
    badness = {epoch: abs(value - 1) if metric == "gv_length_ratio" else value for epoch, value in values.items()}
    best = min(badness, key=lambda epoch: badness[epoch])
    assert (trainer.best.best_epoch, trainer.best.best_value) == (best, badness[best])
    assert len(values) == (6 if metric == "valid_loss" else 3)


def test_a_resumed_run_is_the_run(data: Path, tmp_path: Path) -> None:
    whole = small_trainer(data, tmp_path, "whole", tracking=True, max_epochs=4)
    whole.train_and_validate()
    small_trainer(data, tmp_path, "parts", tracking=True, max_epochs=2).train_and_validate()
    resumed = small_trainer(data, tmp_path, "parts", tracking=True, max_epochs=4, resume="must")
    resumed.train_and_validate()
    assert same_weights(whole.model, resumed.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")
    # The training itself is that of the parent.
    plain = small_trainer(data, tmp_path, "plain", max_epochs=4)
    plain.train_and_validate()
    assert same_weights(whole.model, plain.model)


def test_points_that_are_repeated_have_no_say(data: Path, tmp_path: Path) -> None:
    trainer = small_trainer(data, tmp_path, tracking=True)
    still = torch.full((12, 3), 5.0)
    moving = torch.tensor([[3.0, 5, 5]]) + torch.arange(6.0)[:, None] * torch.tensor([0.8, 0, 0])
    assert trainer.tracking_phase_sums(TensorSequence.from_list([still]), {0: slice(0, 1)}) == {}
    sums = trainer.tracking_phase_sums(TensorSequence.from_list([still, moving]), {0: slice(0, 2)})
    assert [count for _, count in sums.values()] == [1] * len(sums)
    assert all(total < 50 for total, _ in sums.values())


class NoTracker(ModelWithOneInput):
    def forward(self, *args: Any) -> None: ...

    def compute_loss(self, *args: Any) -> Any: ...


def test_what_cannot_be_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"best_model_metric must be one of 'valid_loss', .*, got 'loss'"):
        small_trainer(data, tmp_path, tracking=True, best_model_metric="loss")
    with pytest.raises(ValueError, match="tracking_phase_frequency must be"):
        small_trainer(data, tmp_path, tracking=True, tracking_phase_frequency=0)
    with pytest.raises(ValueError, match="no step size; give tracking_phase_step_size"):
        small_trainer(data, tmp_path, tracking=True, model_args={"step_size": None})
    with pytest.raises(ValueError, match="Volume group 'mask' not found"):
        small_trainer(data, tmp_path, tracking=True, tracking_phase_mask_group="mask")
    with pytest.raises(ValueError, match="'gv_left_mask' needs tracking_phase_mask_group"):
        small_trainer(data, tmp_path, tracking=True, best_model_metric="gv_left_mask")
    with pytest.raises(ValueError, match="does not predict the end of streamlines"):
        small_trainer(data, tmp_path, tracking=True, tracking_phase_eos_thresh=0.5)
    with pytest.raises(ValueError, match=r"nothing to measure: no validation streamline has more than 501 points"):
        small_trainer(data, tmp_path, tracking=True, tracking_phase_nb_segments_init=500)
    with pytest.raises(ValueError, match=r"'input' \(tracking_phase_mask_group\) has 4 features; a mask has one\.$"):
        small_trainer(data, tmp_path, tracking=True, tracking_phase_mask_group="input")
    alone = write_hdf5(tmp_path / "alone.hdf5", {"sub-a": 5})
    with (
        pytest.warns(UserWarning, match="no validation streamline"),
        pytest.raises(ValueError, match="needs validation subjects, and there are none"),
    ):
        small_trainer(alone, tmp_path, tracking=True)
    trainer = small_trainer(data, tmp_path, tracking=True)
    with pytest.raises(ValueError, match="needs a model that tracks; NoTracker has no check_tracking and no get"):
        type(trainer)(
            NoTracker(nb_features=4, step_size=1.0), tmp_path, "x", trainer.batch_sampler, trainer.batch_loader
        )


class DoublingLoader(DWIMLBatchLoaderOneInput):
    """A loader of the user, whose inputs are twice those of the volume."""

    def load_batch_inputs(self, streamlines: TensorSequence, ids_per_subj: Any) -> TensorSequence:
        inputs = super().load_batch_inputs(streamlines, ids_per_subj)
        return inputs.mapped(2 * inputs.data)


def test_the_phase_has_the_inputs_of_the_loader(data: Path, tmp_path: Path) -> None:
    trainer = small_trainer(data, tmp_path, tracking=True, tracking_phase_theta=180.0)
    before = trainer.run_tracking_phase()
    points = torch.rand(7, 3) * 8
    plain = trainer.batch_loader.inputs_at(points, "validation", 1)
    trainer.batch_loader.__class__ = DoublingLoader
    assert torch.equal(trainer.batch_loader.inputs_at(points, "validation", 1), 2 * plain)
    doubled = trainer.run_tracking_phase()
    assert doubled != before
    with torch.no_grad():
        trainer.batch_loader.__class__ = DWIMLBatchLoaderOneInput
        for subject in trainer.batch_sampler.dataset.validation_set:
            subject.volumes["input"].as_tensor()[:] *= 2
    trainer.batch_loader.volumes._cache.clear()
    assert trainer.run_tracking_phase() == doubled


def test_inputs_of_a_loader_that_are_not_one_row_per_point(data: Path, tmp_path: Path) -> None:
    loader = small_trainer(data, tmp_path, tracking=True).batch_loader
    loader.load_batch_inputs = lambda streamlines, ids_per_subj: streamlines[:2]
    with pytest.raises(ValueError, match="must return one row for each point, got 2 rows for 7 streamlines of one"):
        loader.inputs_at(torch.rand(7, 3), "validation", 0)
