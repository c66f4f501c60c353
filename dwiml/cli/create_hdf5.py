"""``dwiml create_hdf5``: store the volumes and streamlines of subjects in one HDF5 file."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dwiml.arguments import counted
from dwiml.cli import parse_and_run
from dwiml.cli.options.parsing import parse_known_options
from dwiml.cli.options.shared import add_overwrite, add_verbose
from dwiml.hdf5.layouts.layout import PRESETS, preset_file

if TYPE_CHECKING:
    from dwiml.hdf5.creator import CreationSummary
    from dwiml.hdf5.directions.alignment import Alignment

_OPTIONAL = ("config", "training", "validation", "testing")
# Where argparse leaves arguments that stand after options.
_AFTER_OPTIONS = tuple(f"{name}_after_options" for name in _OPTIONAL)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml create_hdf5",
        allow_abbrev=False,
        description="Store the volumes and streamlines of many subjects in one HDF5 file, ready for training. "
        "All headers are checked first, and OUT.hdf5 appears only when it is complete.",
    )
    parser.add_argument(
        "subjects_folder", metavar="FOLDER", help="folder with one subfolder per subject (see --layout)"
    )
    parser.add_argument("out_hdf5", metavar="OUT.hdf5", help="file to write")
    parser.add_argument(
        "config", metavar="CONFIG.json", nargs="?", help="groups to create, and the files of each group (see --layout)"
    )
    for subset in ("training", "validation", "testing"):
        parser.add_argument(
            subset,
            metavar=f"{subset.upper()}.txt",
            nargs="?",
            default=(),
            help=f"text file with one {subset} subject per line (see --layout and --split)"
            if subset == "training"
            else f"text file with one {subset} subject per line (optional; may be empty)",
        )
    resampling = parser.add_mutually_exclusive_group()
    resampling.add_argument(
        "--step_size", type=float, metavar="MM", help="resample streamlines to this step size, in mm"
    )
    resampling.add_argument("--nb_points", type=int, metavar="N", help="resample streamlines to N points")
    resampling.add_argument(
        "--compress", type=float, metavar="MM", help="remove points while the curve changes by less than this, in mm"
    )
    parser.add_argument(
        "--remove_invalid",
        action="store_true",
        help="remove invalid streamlines (one point, zero length, NaN, outside the volume) instead of raising an error",
    )
    parser.add_argument(
        "--allow_missing", action="store_true", help="accept missing or empty tractograms (but not volumes)"
    )
    add_overwrite(parser, "replace OUT.hdf5, if it is an HDF5 file")
    add_verbose(parser)
    _add_choice_and_scale(parser)
    return parser


def _add_choice_and_scale(parser: argparse.ArgumentParser) -> None:
    """Add the options that find and choose subjects, and those for many of them."""
    parser.add_argument(
        "--continue",
        dest="resume",
        action="store_true",
        help="continue a creation that was stopped: use the subjects that it finished, if their files and the options "
        "are the same",
    )
    parser.add_argument(
        "--layout",
        metavar="NAME|FILE.json",
        help="find the subjects and their files by the naming rules of a pipeline "
        f"({', '.join(PRESETS)}), or of a file. CONFIG.json and the lists are then optional; a third argument that "
        "does not end in .json is TRAINING.txt",
    )
    parser.add_argument(
        "--print_layout", metavar="NAME", action=_PrintLayout, help="print a layout, to be edited in a file, and exit"
    )
    parser.add_argument(
        "--split",
        nargs=3,
        type=float,
        metavar=("TRAINING", "VALIDATION", "TESTING"),
        help="choose the sets at random instead of by lists: fractions of the subjects, such as 0.8 0.1 0.1; all "
        "sessions of a subject are in the same set",
    )
    parser.add_argument("--split_seed", type=int, default=0, metavar="N", help="seed of --split [0]")
    parser.add_argument(
        "--nbr_processes",
        type=int,
        default=1,
        metavar="N",
        help="number of subjects that are processed at the same time, each in its own process, this one included "
        "[%(default)s]",
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="add the subjects to OUT.hdf5, which was created with the same config and options",
    )
    parser.add_argument(
        "--skip_bad_subjects",
        action="store_true",
        help="leave out subjects with missing or invalid files, and list them at the end",
    )


class _PrintLayout(argparse.Action):
    """Prints a layout and exits, whatever the other arguments are."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Print the layout."""
        try:
            print(preset_file(values).read_text(encoding="utf-8"), end="")
        except ValueError as error:
            parser.error(str(error))
        parser.exit()


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; CONFIG.json and the lists may stand after options, and CONFIG.json be left out."""
    arguments = parse_known_options(parser, argv, positional=_AFTER_OPTIONS)
    given = [getattr(arguments, name) for name in _OPTIONAL if getattr(arguments, name)]
    given += [vars(arguments).pop(name) for name in _AFTER_OPTIONS if name in vars(arguments)]
    if arguments.layout and given and not given[0].lower().endswith(".json"):
        given.insert(0, None)
    if len(given) > len(_OPTIONAL):
        parser.error(f"too many arguments: {' '.join(given[len(_OPTIONAL) :])}")
    vars(arguments).update(zip(_OPTIONAL, given, strict=False))
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    command = shlex.join(["dwiml", "create_hdf5", *(sys.argv[1:] if argv is None else argv)])
    return parse_and_run(build_parser(), partial(_run, command), argv, parse=_parse)


def _run(command: str, arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from dwiml.hdf5.workers import Workers

    _check_order(arguments)
    options = {name: value for name, value in vars(arguments).items() if name not in ("verbose", "print_layout")}
    with (
        tqdm(unit="subject", disable=not sys.stderr.isatty() or arguments.verbose) as bar,
        Workers(arguments.nbr_processes).start() as options["nbr_processes"],
    ):
        from dwiml.hdf5.creator import create_hdf5

        def show_progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if done and not name:
                bar.write(f"{done} of {counted(total, 'subject')}: finished by the creation that was stopped.")
            if bar.disable and name:
                print(f"{name} done ({done} of {total})", flush=True)

        summary = create_hdf5(**options, on_progress=show_progress, command=command)
    print(_table(summary))
    print(_sets(summary))


def _check_order(arguments: argparse.Namespace) -> None:
    """Check that the config exists and is JSON; otherwise raise an error that recalls the order of the arguments."""
    from dwiml.files import read_json

    try:
        if arguments.config is not None:
            read_json(arguments.config, "Groups config")
        elif arguments.layout is None:
            raise ValueError("CONFIG.json or --layout is required")
        if not (arguments.training or arguments.layout or arguments.split):
            raise ValueError("TRAINING.txt, --split or --layout is required")
    except (FileNotFoundError, ValueError) as error:
        order = "FOLDER OUT.hdf5 CONFIG.json TRAINING.txt [VALIDATION.txt] [TESTING.txt]"
        raise ValueError(f"{str(error).rstrip('.')}; the arguments are {order}, in this order.") from error


def _table(summary: CreationSummary) -> str:
    counts = ", ".join(f"{len(names)} {subset}" for subset, names in summary.subjects.items())
    nb_subjects = sum(map(len, summary.subjects.values()))
    rows = [
        (name, f"volume, {counted(nb, 'feature')}: {_files(summary.files[name])}")
        for name, nb in summary.nb_features.items()
    ]
    for name, group in summary.streamlines.items():
        removed = f" ({group.nb_removed} invalid removed)" if group.nb_removed else ""
        files = f" from {counted(group.nb_files, 'tractogram')}"
        lines = counted(group.nb_streamlines, "streamline")
        rows.append((name, f"{lines}, {counted(group.nb_points, 'point')}{files}{removed}"))
    if len(summary.added) < nb_subjects:
        rows.append(("added", f"{counted(len(summary.added), 'subject')}, whose streamlines are counted above"))
    rows += [("left out", f"'{name}': {reason}") for name, reason in summary.skipped.items()]
    rows += [("directions", text) for text in _alignments(summary)]
    width = max(len(name) for name, _ in rows)
    title = f"{summary.path}: {counted(nb_subjects, 'subject')} ({counts}), {summary.nb_bytes / 1e9:.3f} GB"
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _alignments(summary: CreationSummary) -> list[str]:
    """Return how well the directional features of each volume group follow the streamlines, over all subjects."""
    found: dict[tuple[str, tuple[int, int]], list[Alignment]] = {}
    for each in summary.alignments:
        found.setdefault((each.group, each.features), []).append(each)
    lines = []
    for (group, (first, end)), measured in found.items():
        values = [each.measurement.alignment for each in measured if each.measurement is not None]
        nb_with_warning = sum(each.measurement is not None and bool(each.remark) for each in measured)
        text = f"alignment with the streamlines {min(values):.2f} to {max(values):.2f} (at most 1)" if values else ""
        text += f", but see the warning on {counted(nb_with_warning, 'subject')}" if nb_with_warning else ""
        lines.append(f"features {first} to {end - 1} of {group}: {text or measured[0].remark}")
    return lines


def _files(files: list[tuple[str, int]]) -> str:
    """Return the files of a volume group in order, with the number of features of each if there are several."""
    if len(files) == 1:
        return files[0][0]
    return ", ".join(f"{name} ({nb})" for name, nb in files)


def _sets(summary: CreationSummary) -> str:
    """Return which subjects are in which set, and what decided it."""
    sets = {**summary.subjects, "not used": summary.unused}
    lines = [f"Sets, from {summary.origin}:"]
    for name, subjects in sets.items():
        if subjects or name != "not used":
            text = ", ".join(subjects) or "none"
            lines += textwrap.wrap(
                text, 100, initial_indent=f"  {name:<10}  ", subsequent_indent=" " * 14, break_on_hyphens=False
            )
    return "\n".join(lines)
