"""``dwiml train MODEL``: train one of dwiml's models."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

from dwiml.cli.run_training import run_training
from dwiml.cli.trainer_options import add_tracking_phase_options, add_trainer_options, json_object
from dwiml.cli.unknown_options import parse_known_options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml train",
        allow_abbrev=False,
        description="Train one of dwiml's models. Run again with --resume auto, or use 'dwiml resume', to go on.",
    )
    models = parser.add_subparsers(dest="model_name", required=True, metavar="MODEL")
    learn2track = models.add_parser(
        "learn2track",
        allow_abbrev=False,
        usage="dwiml train learn2track HDF5 EXPERIMENTS_PATH EXPERIMENT_NAME --input_group_name GROUP "
        "--streamline_group_name GROUP [options]",
        help="recurrent network (Poulin et al., 2017)",
        description="Train Learn2Track, a stacked recurrent network (Poulin et al., 2017), on one volume group.",
    )
    add_data_options(learn2track)
    add_sampler_options(learn2track)
    add_loader_options(learn2track)
    add_learn2track_options(learn2track)
    add_trainer_options(learn2track)
    add_tracking_phase_options(learn2track)
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hdf5_file", metavar="HDF5", help="data, made with 'dwiml create_hdf5'")
    parser.add_argument("experiments_path", metavar="EXPERIMENTS_PATH", help="folder of all experiments")
    parser.add_argument("experiment_name", metavar="EXPERIMENT_NAME", help="folder made there for this one")
    group = parser.add_argument_group("data")
    group.add_argument("--input_group_name", required=True, help="volume group under the streamlines")
    group.add_argument("--streamline_group_name", required=True, help="streamlines group to learn")
    group.add_argument("--lazy", action="store_true", help="leave the data on disk, memory-mapped")
    group.add_argument("--cache_size", type=int, default=1, help="subjects' volumes kept on the GPU [%(default)s]")


def add_sampler_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("batches")
    group.add_argument(
        "--batch_size_training", type=float, default=1000, metavar="N", help="size of a batch [%(default)s]"
    )
    group.add_argument(
        "--batch_size_validation", type=float, metavar="N", help="the same in validation [as in training]"
    )
    group.add_argument(
        "--batch_size_units",
        default="nb_streamlines",
        metavar="UNIT",
        help="what sizes count: nb_streamlines or length_mm [%(default)s]",
    )
    group.add_argument("--nb_subjects_per_batch", type=int, metavar="N", help="subjects that share a batch [all]")
    group.add_argument("--cycles", type=int, metavar="N", help="batches in a row with the same subjects [1]")
    group.add_argument(
        "--volume_dtype",
        default="float32",
        metavar="DTYPE",
        help="float32, or float16 or bfloat16 to fit twice the volumes on the device [%(default)s]",
    )


def add_loader_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation, in training only")
    group.add_argument("--split_ratio", type=float, default=0.0, help="share of streamlines cut in two [%(default)s]")
    group.add_argument("--reverse_ratio", type=float, default=0.0, help="share of streamlines reversed [%(default)s]")
    for purpose, what in (("forward", "the points that the model sees"), ("loss", "the points of the loss")):
        group.add_argument(
            f"--noise_gaussian_size_{purpose}",
            type=float,
            default=0.0,
            metavar="VOXELS",
            help=f"standard deviation of the noise on {what} [%(default)s]",
        )
    group.add_argument(
        "--noise_correlated_size",
        type=float,
        default=0.0,
        metavar="VOXELS",
        help="how far the points that the model sees wander off, smoothly; it learns the way back [%(default)s]",
    )
    group.add_argument(
        "--noise_correlated_nb_points",
        type=float,
        default=6.0,
        metavar="N",
        help="points after which that has mostly changed [%(default)g]",
    )
    group.add_argument(
        "--nb_recovery_steps",
        type=float,
        default=3.0,
        metavar="N",
        help="steps in which it has to be back [%(default)g]",
    )


def add_learn2track_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    resampling = group.add_mutually_exclusive_group()
    resampling.add_argument("--step_size", type=float, metavar="MM", help="resample streamlines to this step")
    resampling.add_argument("--nb_points", type=int, metavar="N", help="resample streamlines to this many points")
    resampling.add_argument("--compress_lines", type=float, metavar="MM", help="compress streamlines, this tolerance")
    group.add_argument(
        "--input_embedding_key",
        default="no_embedding",
        metavar="KEY",
        help="no_embedding or nn_embedding [%(default)s]",
    )
    group.add_argument(
        "--input_embedded_size", type=int, metavar="N", help="values that nn_embedding makes of the input"
    )
    group.add_argument("--neighborhood_type", metavar="TYPE", help="axes or grid [none]")
    group.add_argument("--neighborhood_radius", type=int, metavar="N", help="neighbours on each side")
    group.add_argument(
        "--neighborhood_resolution", type=float, metavar="VOXELS", help="distance of neighbours, with a type [1]"
    )
    group.add_argument(
        "--nb_previous_dirs", type=int, default=0, metavar="N", help="directions given with the input [%(default)s]"
    )
    group.add_argument("--prev_dirs_embedding_key", metavar="KEY", help="no_embedding or nn_embedding [no_embedding]")
    group.add_argument(
        "--prev_dirs_embedded_size", type=int, metavar="N", help="values that nn_embedding makes of them"
    )
    group.add_argument(
        "--no_normalize_prev_dirs",
        dest="normalize_prev_dirs",
        action="store_false",
        help="previous directions keep their length, in voxels",
    )
    group.add_argument("--rnn_key", default="gru", help="gru or lstm [%(default)s]")
    group.add_argument(
        "--rnn_layer_sizes", type=int, nargs="+", default=(256, 256), metavar="N", help="units of each layer [256 256]"
    )
    group.add_argument(
        "--no_skip_connection",
        dest="use_skip_connection",
        action="store_false",
        help="layers after the first do not see the input, the output sees the last layer only",
    )
    group.add_argument(
        "--no_layer_normalization",
        dest="use_layer_normalization",
        action="store_false",
        help="layers' outputs are not normalized",
    )
    group.add_argument(
        "--dropout", type=float, default=0.0, help="share of values dropped between layers [%(default)s]"
    )
    group.add_argument(
        "--dg_key",
        default="cosine-regression",
        metavar="KEY",
        help="direction getter: cosine-regression, l2-regression or sphere-classification [%(default)s]",
    )
    group.add_argument("--dg_args", type=json_object, metavar="JSON", help='its options, as {"dropout": 0.1}')


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    return run_training(lambda: _run(arguments), vars(arguments), verbose=arguments.talkative)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.batching.loader import DWIMLBatchLoaderOneInput, DWIMLStreamlinesBatchLoader
    from dwiml.batching.sampler import DWIMLBatchIDSampler
    from dwiml.data.dataset import MultiSubjectDataset
    from dwiml.models.learn2track import Learn2TrackModel
    from dwiml.seeding import seed_everything
    from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase
    from dwiml.training.one_input import DWIMLTrainerOneInput
    from dwiml.training.trainer import DWIMLTrainer

    values = vars(arguments)
    tracks = any(name.startswith("tracking_phase_") or name == "best_model_metric" for name in values)
    trainer_class = DWIMLTrainerOneInputWithGVPhase if tracks else DWIMLTrainerOneInput
    volume_groups = {arguments.input_group_name, values.get("tracking_phase_mask_group", arguments.input_group_name)}
    dataset = MultiSubjectDataset(arguments.hdf5_file, lazy=arguments.lazy, cache_size=arguments.cache_size)
    for group in sorted(volume_groups):
        dataset.check_volume_group(group)
    dataset.check_streamline_group(arguments.streamline_group_name)
    dataset.load_data(
        load_testing=False,
        volume_groups=sorted(volume_groups),
        streamline_groups=[arguments.streamline_group_name],
    )
    if arguments.seed is not None:
        seed_everything(arguments.seed)
    model = Learn2TrackModel(
        nb_features=dataset.nb_features[arguments.input_group_name],
        **_picked(values, *Learn2TrackModel.__mro__, leave={"nb_features"}),
    )
    sampler = DWIMLBatchIDSampler(dataset, **_picked(values, DWIMLBatchIDSampler, leave={"dataset"}))
    loader = DWIMLBatchLoaderOneInput(
        dataset,
        model,
        **_picked(values, DWIMLBatchLoaderOneInput, DWIMLStreamlinesBatchLoader, leave={"dataset", "model"}),
    )
    trainer = trainer_class(
        model,
        batch_sampler=sampler,
        batch_loader=loader,
        **_picked(values, trainer_class, *DWIMLTrainer.__mro__, leave={"model", "batch_sampler", "batch_loader"}),
    )
    trainer.train_and_validate()


def _picked(values: dict[str, Any], *classes: type, leave: set[str]) -> dict[str, Any]:
    """Return those values that the constructors of some classes take."""
    names = {
        name
        for cls in classes
        if "__init__" in cls.__dict__
        for name in inspect.signature(cls.__dict__["__init__"]).parameters
    }
    return {name: value for name, value in values.items() if name in names - leave}
