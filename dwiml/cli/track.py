"""``dwiml track``: streamlines of a trained model, on a subject of an HDF5 file or on image files."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command
from dwiml.cli.unknown_options import parse_known_options
from dwiml.failures import GPU, MEMORY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.tracking.propagation import PropagationRules
    from dwiml.tracking.seeds import Seeds
    from dwiml.tracking.tracker import Tracker, TrackingCounts


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml track",
        allow_abbrev=False,
        usage="dwiml track EXPERIMENT SUBJECT OUT --tracking_mask MASK [options]\n"
        "       dwiml track EXPERIMENT OUT --input IMAGE [IMAGE ...] --tracking_mask MASK [options]",
        description="Track with the best model of an experiment. Streamlines depend on the seed of the draws and on "
        "their own starting point only, not on how many are tracked at once.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="the experiment's folder")
    parser.add_argument("subject", metavar="SUBJECT", nargs="?", help="a subject of the experiment's HDF5 file")
    parser.add_argument("out", metavar="OUT", help="tractogram to write: .trk, .tck or .trx")
    _add_data(parser)
    _add_seeds(parser)
    _add_rules(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--compress", type=float, metavar="MM", help="leave out points within MM of the curve [none]")
    output.add_argument(
        "--save_seeds", action="store_true", help="keep each streamline's seed in data_per_streamline 'seeds'"
    )
    output.add_argument("--report", metavar="JSON", help="write the final table there too, as JSON")
    output.add_argument(
        "-f",
        dest="overwrite",
        action="store_true",
        help="replace OUT and the report if they exist, and what a stopped run has left of OUT",
    )
    parser.add_argument(
        "--simultaneous",
        metavar="N",
        default="auto",
        help="streamlines tracked at once, and then written, or 'auto': what fits in a quarter of the free memory, at "
        "most 5000 (GPU: 100 000) [%(default)s]",
    )
    parser.add_argument("-v", dest="verbose", action="store_true", help="show informative messages")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data (masks: groups of the HDF5 file, or image files)")
    group.add_argument(
        "--tracking_mask",
        required=True,
        metavar="MASK",
        help="where streamlines may go: a 0/1 mask, labels (all that are not 0), or a map of probabilities (see "
        "--mask_threshold)",
    )
    group.add_argument("--seeding_mask", metavar="MASK", help="where they begin [the tracking mask]")
    group.add_argument("--hdf5_file", metavar="HDF5", help="where the experiment's data are now [where they were]")
    group.add_argument("--input", nargs="+", metavar="IMAGE", help="image files of the model's input, in their order")
    group.add_argument(
        "--standardization",
        choices=["all", "independent", "per_file", "none"],
        help="how to standardize them, in place of what an experiment records",
    )
    group.add_argument(
        "--standardize_like",
        metavar="EXPERIMENT",
        help="with --input: standardize as the data of this experiment were [as EXPERIMENT's own]",
    )
    group.add_argument("--std_mask", nargs="+", metavar="MASK", help="mask files for mean and standard deviation")


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("seeds")
    number = group.add_mutually_exclusive_group()
    number.add_argument("--seeds_per_voxel", type=int, metavar="N", help="in each voxel of the seeding mask [1]")
    number.add_argument("--nb_seeds", type=int, metavar="N", help="in all, each in a voxel that is drawn")
    group.add_argument(
        "--seeds_at", choices=["random", "center"], default="random", help="where in their voxel [%(default)s]"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="for all that is drawn [%(default)s]")
    group.add_argument("--forward_only", action="store_true", help="track one way only from each seed")


def _add_rules(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tracking")
    group.add_argument("--step_size", type=float, metavar="MM", help="between two points [the model's]")
    group.add_argument("--theta", type=float, default=45.0, metavar="DEG", help="largest turn in a step [%(default)s]")
    group.add_argument("--min_length", type=float, default=10.0, metavar="MM", help="leave out shorter [%(default)s]")
    group.add_argument("--max_length", type=float, default=300.0, metavar="MM", help="end there [%(default)s]")
    group.add_argument(
        "--algo",
        choices=["det", "prob"],
        default="det",
        help="the likeliest direction, or one that is drawn (models that classify directions) [%(default)s]",
    )
    group.add_argument(
        "--eos_stopping_thresh",
        type=float,
        metavar="P",
        help="probability at which a streamline ends, for models that tell it [never]",
    )
    group.add_argument(
        "--mask_interpolation",
        choices=["nearest", "trilinear"],
        default="nearest",
        help="how the tracking mask is read between voxels' centres [%(default)s]",
    )
    group.add_argument(
        "--mask_threshold",
        type=float,
        default=0.5,
        metavar="X",
        help="streamlines end where the mask, interpolated, is below; of a map of probabilities, the voxels of at "
        "least X are the mask, and the seeding mask [%(default)s]",
    )
    group.add_argument(
        "--antipodal",
        action="store_true",
        help="a direction and its opposite mean the same to the model: take the one that turns less",
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    fewer = f"give a lower --simultaneous (now: {arguments.simultaneous})"
    return run_command(lambda: _run(arguments), verbose=arguments.verbose, advice={MEMORY: fewer, GPU: fewer})


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from dwiml.cli.tracking_data import load_tracking_data
    from dwiml.files import write_json
    from dwiml.tracking.tracker import Tracker
    from dwiml.tractograms.writing.writer import TractogramWriter
    from dwiml.training.loading import load_best_model, recorded_parameters

    _check_outputs(arguments)
    simultaneous = _simultaneous(arguments.simultaneous)
    recorded = recorded_parameters(arguments.experiment)
    model = load_best_model(arguments.experiment).to("cuda" if torch.cuda.is_available() else "cpu")
    rules = _rules(arguments, model)
    data = load_tracking_data(arguments, recorded)
    tracker = Tracker(
        model,
        data.subject,
        rules,
        min_length=arguments.min_length,
        forward_only=arguments.forward_only,
        simultaneous=simultaneous,
    )
    seeds = _seeds(arguments, data.seeding_mask)
    writer = TractogramWriter(
        arguments.out,
        affine=data.grid.affine,
        dimensions=data.grid.shape,
        data_per_streamline={"seeds": 3} if arguments.save_seeds else None,
        compress=arguments.compress,
        overwrite=arguments.overwrite,
    )
    start = time.monotonic()
    with writer:
        _track(tracker, seeds, writer, save_seeds=arguments.save_seeds)
    seconds = time.monotonic() - start
    if arguments.report:
        used = {"rules": dataclasses.asdict(rules), "arguments": vars(arguments)}
        write_json(arguments.report, {**tracker.counts.as_dict(), "seconds": seconds, **used})
    print(table(tracker.counts, arguments.out, seconds))


def _check_outputs(arguments: argparse.Namespace) -> None:
    import os
    from pathlib import Path

    from dwiml.cli.inputs import data_of
    from dwiml.files import check_outputs, refuse_inputs
    from dwiml.tracking.sources import IMAGES
    from dwiml.tractograms.writing.partial import partial_of

    experiments = [each for each in (arguments.experiment, arguments.standardize_like) if each is not None]
    masks = [each for each in (arguments.tracking_mask, arguments.seeding_mask) if each and each.endswith(IMAGES)]
    images = (*(arguments.input or ()), *(arguments.std_mask or ()), *masks)
    inputs = [*images, *(data_of(each, arguments.hdf5_file) for each in experiments)]
    outputs = {"OUT": arguments.out, "--report": arguments.report}
    check_outputs(outputs, inputs=inputs, experiments=experiments, overwrite=arguments.overwrite)
    partial = partial_of(Path(os.path.realpath(arguments.out)))
    refuse_inputs(partial, "OUT, until it is whole", inputs=[*inputs, arguments.report])


def _rules(arguments: argparse.Namespace, model: Any) -> PropagationRules:
    from dwiml.tracking.propagation import PropagationRules

    step_size = model.step_size if arguments.step_size is None else arguments.step_size
    if step_size is None:
        raise ValueError("The model was trained without a step size of its own; give --step_size, in mm.")
    if step_size > arguments.max_length:
        raise ValueError(
            f"step_size ({step_size:g} mm) is above max_length ({arguments.max_length:g} mm): no step could be made."
        )
    return PropagationRules(
        step_size=step_size,
        theta=arguments.theta,
        max_length=arguments.max_length,
        algo=arguments.algo,
        seed=arguments.seed,
        eos_stopping_thresh=arguments.eos_stopping_thresh,
        mask_interpolation=arguments.mask_interpolation,
        mask_threshold=arguments.mask_threshold,
        antipodal=arguments.antipodal,
    )


def _seeds(arguments: argparse.Namespace, mask: NDArray[np.bool_]) -> Seeds:
    from dwiml.tracking.seeds import Seeds

    per_voxel = arguments.seeds_per_voxel
    if per_voxel is None and arguments.nb_seeds is None:
        per_voxel = 1
    return Seeds(
        mask,
        per_voxel=per_voxel,
        total=arguments.nb_seeds,
        placement=arguments.seeds_at,
        seed=arguments.seed,
    )


def _simultaneous(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--simultaneous must be a whole number or 'auto', got {text!r}.") from None


def _track(tracker: Tracker, seeds: Seeds, writer: Any, *, save_seeds: bool) -> None:
    """Track and write, a group of seeds after the other."""
    from dwiml.cli.progress import counted

    done = 0
    with counted("Tracking", len(seeds), unit="seed") as count:
        for tracked in tracker.track(seeds):
            lines = tracked.streamlines
            kept = {"seeds": tracked.seeds.cpu().numpy()} if save_seeds else None
            writer.append(lines.data.cpu().numpy(), lines.lengths.numpy(), kept)
            count(tracker.counts.nb_seeds - done)
            done = tracker.counts.nb_seeds


def table(counts: TrackingCounts, out: str, seconds: float) -> str:
    """Return what became of the seeds, and why streamlines ended, for people."""
    speed = counts.nb_seeds / max(seconds, 1e-9)
    lines = [
        f"{_counted(counts.nb_seeds, 'seed')}: {_counted(counts.nb_kept, 'streamline')} in '{out}', "
        f"{_grouped(counts.nb_too_short)} too short; {seconds:.1f} s, {_grouped(round(speed))} seeds/s.",
        "Why they ended (each end of each streamline, too short ones included):",
    ]
    values = counts.as_dict()["ends"]
    total = max(sum(values.values()), 1)
    lines += [
        f"  {reason:<20}{_grouped(count):>12}{100 * count / total:>8.1f} %" for reason, count in values.items() if count
    ]
    return "\n".join(lines)


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _counted(count: int, word: str) -> str:
    return f"{_grouped(count)} {word}{'' if count == 1 else 's'}"
