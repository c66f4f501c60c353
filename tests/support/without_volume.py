"""Models without a volume, and a small training of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dwiml import (
    AutoencoderModel,
    DWIMLBatchIDSampler,
    DWIMLStreamlinesBatchLoader,
    DWIMLTrainer,
    MainModelAbstract,
    MultiSubjectDataset,
    TensorSequence,
)

SMALL_AUTOENCODER: dict[str, Any] = {"nb_points": 16, "nb_channels": [4, 8, 8], "latent_size": 4, "scale": 20.0}


class NextPointModel(MainModelAbstract):
    """A user's own model: the next point from a point, without any volume."""

    def __init__(self, *, hidden_size: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, hidden_size),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(hidden_size, 3),
        )

    @property
    def forward_uses_last_point(self) -> bool:
        return False

    def forward(self, streamlines: TensorSequence) -> torch.Tensor:
        step: torch.Tensor = self.layers(streamlines.data / 10)
        return step

    def compute_loss(
        self, outputs: torch.Tensor, targets: TensorSequence, average_results: bool = True
    ) -> tuple[torch.Tensor, int]:
        losses = (outputs - targets.diff().data).square().sum(dim=1)
        return (losses.mean() if average_results else losses), len(losses)


def trainer_without_volume(
    hdf5_file: Path,
    experiments: Path,
    name: str = "exp",
    *,
    model_class: type[Any] = NextPointModel,
    model_args: dict[str, Any] | None = None,
    lazy: bool = False,
    **settings: Any,
) -> DWIMLTrainer:
    """Return a plain trainer; the loader reads no volume, and reverses streamlines and adds noise."""
    dataset = MultiSubjectDataset(hdf5_file, lazy=lazy)
    dataset.load_data(volume_groups=[])
    torch.manual_seed(9)
    model = model_class(**(SMALL_AUTOENCODER if model_class is AutoencoderModel else {}) | (model_args or {}))
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=16, seed=4)
    augmentation = {"reverse_ratio": 0.5, "noise_gaussian_size_forward": 0.05, "noise_gaussian_size_loss": 0.02}
    loader = DWIMLStreamlinesBatchLoader(dataset, model, "streamlines", seed=4, **augmentation)
    chosen = {"seed": 4, "learning_rates": 0.01, "verbose": False, "max_epochs": 2, **settings}
    return DWIMLTrainer(model, experiments, name, sampler, loader, **chosen)
