"""``dwiml track``: track with a trained model, on a subject of an HDF5 file or on image files."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwiml.arguments import counted, grouped
from dwiml.cli import parse_and_run
from dwiml.cli.options.config_file import add_config_options, parse_options
from dwiml.cli.options.declarations import parameters_of
from dwiml.cli.options.derived import add_option
from dwiml.cli.options.shared import add_images, add_overwrite, add_sidecar, add_verbose
from dwiml.cli.options.user_classes import add_class_options

if TYPE_CHECKING:
    from dwiml.tracking.seeds import Seeds
    from dwiml.tracking.tracker import Tracker, TrackingCounts

DATASET = "dwiml.data.dataset.MultiSubjectDataset"
RULES = "dwiml.tracking.propagation.PropagationRules"
SEEDS = "dwiml.tracking.seeds.Seeds"
TRACKER = "dwiml.tracking.tracker.Tracker"
ACCEPTANCE = "dwiml.tracking.acceptance.Acceptance"
WRITER = "dwiml.tractograms.writing.writer.TractogramWriter"
# Names of the options of the seeds.
SEEDS_NAMES = {"per_voxel": "seeds_per_voxel", "total": "nb_seeds", "placement": "seeds_at", "seeding": "seeding"}
_NUMBERS_OF_SEEDS = ("per_voxel", "total")
_OBJECTS = ("model", "subject", "rules", "acceptance", "classifier")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml track",
        allow_abbrev=False,
        usage="dwiml track EXPERIMENT [EXPERIMENT ...] SUBJECT OUT --tracking_mask MASK [options]\n"
        "       dwiml track EXPERIMENT [EXPERIMENT ...] OUT --input IMAGE [IMAGE ...] --tracking_mask MASK [options]",
        description="Track with the best model of an experiment, or with an ensemble of the best models of several "
        "experiments. A streamline depends only on --seed and on its starting point, not on how many streamlines are "
        "tracked at once.",
    )
    # The subject is the last of them, unless --input is given: see parse_arguments.
    parser.add_argument(
        "experiments",
        metavar="EXPERIMENT",
        nargs="+",
        help="experiment folder; several form an ensemble: at each step, the mean of the directions of their models, "
        "or, with --algo prob, the mixture of their distributions",
    )
    parser.add_argument(
        "subject",
        metavar="SUBJECT",
        nargs="?",
        help="a subject of the HDF5 file of the (first) experiment; not with --input",
    )
    parser.add_argument("out", metavar="OUT", help="tractogram to write: .trk, .tck or .trx")
    add_config_options(parser)
    _add_data(parser)
    _add_seeds(parser)
    _add_rules(parser)
    _add_acceptance(parser)
    output = parser.add_argument_group("output")
    add_option(output, parameters_of(WRITER)["compress"])
    output.add_argument(
        "--save_seeds", action="store_true", help="save each streamline's seed as data_per_streamline 'seeds'"
    )
    output.add_argument(
        "--save_plausibility",
        action="store_true",
        help="save the probability that each streamline is plausible as data_per_streamline 'plausibility'; with "
        "--classifier",
    )
    output.add_argument("--report", metavar="JSON", help="also write the final table to this JSON file")
    add_sidecar(output, "OUT")
    add_overwrite(output, "overwrite OUT and the report, including an unfinished OUT of an interrupted run")
    add_class_options(parser, classifier=True)
    add_verbose(parser)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data (masks: groups of the HDF5 file, or image files)")
    group.add_argument(
        "--tracking_mask",
        required=True,
        metavar="MASK",
        help="where streamlines may go: a 0/1 mask, labels (all labels except 0), or a probability map (see "
        "--mask_threshold)",
    )
    group.add_argument("--seeding_mask", metavar="MASK", help="where streamlines start [the tracking mask]")
    group.add_argument(
        "--hdf5_file",
        metavar="HDF5",
        help="the HDF5 file with the data of all subjects, or a folder of such files [as recorded in the experiment]",
    )
    add_images(group)


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("seeds")
    number = group.add_mutually_exclusive_group()
    for name, parameter in parameters_of(SEEDS).items():
        if name in SEEDS_NAMES:
            shown = "1" if name == "per_voxel" else None
            container = number if name in _NUMBERS_OF_SEEDS else group
            add_option(container, parameter, name=SEEDS_NAMES[name], shown=shown)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tracking")
    for name, parameter in {**parameters_of(RULES), **parameters_of(TRACKER)}.items():
        if name == "seed":
            add_option(group, parameter, about="seed of the random starting points and directions")
        elif name not in _OBJECTS:
            shown = "the model's" if name == "step_size" else None
            add_option(group, parameter, shown=shown, none="auto" if name == "simultaneous" else None)


def _add_acceptance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("acceptance of streamlines")
    group.add_argument(
        "--classifier",
        metavar="EXPERIMENT",
        help="experiment of 'dwiml train streamline-classifier', trained on the same input: keep only the streamlines "
        "that it finds plausible [all are kept]",
    )
    for name, parameter in parameters_of(ACCEPTANCE).items():
        if name not in _OBJECTS:
            add_option(group, parameter)


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv, memory_advice=_memory_advice, parse=parse_arguments)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line. Without --input, the last of the experiments is the subject."""
    arguments = parse_options(parser, argv)
    if arguments.input is None and len(arguments.experiments) > 1:
        arguments.subject = arguments.experiments.pop()
    return arguments


def _memory_advice(arguments: argparse.Namespace) -> str:
    return f"give a lower --simultaneous (now: {arguments.simultaneous or 'auto'})"


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.cli.running.progress import progress_bar
    from dwiml.cli.running.tracking_data import load_tracking_data
    from dwiml.files import write_json
    from dwiml.tractograms.writing.writer import TractogramWriter
    from dwiml.trained.ensemble import check_same_inputs, combined
    from dwiml.trained.tracking_run import (
        TrackingKeywords,
        prepare_tracking,
        saved_data,
        track_groups,
        tracking_acceptance,
        tracking_rules,
    )
    from dwiml.training.loading import load_best_model, recorded_parameters

    _check_subject(arguments)
    _check_outputs(arguments)
    used = [*arguments.experiments, *([] if arguments.classifier is None else [arguments.classifier])]
    recorded = [recorded_parameters(experiment) for experiment in used]
    check_same_inputs(recorded, used)
    models = [load_best_model(each, model_class=arguments.model_class) for each in arguments.experiments]
    model = combined(models, antipodal=arguments.antipodal)
    settings = {name: getattr(arguments, name) for name in TrackingKeywords.__annotations__}
    rules = tracking_rules(model, settings)
    classifier = None
    if arguments.classifier is not None:
        classifier = load_classifier_model(arguments.classifier, arguments.classifier_class)
    elif arguments.classifier_class is not None:
        raise ValueError("--classifier_class has no effect without --classifier; give both.")
    acceptance = tracking_acceptance(classifier, settings, rules)
    flags = {"save_seeds": arguments.save_seeds, "save_plausibility": arguments.save_plausibility}
    saved = saved_data(acceptance, **flags)
    data = load_tracking_data(arguments, recorded[0])
    tracker, seeds = prepare_tracking(model, data, rules, settings, acceptance)
    writer = TractogramWriter(
        arguments.out,
        grid=data.grid,
        data_per_streamline=saved,
        compress=arguments.compress,
        overwrite=arguments.overwrite,
        sidecar=_sidecar(arguments, recorded[0], tracker, seeds, model) if arguments.sidecar else None,
    )
    start = time.monotonic()
    with writer, progress_bar("Tracking", len(seeds), unit="seed") as count:
        for _ in track_groups(tracker, seeds, writer, saved=list(saved), on_progress=count):
            # The streamlines are in the file.
            pass
    seconds = time.monotonic() - start
    if arguments.report:
        used_options = {"rules": dataclasses.asdict(rules), "arguments": vars(arguments)}
        write_json(arguments.report, {**tracker.counts.as_dict(), "seconds": seconds, **used_options})
    print(table(tracker.counts, arguments.out, seconds))


def load_classifier_model(experiment: str, own_class: str | None) -> Any:
    """Return the model of --classifier; an error about its class names the option that gives it."""
    from dwiml.training.loading import load_best_model

    try:
        return load_best_model(experiment, model_class=own_class)
    except ValueError as error:
        raise ValueError(str(error).replace("model_class", "classifier_class")) from None


def _check_subject(arguments: argparse.Namespace) -> None:
    """Raise ValueError if a subject is given with --input, or missing without it."""
    from pathlib import Path

    from dwiml.training.experiment.folder import ExperimentFolder

    if (arguments.subject is None) == (arguments.input is None):
        raise ValueError("Give either a SUBJECT of the HDF5 file or image files with --input.")
    strangers = [each for each in arguments.experiments[1:] if not Path(each).is_dir()]
    if arguments.input is not None and strangers:
        raise ValueError(
            f"'{strangers[0]}' is not an experiment folder; with --input there is no SUBJECT: give the experiments and "
            "OUT only."
        )
    if arguments.subject is not None and ExperimentFolder(Path(arguments.subject)).parameters.is_file():
        raise ValueError(
            f"'{arguments.subject}' is an experiment folder, where a SUBJECT of the HDF5 file was expected: give it "
            "between the experiments and OUT."
        )


def _check_outputs(arguments: argparse.Namespace) -> None:
    from dwiml.hdf5.stored.collection import files_of
    from dwiml.trained.outputs import check_tracking_outputs

    images = (*(arguments.input or ()), *(arguments.std_mask or ()))
    data = files_of(arguments.hdf5_file) if arguments.hdf5_file else []
    check_tracking_outputs(
        {"OUT": arguments.out, "--report": arguments.report},
        inputs=[*images, arguments.tracking_mask, arguments.seeding_mask, *data],
        experiments=[*arguments.experiments, arguments.classifier, arguments.standardize_like],
        overwrite=arguments.overwrite,
        sidecar=arguments.sidecar,
    )


def _sidecar(
    arguments: argparse.Namespace, recorded: dict[str, Any], tracker: Tracker, seeds: Seeds, model: Any
) -> dict[str, Any]:
    from dwiml.trained.sidecar import tracking_files, tracking_sidecar

    files = tracking_files(
        arguments.experiments[0],
        recorded,
        arguments.input or arguments.subject,
        tracking_mask=arguments.tracking_mask,
        seeding_mask=arguments.seeding_mask,
        hdf5_file=arguments.hdf5_file,
        std_mask=arguments.std_mask or (),
    )
    used = {"experiments": arguments.experiments, "model": model, "compress": arguments.compress}
    used["classifier"] = arguments.classifier
    return tracking_sidecar(tracker, seeds, files, **used)


def table(counts: TrackingCounts, out: str, seconds: float) -> str:
    """Return a table for the user: the numbers of seeds and streamlines, and why streamlines ended."""
    speed = counts.nb_seeds / max(seconds, 1e-9)
    lines = [
        f"{counted(counts.nb_seeds, 'seed')}: {counted(counts.nb_kept, 'streamline')} in '{out}', "
        f"{grouped(counts.nb_too_short)} too short{_rejected(counts)}; {seconds:.1f} s, {grouped(round(speed))} "
        "seeds/s.",
        "Why they ended (each end of each streamline, including those that were not kept):",
    ]
    values = counts.as_dict()["ends"]
    total = max(sum(values.values()), 1)
    lines += [
        f"  {reason:<20}{grouped(count):>12}{100 * count / total:>8.1f} %" for reason, count in values.items() if count
    ]
    return "\n".join(lines)


def _rejected(counts: TrackingCounts) -> str:
    """Return the number of streamlines that the classifier rejected, if any; see :func:`table`."""
    again = counts.nb_attempts - counts.nb_seeds
    if not counts.nb_implausible and again <= 0:
        return ""
    attempts = f" ({counted(again, 'additional attempt')})" if again > 0 else ""
    return f", {grouped(counts.nb_implausible)} not plausible{attempts}"
