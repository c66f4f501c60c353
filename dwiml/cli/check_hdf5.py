"""``dwiml check_hdf5``: check an HDF5 file, object by object."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dwiml.cli import BAD_INPUT, run_command
from dwiml.cli.unknown_options import parse_known_options

if TYPE_CHECKING:
    from dwiml.data.checking import FileReport


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml check_hdf5",
        allow_abbrev=False,
        description="Check an HDF5 file of subjects: structure, lengths and coordinates of every group of every "
        "subject. Damaged objects are named, and the exit code is then 2.",
    )
    parser.add_argument("hdf5_file", metavar="FILE.hdf5", help="made by 'dwiml create_hdf5', or by dwi_ml")
    parser.add_argument(
        "--digests",
        action="store_true",
        help="read all values, and compare them with the digests that were written with them (about 1 GB a second)",
    )
    parser.add_argument("-v", dest="verbose", action="store_true", help="say more")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    return run_command(lambda: _run(arguments), verbose=arguments.verbose)


def _run(arguments: argparse.Namespace) -> int:
    from dwiml.cli.progress import counted
    from dwiml.data.checking import check_hdf5_file

    with ExitStack() as stack:
        counters: list[Callable[[int], None]] = []

        def tell(done: int, total: int) -> None:
            if not counters:
                counters.append(stack.enter_context(counted("Checked", total, unit="group")))
            counters[0](1 if done else 0)

        report = check_hdf5_file(arguments.hdf5_file, digests=arguments.digests, on_group=tell)
    print(_table(report))
    print(_summary(report, digests=arguments.digests))
    faults = report.all_faults
    if not faults:
        return 0
    shown = "; ".join(fault.rstrip(".") for fault in faults[:20])
    more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
    nb_faults = f"{len(faults)} fault{'' if len(faults) == 1 else 's'}"
    print(f"error: {nb_faults} in '{arguments.hdf5_file}': {shown}{more}.", file=sys.stderr)
    return BAD_INPUT


def _table(report: FileReport) -> str:
    rows = [("set", "subject", "group", "content", "state")]
    for each in report.groups:
        found = "DAMAGED" if each.faults else "good"
        rows.append((each.subset, each.subject, each.group, each.content or "-", found))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _summary(report: FileReport, *, digests: bool) -> str:
    nb_datasets = sum(each.nb_datasets for each in report.groups)
    nb_with = sum(each.nb_with_digest for each in report.groups)
    covered = f"{nb_with} of {nb_datasets} datasets have a digest"
    if not digests:
        how = f"Structure, lengths and coordinates were checked; {covered}: --digests compares their values."
    elif nb_with < nb_datasets:
        how = f"All values were read; {covered}: damage to the values of the others cannot be detected."
    else:
        how = f"All values were read and compared with their digests ({nb_datasets} datasets)."
    return f"{how} Faults: {len(report.all_faults)}."
