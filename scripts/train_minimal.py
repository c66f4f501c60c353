"""Train a small custom model: the script of the guide, complete.

python scripts/train_minimal.py data.hdf5 my_experiments minimal
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    ModelWithDirectionGetter,
    ModelWithOneInput,
    MultiSubjectDataset,
    TensorSequence,
    seed_everything,
)


class MyModel(ModelWithDirectionGetter, ModelWithOneInput):
    """Two layers applied to each point, and a direction getter, which defines the loss.

    Parameters
    ----------
    hidden_size
        Units of each layer.
    **kwargs
        Parameters of the parent classes: ``nb_features``, ``step_size``, ``dg_key``, ...
    """

    def __init__(self, *, hidden_size: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(self.embedded_input_size, hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden_size, hidden_size),
            torch.nn.ReLU(),
        )
        self.instantiate_direction_getter(hidden_size)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> torch.Tensor:
        """Return a direction for each point: inputs (N, nb_features) to outputs (N, 3), voxel space."""
        outputs: torch.Tensor = self.direction_getter(self.layers(self.embed_inputs(inputs)))
        return outputs


def main() -> None:
    """Run the script of the guide with the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Train a small custom model.")
    parser.add_argument("hdf5_file", help="made with 'dwiml create_hdf5'")
    parser.add_argument("experiments_path", help="folder of all experiments")
    parser.add_argument("experiment_name", help="folder of this experiment, created there")
    parser.add_argument("--input_group_name", default="input", help="volume group [%(default)s]")
    parser.add_argument("--streamline_group_name", default="streamlines", help="streamlines group [%(default)s]")
    parser.add_argument("--max_epochs", type=int, default=10, help="total number of epochs [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of weights, batches and dropout [%(default)s]")
    args = parser.parse_args()

    # The same weights, batches and losses each time
    seed_everything(args.seed)

    # Loading the data, possibly with lazy option
    dataset = MultiSubjectDataset(args.hdf5_file)
    dataset.load_data()

    # Preparing your model
    model = MyModel(nb_features=dataset.nb_features[args.input_group_name], step_size=1.0)

    # Preparing the BatchSampler
    batch_sampler = DWIMLBatchIDSampler(dataset=dataset, streamline_group_name=args.streamline_group_name)

    # Preparing the BatchLoader.
    batch_loader = DWIMLBatchLoaderOneInput(
        dataset=dataset,
        model=model,
        input_group_name=args.input_group_name,
        streamline_group_name=args.streamline_group_name,
    )

    # Preparing your trainer
    trainer = DWIMLTrainerOneInput(
        model=model,
        experiments_path=args.experiments_path,
        experiment_name=args.experiment_name,
        batch_sampler=batch_sampler,
        batch_loader=batch_loader,
        max_epochs=args.max_epochs,
        resume="auto",
    )

    # Run the training!
    trainer.train_and_validate()


if __name__ == "__main__":
    main()
