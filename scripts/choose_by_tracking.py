"""Train with the generation-validation phase, and compare the models that its metrics choose on a test subject.

Each seed is trained once and the model of every epoch is kept, since the training does not depend on the selection
metric. Needs the folder of the example subjects from which the HDF5 file was created (dwiml phantom).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dwiml.cli import run_command

METRICS = ("valid_loss", "gv_valid_connections", "gv_endpoint_distance_mm")


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hdf5_file", help="of the example subjects")
    parser.add_argument("phantom", type=Path, help="their folder")
    parser.add_argument("experiments_path", type=Path, help="folder of the experiments, one a seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="[1 2 3]")
    parser.add_argument("--max_epochs", type=int, default=8, help="[%(default)s]")
    parser.add_argument("--max_batches", type=int, default=40, help="an epoch [%(default)s]")
    parser.add_argument("--json", type=Path, help="write all figures there")
    return parser


def train(arguments: argparse.Namespace, seed: int) -> tuple[Any, list[dict[str, Any]], list[dict[str, float]]]:
    """Train one seed; return the trainer, the weights of every epoch, and its metrics."""
    from dwiml import (
        DWIMLBatchIDSampler,
        DWIMLBatchLoaderOneInput,
        DWIMLTrainerOneInputWithGVPhase,
        Learn2TrackModel,
        MultiSubjectDataset,
        seed_everything,
    )

    states: list[dict[str, Any]] = []
    logged: list[dict[str, float]] = []

    class KeepsAll(DWIMLTrainerOneInputWithGVPhase):
        def selection_value(self, metrics: dict[str, float]) -> float | None:
            """Keep the weights and the metrics of the epoch that has ended."""
            states.append(copy.deepcopy(self.model.state_dict()))
            logged.append(dict(metrics))
            return super().selection_value(metrics)

    dataset = MultiSubjectDataset(arguments.hdf5_file)
    dataset.load_data()
    seed_everything(seed)
    model = Learn2TrackModel(nb_features=dataset.nb_features["input"], step_size=2.0, nb_previous_dirs=1)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=200)
    loader = DWIMLBatchLoaderOneInput(
        dataset, model, "input", "streamlines", reverse_ratio=0.5, noise_gaussian_size_forward=0.1
    )
    trainer = KeepsAll(
        model,
        arguments.experiments_path,
        f"seed_{seed}",
        sampler,
        loader,
        max_epochs=arguments.max_epochs,
        max_batches_per_epoch_training=arguments.max_batches,
        learning_rates=0.002,
        clip_grad=1.0,
        tracking_phase_mask_group="wm_mask",
        tracking_phase_mask_interpolation="trilinear",
        tracking_phase_ground_truth=str(arguments.phantom / "subjects" / "{subject}"),
    )
    trainer.train_and_validate()
    return trainer, states, logged


def test(arguments: argparse.Namespace, trainer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Track the test subject from the ends of its bundles with some weights, and score."""
    from comparison.model_tracking import scores_of, seeds_in_ends, track_with_model

    from dwiml.scoring.ground_truth_files import read_ground_truth

    subject = trainer.batch_loader.dataset.testing_set[0]
    folder = arguments.phantom / "subjects" / subject.subject_id
    trainer.model.load_state_dict(state)
    mask = subject.volumes["wm_mask"].as_tensor()[..., 0].numpy() != 0
    lines = track_with_model(
        trainer.model,
        subject.volumes["input"],
        mask,
        seeds_in_ends(folder, mask, 5),
        min_length=20.0,
        forward_only=True,
    )
    return scores_of(*lines, read_ground_truth(folder))


def compare(arguments: argparse.Namespace) -> None:
    """Train all seeds and print what each metric's choice does on the test subject."""
    from dwiml.training.reporting.metrics import DIFFERENCE_FROM_BEST

    rows = []
    for seed in arguments.seeds:
        trainer, states, logged = train(arguments, seed)
        for metric in METRICS:
            badness = [DIFFERENCE_FROM_BEST[metric](metrics[metric]) for metrics in logged]
            epoch = badness.index(min(badness))
            scores = test(arguments, trainer, states[epoch])
            rows.append({"seed": seed, "metric": metric, "epoch": epoch, "value": logged[epoch][metric], **scores})
            print(
                f"seed {seed}, by {metric:<24} epoch {epoch:>2} ({logged[epoch][metric]:.4g}): on the test subject "
                f"{100 * scores['valid_connections']:.1f} % valid connections, overlap {100 * scores['overlap']:.1f} %",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; bad input gives one sentence and exit code 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_command(lambda: compare(arguments), parser=parser)


if __name__ == "__main__":
    sys.exit(main())
