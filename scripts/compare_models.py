"""Train models with equal CPU time on the example subjects, and compare their tractograms of the test subject.

Each model is trained on the training subjects for the same CPU time, then tracks the test subject from the ends of its
bundles: deterministically and, if its direction getter is a distribution, probabilistically. Rows that are already in
the JSON file are not repeated, so the script continues where it was interrupted. Needs the folder of the example
subjects from which the HDF5 file was created (dwiml phantom).
"""

from __future__ import annotations

import argparse
import math
import pkgutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command

if TYPE_CHECKING:
    import torch

    from dwiml import MultiSubjectDataset

MODELS = ("learn2track", "transformer-src-only", "transformer-src-and-tgt", "transformer-src-tgt-concat")
WARM_UP = 0.02  # share of the training
MEASURES = ("valid_connections", "invalid_connections", "overlap", "overreach", "f1")


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hdf5_file", help="of the example subjects")
    parser.add_argument("phantom", type=Path, help="their folder")
    parser.add_argument("json", type=Path, help="file of all figures; each model is added when it is done")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=default_rows(),
        metavar="MODEL/DIRECTION_GETTER",
        help="what to train [learn2track with each direction getter, each transformer with two]",
    )
    parser.add_argument("--cpu_minutes", type=float, default=20.0, help="CPU time of each training [%(default)g]")
    parser.add_argument("--batch_size", type=int, default=200, help="[%(default)s]")
    parser.add_argument("--seeds_per_voxel", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--experiments_path", type=Path, help="keep the experiments in this folder")
    return parser


def default_rows() -> list[str]:
    """Return the names of the rows: a model and its direction getter."""
    from dwiml.models.direction_getters import DIRECTION_GETTERS

    rows = [f"learn2track/{key}" for key in DIRECTION_GETTERS]
    return rows + [f"{name}/{key}" for name in MODELS[1:] for key in ("cosine-regression", "fisher-von-mises")]


def check_rows(rows: Sequence[str]) -> None:
    """Check that rows are a model and a direction getter, each once.

    Raises
    ------
    ValueError
        If one is not.
    """
    from comparison.checks import check_different

    from dwiml.arguments import check_choice
    from dwiml.models.direction_getters import DIRECTION_GETTERS

    allowed = [f"{name}/{key}" for name in MODELS for key in DIRECTION_GETTERS]
    for row in rows:
        check_choice("--rows", row, allowed)
    check_different("--rows", rows)


def build_model(row: str, nb_features: int) -> Any:
    """Build the model of a row; transformers have fewer and smaller layers than by default."""
    from dwiml.models.catalog import MODELS as CLASSES

    name, _, dg_key = row.partition("/")
    own: dict[str, Any] = {"nb_previous_dirs": 1}
    if name != "learn2track":
        layers = (
            ["nb_layers_encoder", "nb_layers_decoder"] if name == "transformer-src-and-tgt" else ["nb_layers_encoder"]
        )
        own = {"nb_heads": 8, "ffnn_hidden_size": 256, "dropout": 0.0, **dict.fromkeys(layers, 3)}
        own["input_embedded_size"] = 128
    return pkgutil.resolve_name(CLASSES[name])(
        nb_features=nb_features,
        step_size=2.0,
        neighborhood_type="axes",
        neighborhood_radius=1,
        dg_key=dg_key,
        **own,
    )


def train(
    row: str, dataset: MultiSubjectDataset, arguments: argparse.Namespace, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """Train the model of a row for ``cpu_minutes``; return it, and the figures of its training."""
    from dwiml import DWIMLBatchIDSampler, DWIMLBatchLoaderOneInput, DWIMLTrainerOneInput, seed_everything

    budget: float = 60 * arguments.cpu_minutes
    seed_everything(1)
    model = build_model(row, dataset.nb_features["input"])
    # A model of the input alone cannot know in which direction a reversed streamline goes.
    reverse_ratio = 0.0 if row.startswith("transformer-src-only") else 0.5
    highest_rate = 0.002 if row.startswith("learn2track") else 0.0005

    class TimedTrainer(DWIMLTrainerOneInput):
        """Its learning rate follows the CPU time: a warm-up, then half a cosine."""

        began = time.process_time()
        nb_steps = nb_points = 0

        @property
        def share(self) -> float:
            return (time.process_time() - self.began) / budget

        def run_one_batch(self, targets: Any, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
            if self.model.training:
                self.nb_points += targets.total_points
            return super().run_one_batch(targets, ids_per_subj)

        def update_weights(self) -> None:
            share = min(self.share, 1.0)
            factor = share / WARM_UP if share < WARM_UP else (1 + math.cos(math.pi * share)) / 2
            for group in self.optimizer.param_groups:
                group["lr"] = highest_rate * max(factor, 1e-3)
            super().update_weights()
            self.nb_steps += 1

        def finish_epoch(self, metrics: dict[str, float]) -> None:
            super().finish_epoch(metrics)
            if self.share >= 1:
                self.position.epoch = self.settings.max_epochs

    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=arguments.batch_size)
    loader = DWIMLBatchLoaderOneInput(
        dataset,
        model,
        "input",
        "streamlines",
        reverse_ratio=reverse_ratio,
        noise_gaussian_size_forward=0.08,
        noise_correlated_size=0.4,
        nb_recovery_steps=3,
    )
    trainer = TimedTrainer(
        model,
        folder,
        row.replace("/", "_"),
        sampler,
        loader,
        max_epochs=100_000,
        max_batches_per_epoch_training=20,
        max_batches_per_epoch_validation=1,
        learning_rates=highest_rate,
        clip_grad=1.0,
        verbose=False,
    )
    trainer.train_and_validate()
    seconds = time.process_time() - TimedTrainer.began
    figures = {
        "training_cpu_s": seconds,
        "steps": trainer.nb_steps,
        "training_points_per_cpu_s": trainer.nb_points / seconds,
        "parameters": sum(weights.numel() for weights in model.parameters()),
    }
    return model.eval(), figures


def test(model: Any, dataset: MultiSubjectDataset, arguments: argparse.Namespace, algo: str) -> dict[str, Any]:
    """Track the test subject from the ends of its bundles, and score."""
    from comparison.model_tracking import scores_of, seeds_in_ends, track_with_model

    from dwiml.scoring.ground_truth_files import read_ground_truth

    subject = dataset.testing_set[0]
    folder = arguments.phantom / "subjects" / subject.subject_id
    mask = subject.volumes["wm_mask"].as_tensor()[..., 0].numpy() != 0
    seeds = seeds_in_ends(folder, mask, arguments.seeds_per_voxel)
    begin = time.process_time()
    points, lengths = track_with_model(
        model, subject.volumes["input"], mask, seeds, min_length=20.0, forward_only=True, algo=algo
    )
    seconds = time.process_time() - begin
    scores = scores_of(points, lengths, read_ground_truth(folder))
    return {"nb_seeds": len(seeds), "tracked_streamlines_per_cpu_s": len(lengths) / seconds, **scores}


def compare(arguments: argparse.Namespace) -> None:
    """Train, track and score each row that is not in the JSON file yet, and print the table."""
    import tempfile

    from comparison.rows_file import RowsFile

    from dwiml import MultiSubjectDataset
    from dwiml.arguments import check_number, check_whole
    from dwiml.files import check_outputs
    from dwiml.scoring.ground_truth_files import read_ground_truth

    check_number("--cpu_minutes", arguments.cpu_minutes, low=0, low_included=False)
    check_whole("--seeds_per_voxel", arguments.seeds_per_voxel, low=1)
    check_whole("--batch_size", arguments.batch_size, low=1)
    check_rows(arguments.rows)
    data = [Path(arguments.hdf5_file), arguments.phantom]
    check_outputs({"JSON": arguments.json}, inputs=data, experiments=[], overwrite=True)
    options = {name: getattr(arguments, name) for name in ("cpu_minutes", "batch_size", "seeds_per_voxel")}
    options["data"] = [str(path.resolve()) for path in data]
    rows = RowsFile(arguments.json, options, "JSON")
    dataset = MultiSubjectDataset(arguments.hdf5_file)
    dataset.load_data()
    # It is scored after the trainings, which are long.
    read_ground_truth(arguments.phantom / "subjects" / dataset.testing_set[0].subject_id)
    for row in arguments.rows:
        if rows.find(row=row):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            model, figures = train(row, dataset, arguments, arguments.experiments_path or Path(temporary))
            measured = []
            for algo in algorithms_of(model):
                measured.append({"row": row, "algo": algo, **figures, **test(model, dataset, arguments, algo)})
                print(line(measured[-1]), flush=True)
        rows.add(*measured)
    print(table(rows.rows))


def algorithms_of(model: Any) -> list[str]:
    """Return how a model can track: 'det', and 'prob' if its direction getter is a distribution."""
    try:
        model.check_tracking("prob", None)
    except ValueError:
        return ["det"]
    return ["det", "prob"]


def line(row: dict[str, Any]) -> str:
    """Return the figures of a row, for people."""
    shares = "".join(f"{100 * row[name]:>9.1f} %" if name in row else f"{'-':>11}" for name in MEASURES)
    return (
        f"{row['row']:<50}{row['algo']:<5}{row['nb_streamlines']:>7}{row['valid_bundles']:>9.0f}{shares}"
        f"{row['training_points_per_cpu_s']:>12.0f}{row['tracked_streamlines_per_cpu_s']:>12.0f}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of all rows, sorted by valid connections and overlap."""
    names = "".join(f"{name.replace('_connections', ''):>11}" for name in MEASURES)
    head = f"{'model/direction getter':<50}{'algo':<5}{'lines':>7}{'bundles':>9}{names}{'points/s':>12}{'lines/s':>12}"
    ordered = sorted(rows, key=lambda row: row.get("valid_connections", 0.0) + row["overlap"], reverse=True)
    return "\n".join(
        [head, *map(line, ordered), "points/s in training and lines/s in tracking are per second of CPU time."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; bad input gives one sentence and exit code 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_command(lambda: compare(arguments), parser=parser)


if __name__ == "__main__":
    sys.exit(main())
