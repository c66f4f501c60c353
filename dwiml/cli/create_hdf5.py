"""``dwiml create_hdf5``: store the volumes and streamlines of subjects in one HDF5 file."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dwiml.arguments import counted
from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose

if TYPE_CHECKING:
    from dwiml.hdf5.creator import CreationSummary


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml create_hdf5",
        allow_abbrev=False,
        description="Store the volumes and streamlines of many subjects in one HDF5 file, ready for training. "
        "All headers are checked first, and OUT.hdf5 appears only when it is complete.",
    )
    parser.add_argument("subjects_folder", metavar="FOLDER", help="folder with one subfolder per subject")
    parser.add_argument("out_hdf5", metavar="OUT.hdf5", help="file to write")
    parser.add_argument("config", metavar="CONFIG.json", help="groups to create, and the files of each group")
    for subset in ("training", "validation", "testing"):
        optional = subset != "training"
        parser.add_argument(
            subset,
            metavar=f"{subset.upper()}.txt",
            nargs="?" if optional else None,
            default=(),
            help=f"text file with one {subset} subject per line{' (optional; may be empty)' if optional else ''}",
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
    parser.add_argument(
        "--continue",
        dest="resume",
        action="store_true",
        help="continue a creation that was stopped: use the subjects that it finished, if their files and the options "
        "are the same",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    command = shlex.join(["dwiml", "create_hdf5", *(sys.argv[1:] if argv is None else argv)])
    return parse_and_run(build_parser(), partial(_run, command), argv)


def _run(command: str, arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from dwiml.hdf5.creator import create_hdf5

    _check_order(arguments.config)
    options = {name: value for name, value in vars(arguments).items() if name != "verbose"}
    with tqdm(unit="subject", disable=not sys.stderr.isatty() or arguments.verbose) as bar:

        def show_progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if done and not name:
                bar.write(f"{counted(done, 'subject')} of {total} were finished by the creation that was stopped.")
            if bar.disable and name:
                print(f"{name} done ({done} of {total})", flush=True)

        summary = create_hdf5(**options, on_progress=show_progress, command=command)
    print(_table(summary))


def _check_order(config: str) -> None:
    """Check that the config exists and is JSON; otherwise raise an error that recalls the order of the arguments."""
    from dwiml.files import read_json

    try:
        read_json(config, "Groups config")
    except (FileNotFoundError, ValueError) as error:
        arguments = "FOLDER OUT.hdf5 CONFIG.json TRAINING.txt [VALIDATION.txt] [TESTING.txt]"
        raise ValueError(f"{str(error).rstrip('.')}; the arguments are {arguments}, in this order.") from error


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
    width = max(len(name) for name, _ in rows)
    title = f"{summary.path}: {counted(nb_subjects, 'subject')} ({counts}), {summary.nb_bytes / 1e9:.3f} GB"
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _files(files: list[tuple[str, int]]) -> str:
    """Return the files of a volume group in order, with the number of features of each if there are several."""
    if len(files) == 1:
        return files[0][0]
    return ", ".join(f"{name} ({nb})" for name, nb in files)
