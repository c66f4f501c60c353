from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import small_trainer
from tests_support import AFFINE

from dwiml.evaluation.direction_error import evaluate_directions


class FixedDirection(torch.nn.Module):
    """Always answers +x in voxel space."""

    forward_uses_last_point = False
    device = torch.device("cpu")

    def forward(self, inputs: object, streamlines: object) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(streamlines.total_points, 3)  # type: ignore[attr-defined]

    def compute_loss(self, outputs: torch.Tensor, targets: object) -> tuple[torch.Tensor, int]:
        return torch.tensor(0.25), len(outputs)

    def get_tracking_directions(self, outputs: torch.Tensor, algo: str, threshold: None) -> torch.Tensor:
        return outputs


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosine = (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def test_angles_equal_those_in_rasmm(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, model_args={"step_size": None})
    got = evaluate_directions(FixedDirection(), trainer.batch_sampler, trainer.batch_loader)
    model_angles, after_first, straight = [], [], []
    linear = AFFINE[:3, :3]
    for line in trainer.batch_sampler.dataset.validation_set[0].streamlines["streamlines"].get():
        steps = np.diff(line.numpy().astype(np.float64), axis=0) @ linear.T
        ahead = angle(np.broadcast_to(linear @ [1.0, 0, 0], steps.shape), steps)
        model_angles.append(ahead)
        after_first.append(ahead[1:])
        straight.append(angle(steps[:-1], steps[1:]))
    assert got.angle == pytest.approx(np.concatenate(model_angles).mean(), abs=1e-3)
    assert got.angle_after_first == pytest.approx(np.concatenate(after_first).mean(), abs=1e-3)
    # Steps of near-straight lines: float32 coordinates leave a tenth of a degree.
    assert got.straight_on_angle == pytest.approx(np.concatenate(straight).mean(), abs=0.1)
    assert got.nb_points == sum(map(len, model_angles))
    assert got.loss == pytest.approx(0.25)


def test_a_model_of_scanner_space_has_its_directions_there(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    model: Any = FixedDirection()
    for name in ("nb_points", "compress_lines", "neighborhood_offsets", "nb_features"):
        setattr(model, name, getattr(trainer.model, name))
    model.step_size, model.streamlines_space = None, "rasmm"
    dataset = trainer.batch_sampler.dataset
    loader = type(trainer.batch_loader)(dataset, model, "input", "streamlines")
    got = evaluate_directions(model, trainer.batch_sampler, loader)
    lines = dataset.validation_set[0].streamlines["streamlines"].get()
    steps = [np.diff(line.numpy().astype(np.float64), axis=0) @ AFFINE[:3, :3].T for line in lines]
    expected = [angle(np.broadcast_to([1.0, 0, 0], each.shape), each) for each in steps]
    assert got.angle == pytest.approx(np.concatenate(expected).mean(), abs=1e-3)


def test_no_subset_is_augmented(tiny_hdf5: Path, tmp_path: Path) -> None:
    plain = {"reverse_ratio": 0.0, "split_ratio": 0.0}
    results = [
        evaluate_directions(FixedDirection(), trainer.batch_sampler, trainer.batch_loader, phase="training")
        for trainer in (
            small_trainer(tiny_hdf5, tmp_path),
            small_trainer(tiny_hdf5, tmp_path, loader_args=plain),
        )
    ]
    assert results[0] == results[1]


def test_the_training_mode_is_restored_after_an_error(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    trainer.model.train()
    trainer.model.compute_loss = lambda *_, **__: (torch.tensor(float("nan")), 3)  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError):
        evaluate_directions(trainer.model, trainer.batch_sampler, trainer.batch_loader)
    assert trainer.model.training
