"""Train with a custom trainer that overrides ``run_one_batch`` and needs no volume.

The model learns the shape of streamlines: it predicts each step from the one before.

    python scripts/train_custom_trainer.py data.hdf5 my_experiments shapes
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLStreamlinesBatchLoader,
    DWIMLTrainer,
    MainModelAbstract,
    MultiSubjectDataset,
    TensorSequence,
    seed_everything,
)
from dwiml.batching.fetcher import BatchSlices


class NextStepModel(MainModelAbstract):
    """Predicts a step from the step before it.

    Parameters
    ----------
    hidden_size
        Units of the hidden layer.
    **kwargs
        Parameters of the parent class: ``step_size``, ``nb_points`` or ``compress_lines``.
    """

    def __init__(self, *, hidden_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, hidden_size), torch.nn.Tanh(), torch.nn.Linear(hidden_size, 3)
        )

    def forward(self, steps: TensorSequence) -> torch.Tensor:
        """Return the step after each of ``steps`` (N, 3), in voxels."""
        predicted: torch.Tensor = self.layers(steps.data)
        return predicted

    def compute_loss(
        self, outputs: torch.Tensor, targets: TensorSequence, average_results: bool = True
    ) -> tuple[torch.Tensor, int]:
        """Return the squared distance to the true next step, voxels squared, and the number of steps."""
        losses = (outputs - targets.data).square().sum(dim=1)
        return (losses.sum() / max(1, len(losses)) if average_results else losses), len(losses)


class NextStepTrainer(DWIMLTrainer):
    """Shows the model each step but the last of a streamline, and compares with each step but the first."""

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Return the mean loss of a batch, and its number of steps."""
        steps = targets.diff()
        following = steps.tail((steps.lengths - 1).clamp(min=0))
        outputs = self.model(steps.trimmed_last())
        result: tuple[torch.Tensor, int] = self.model.compute_loss(outputs, following)
        return result


def main() -> None:
    """Train on the streamlines of an HDF5 file."""
    parser = argparse.ArgumentParser(description="Train with a custom trainer, without volumes.")
    parser.add_argument("hdf5_file", help="made with 'dwiml create_hdf5'")
    parser.add_argument("experiments_path", help="folder of all experiments")
    parser.add_argument("experiment_name", help="folder of this experiment, created there")
    parser.add_argument("--streamline_group_name", default="streamlines", help="streamlines group [%(default)s]")
    parser.add_argument("--max_epochs", type=int, default=10, help="total number of epochs [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of weights, batches and dropout [%(default)s]")
    args = parser.parse_args()

    seed_everything(args.seed)
    dataset = MultiSubjectDataset(args.hdf5_file)
    # No volume is read.
    dataset.load_data(volume_groups=[])
    model = NextStepModel(step_size=2.0)
    batch_sampler = DWIMLBatchIDSampler(dataset, args.streamline_group_name)
    batch_loader = DWIMLStreamlinesBatchLoader(dataset, model, args.streamline_group_name)
    trainer = NextStepTrainer(
        model,
        args.experiments_path,
        args.experiment_name,
        batch_sampler,
        batch_loader,
        max_epochs=args.max_epochs,
        learning_rates=0.01,
        resume="auto",
    )
    trainer.train_and_validate()


if __name__ == "__main__":
    main()
