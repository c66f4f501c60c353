"""``dwiml train MODEL``: train one of dwiml's models, or a model of the user."""

from __future__ import annotations

import argparse
import os
import pkgutil
import shlex
import sys
from collections.abc import Collection, Sequence
from typing import Any

from dwiml.cli.options.config_file import add_config_options, config_text, parse_options, value_in_file
from dwiml.cli.options.declarations import parameters_of, summary_of
from dwiml.cli.options.derived import OneOrMore, Reader, add_option
from dwiml.cli.options.shared import add_verbose
from dwiml.cli.options.user_classes import (
    TRAINER_CLASS,
    add_class_options,
    check_options,
    own_fixed,
    own_parameters,
    refuse_fixed,
)
from dwiml.cli.running.training import run_training
from dwiml.models.catalog import ENTRY_POINTS, MODELS, find_model_class
from dwiml.training.catalog import (
    LOADER,
    LOADER_WITHOUT_VOLUME,
    SAMPLER,
    TRACKING_TRAINER,
    TRAINER,
    TRAINER_WITHOUT_VOLUME,
    find_trainer_class,
)
from dwiml.user_classes.finding import found_as, installed_names

DATASET = "dwiml.data.dataset.MultiSubjectDataset"
SETTINGS = "dwiml.training.settings.TrainerSettings"
TRACKING_SETTINGS = "dwiml.training.generation.settings.TrackingPhaseSettings"

PATHS = {
    "hdf5_file": "the data, created with 'dwiml create_hdf5': a file, or a folder of files (all its *.hdf5)",
    "experiments_path": "folder of all experiments",
    "experiment_name": "name of the folder to create there for this experiment",
}
_JOB = ("checkpoint_minutes", "stop_signal", "max_time", "requeue", "resume", "allow_changed_data")
_TRYING = ("fast_dev_run", "overfit_batches", "profile")
# The command needs them itself.
_ALWAYS = frozenset({"seed", "verbose"})
# Recorded as absolute paths, so that config.yaml works from any folder.
_PLACES = ("hdf5_file", "experiments_path", "tracking_phase_ground_truth")
_NAMES = ", ".join(MODELS)
# Built by the command.
_OBJECTS = ("model", "batch_sampler", "batch_loader", "experiments_path", "experiment_name")
_GENERATION = "generation-validation (if any is given, the model also tracks from the start of validation streamlines)"
_RESAMPLING = ("step_size", "nb_points", "compress_lines")
_ABOUT = {"seed": "Seed of the weights, batches, augmentation and dropout; None to draw one and record it"}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the model's name; each model has its own options."""
    installed = [name for name in installed_names(ENTRY_POINTS) if name not in MODELS]
    width = max(map(len, (*MODELS, *installed))) + 2
    lines = [f"  {name:<{width}}{summary_of(path)}" for name, path in MODELS.items()]
    lines += [f"  {name:<{width}}of an installed package" for name in installed]
    parser = argparse.ArgumentParser(
        prog="dwiml train",
        allow_abbrev=False,
        usage="dwiml train MODEL ...\n       dwiml train --config YAML ...",
        description="Train one of dwiml's models, or a model class of your own.",
        epilog="models:\n" + "\n".join(lines) + "\n\nMODEL may also be a class of your own, whose code is run: "
        "FILE.py:CLASS or package.module:CLASS.\n\n'dwiml train MODEL --help' describes the options of a model. A file "
        "given by --config (the\nconfig.yaml of an experiment) names its model; MODEL, if given, replaces it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=argparse.SUPPRESS)
    return parser


def build_model_parser(name: str, trainer_class: type[Any] | None = None) -> argparse.ArgumentParser:
    """Build the parser for training one model: options of the data, the batches, the model and the trainer.

    Parameters
    ----------
    name
        The model, as on the command line.
    trainer_class
        The user's own trainer class.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such model, or it has a parameter that cannot be an option.
    """
    model = _model(name)
    has_volume = "nb_features" in parameters_of(model)
    loader = LOADER if has_volume else LOADER_WITHOUT_VOLUME
    parser = _with_paths(name, summary_of(model), has_volume=has_volume)
    add_config_options(parser)
    _add(parser, "data", loader, only=("input_group_name",))
    _add(parser, "data", SAMPLER, only=("streamline_group_name",))
    _add(parser, "data", DATASET)
    _add(parser, "batches", SAMPLER, leave=("seed",))
    _add(parser, "batches", loader, only=("volume_dtype",))
    _add(parser, "augmentation, in training only", loader, leave=("seed",))
    if isinstance(model, type):
        later = {*parameters_of(SETTINGS), *parameters_of(TRACKING_SETTINGS, inherited=False)}
        check_options(model, parameters_of(model), parser, later, given=("nb_features", "experiment_name"))
    _add(parser, "model", model, leave=("nb_features", *_RESAMPLING))
    resampling = _group(parser, "model").add_mutually_exclusive_group()
    is_resampled = isinstance(model, type) and not own_fixed(model).isdisjoint(_RESAMPLING)
    for each in _RESAMPLING:
        if each in parameters_of(model) and not is_resampled:
            add_option(resampling, parameters_of(model)[each])
    # What the user's trainer chooses itself is no option.
    fixed = set() if trainer_class is None else own_fixed(trainer_class) - _ALWAYS
    _add(parser, "training", SETTINGS, leave=(*_JOB, *_TRYING, *fixed))
    add_verbose(_group(parser, "training"), dest="informative")
    _add(parser, "checkpoints, time limits and resuming", SETTINGS, only=_JOB)
    _add(parser, "debugging", SETTINGS, only=_TRYING)
    if has_volume:
        _add(parser, _GENERATION, TRACKING_SETTINGS, leave=fixed, absent=True)
    add_class_options(parser, model=False, trainer=True)
    if trainer_class is not None:
        own = own_parameters(trainer_class)
        check_options(trainer_class, own, parser, given=_OBJECTS)
        for each, parameter in own.items():
            if each not in _OBJECTS:
                add_option(_group(parser, f"trainer {trainer_class.__name__}"), parameter)
    for own_class in (model, trainer_class):
        if isinstance(own_class, type):
            refuse_fixed(parser, own_class, alone=_RESAMPLING)
    return parser


def _with_paths(name: str, summary: str, *, has_volume: bool) -> argparse.ArgumentParser:
    """Return a parser for a model, with the options of :data:`PATHS`."""
    volume = "--input_group_name GROUP " if has_volume else ""
    parser = argparse.ArgumentParser(
        prog=f"dwiml train {name}",
        allow_abbrev=False,
        usage=f"dwiml train {name} HDF5 EXPERIMENTS_PATH EXPERIMENT_NAME\n"
        f"           {volume}--streamline_group_name GROUP [options]\n"
        "       dwiml train --config YAML [HDF5 EXPERIMENTS_PATH EXPERIMENT_NAME] [options]",
        description=f"{summary}. To continue a training that was stopped, run the same command with "
        "--resume auto, or use 'dwiml resume'. To repeat an experiment, use the config.yaml of its folder: "
        "dwiml train --config FOLDER/config.yaml --experiment_name NEW_NAME.",
    )
    paths = parser.add_argument_group("paths, in this order or as options")
    for path, about in PATHS.items():
        several: dict[str, Any] = {}
        if path == "hdf5_file":
            several = {"nargs": "+", "action": OneOrMore, "type": Reader("str", None, alone=True)}
        metavar = path.removesuffix("_file").upper()
        paths.add_argument(f"--{path}", required=True, metavar=metavar, help=about, **several)
    return parser


def _add(
    parser: argparse.ArgumentParser,
    title: str,
    path: str | type[Any],
    *,
    only: Collection[str] | None = None,
    leave: Collection[str] = (),
    absent: bool = False,
) -> None:
    """Add the options of a class to a group of the help, without those that exist already."""
    known = {action.dest for action in parser._actions}
    for name, parameter in parameters_of(path, inherited=not absent).items():
        if name not in known and name not in leave and (only is None or name in only):
            more: dict[str, Any] = {"off": ("-q",)} if name == "verbose" else {}
            add_option(_group(parser, title), parameter, about=_ABOUT.get(name), absent=absent, **more)


def _group(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    groups = [group for group in parser._action_groups if group.title == title]
    return groups[0] if groups else parser.add_argument_group(title)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    first = build_parser()
    try:
        name, words = _model_name(first, words)
        trainer_class = _trainer_class(f"dwiml train {name}", words)
        parser = build_model_parser(name, trainer_class)
    except (OSError, ValueError) as error:
        first.error(" ".join(str(error).split()))
    named = _as_in_file(name, trainer_class)
    arguments = parse_options(parser, words, positional=tuple(PATHS), fixed=named)
    return run_training(
        lambda: _run(name, trainer_class, parser, arguments, named),
        vars(arguments),
        parser=parser,
        verbose=arguments.informative,
    )


def _model_name(parser: argparse.ArgumentParser, words: list[str]) -> tuple[str, list[str]]:
    """Return the name of the model, and the other arguments; without MODEL, the file given by --config names it."""
    first = words[0] if words else ""
    # A mistyped MODEL is not a path, and a Python file is a MODEL without its class.
    is_path = os.path.exists(first) or (":" not in first and not {".", os.sep}.isdisjoint(first))
    is_other = first not in MODELS and not first.endswith(".py") and (first.startswith("-") or is_path)
    found = value_in_file(parser, words, "model") if is_other else None
    if found is None:
        if not words or (first.startswith("-") and first not in ("-h", "--help")):
            parser.error(f"the following arguments are required: MODEL ({_NAMES}), or --config YAML, which names it")
        return parser.parse_args(words[:1]).model, words[1:]
    path, name = found
    if name is None:
        parser.error(f"'{path}' does not name the model: add 'model: NAME' to it, or give MODEL first ({_NAMES})")
    if ":" in name:
        parser.error(
            f"'{path}' names a model that is not part of dwiml or of an installed package. If you trust its code, give "
            f"it as MODEL: dwiml train {shlex.quote(name)} --config {shlex.quote(path)}"
        )
    if name not in MODELS and name not in installed_names(ENTRY_POINTS):
        parser.error(f"invalid configuration '{path}': model: one of {_NAMES} expected, got '{name}'")
    return name, words


def _trainer_class(command: str, words: Sequence[str]) -> type[Any] | None:
    """Return the class that ``--trainer_class`` names; None without this option."""
    parser = argparse.ArgumentParser(prog=command, add_help=False, allow_abbrev=False)
    add_class_options(parser, model=False, trainer=True)
    name = parser.parse_known_args(words)[0].trainer_class
    if name is None:
        path, in_file = value_in_file(parser, words, TRAINER_CLASS) or ("", None)
        if in_file is not None:
            parser.error(
                f"'{path}' names a trainer. If you trust its code, give --trainer_class {shlex.quote(in_file)}"
            )
        return None
    return find_trainer_class(name, f"--{TRAINER_CLASS}")


def _as_in_file(name: str, trainer_class: type[Any] | None) -> dict[str, str]:
    """Return the names of the model and of the trainer for config.yaml, with absolute paths."""
    model = _model(name)
    named = {"model": name if isinstance(model, str) else found_as(model) or name}
    return named if trainer_class is None else {**named, TRAINER_CLASS: found_as(trainer_class) or ""}


def _model(name: str) -> str | type[Any]:
    """Return the path of a model of dwiml, or the class of the user."""
    if name in MODELS:
        return MODELS[name]
    return find_model_class(name, "MODEL")


def _run(
    name: str,
    own_trainer: type[Any] | None,
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    named: dict[str, str],
) -> None:
    from dwiml.ops.randomness import draw_seed
    from dwiml.seeding import seed_everything

    values = vars(arguments)
    phase = {each: values[each] for each in parameters_of(TRACKING_SETTINGS, inherited=False) if each in values}
    tracks = bool(phase.keys() - PATHS.keys())
    input_group = values.get("input_group_name")
    with_volume = input_group is not None
    if own_trainer is not None and tracks:
        _check_tracking_trainer(own_trainer)
    usual = TRACKING_TRAINER if tracks else TRAINER if with_volume else TRAINER_WITHOUT_VOLUME
    trainer_class, loader_class = own_trainer or usual, LOADER if with_volume else LOADER_WITHOUT_VOLUME
    dataset = _build(DATASET, values)
    volumes = sorted({input_group, values.get("tracking_phase_mask_group")} - {None}, key=str)
    for group in volumes:
        dataset.check_volume_group(group)
    dataset.check_streamline_group(arguments.streamline_group_name)
    # A drawn seed is recorded too, so that config.yaml gives the same weights.
    seed = seed_everything(draw_seed() if arguments.seed is None else arguments.seed)
    features = {"nb_features": dataset.nb_features[input_group]} if with_volume else {}
    model = _build(_model(name), values, **features)
    dataset.load_data(load_testing=False, volume_groups=volumes, streamline_groups=[arguments.streamline_group_name])
    sampler = _build(SAMPLER, values, dataset=dataset)
    loader = _build(loader_class, values, dataset=dataset, model=model)
    settings = {each: values[each] for each in parameters_of(SETTINGS) if each in values} | phase
    trainer = _build(trainer_class, values, model=model, batch_sampler=sampler, batch_loader=loader, **settings)
    places = {each: _absolute(values[each]) for each in _PLACES if values.get(each) is not None}
    trainer.config = config_text(parser, {**values, **places, "seed": seed}, named)
    trainer.train_and_validate()


def _absolute(path: str | list[str]) -> str | list[str]:
    return [os.path.abspath(each) for each in path] if isinstance(path, list) else os.path.abspath(path)


def _check_tracking_trainer(trainer_class: type[Any]) -> None:
    """Raise ValueError if a trainer class of the user has no generation-validation phase."""
    from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase

    if not issubclass(trainer_class, DWIMLTrainerOneInputWithGVPhase):
        raise ValueError(
            f"Options of generation-validation are given, but {trainer_class.__name__} has no such phase: make it a "
            "subclass of DWIMLTrainerOneInputWithGVPhase."
        )


def _build(path: str | type[Any], values: dict[str, Any], **objects: Any) -> Any:
    """Return an object of a class, built from the values that its constructor takes."""
    taken = {each: values[each] for each in parameters_of(path) if each in values and each not in objects}
    found = path if isinstance(path, type) else pkgutil.resolve_name(path)
    return found(**taken, **objects)
