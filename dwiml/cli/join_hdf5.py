"""``dwiml join_hdf5``: copy the subjects of several HDF5 files into one file."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from dwiml.arguments import counted
from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml join_hdf5",
        allow_abbrev=False,
        description="Copy the subjects of several HDF5 files into one file, for instance those of the jobs of a "
        "cluster. The files must have the same groups, features, resampling and standardization, and no subject in "
        "common. OUT.hdf5 appears only when it is complete.",
    )
    parser.add_argument(
        "hdf5_files",
        nargs="+",
        metavar="FILE.hdf5",
        help="files created by 'dwiml create_hdf5', in the order of their subjects; a folder stands for its *.hdf5",
    )
    parser.add_argument("out_hdf5", metavar="OUT.hdf5", help="file to write")
    add_overwrite(parser, "replace OUT.hdf5, if it is an HDF5 file")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    command = shlex.join(["dwiml", "join_hdf5", *(sys.argv[1:] if argv is None else argv)])
    return parse_and_run(build_parser(), partial(_run, command), argv)


def _run(command: str, arguments: argparse.Namespace) -> None:
    from dwiml.cli.running.progress import progress_bar
    from dwiml.hdf5.joining import join_hdf5

    with ExitStack() as stack:
        counters: list[Callable[[int], None]] = []

        def show_progress(done: int, total: int, name: str) -> None:
            if not counters:
                counters.append(stack.enter_context(progress_bar("Joined", total, unit="subject")))
            counters[0](1 if name else 0)

        summary = join_hdf5(
            arguments.hdf5_files,
            arguments.out_hdf5,
            overwrite=arguments.overwrite,
            on_progress=show_progress,
            command=command,
        )
    counts = ", ".join(f"{len(names)} {subset}" for subset, names in summary.subjects.items())
    nb_subjects = counted(sum(map(len, summary.subjects.values())), "subject")
    files = counted(len(summary.files), "file")
    print(f"{summary.path}: {nb_subjects} ({counts}) of {files}, {summary.nb_bytes / 1e9:.3f} GB")
