"""``dwiml check_hdf5``: check each group of an HDF5 file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dwiml.arguments import counted
from dwiml.cli import BAD_INPUT, parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose

if TYPE_CHECKING:
    from dwiml.data.checking import FileReport


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml check_hdf5",
        allow_abbrev=False,
        description="Check the structure, volumes, lengths and coordinates of all subjects in HDF5 files. "
        "Faults, which make the file unusable, are listed, and the exit code is then 2. Remarks on what is only "
        "unusual do not change it.",
    )
    parser.add_argument(
        "hdf5_files",
        nargs="+",
        metavar="FILE.hdf5",
        help="file created by 'dwiml create_hdf5' or dwi_ml; a folder stands for its *.hdf5",
    )
    parser.add_argument(
        "--digests",
        action="store_true",
        help="compare all values with the digests stored in the file, not only those of the volumes",
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not read the volumes: NaN and constant values are then not found"
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        help="write a figure DIR/SUBJECT.png of each subject: its streamlines over three slices of a volume, to see "
        "whether they are aligned; files that share a subject are drawn one at a time",
    )
    add_overwrite(parser, "replace existing figures")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    from dwiml.hdf5.stored.collection import files_of

    files = files_of(arguments.hdf5_files)
    if arguments.figures is not None:
        _check_figures(files, arguments.figures, overwrite=arguments.overwrite)
    return max(_check(path, arguments, named=len(files) > 1) for path in files)


def _check(path: Path, arguments: argparse.Namespace, *, named: bool) -> int:
    """Check a file, and print the result; return the exit code."""
    from dwiml.data.checking import check_hdf5_file

    if named:
        print(path)
    with _progress("Checked", "group") as on_group:
        report = check_hdf5_file(path, digests=arguments.digests, quick=arguments.quick, on_group=on_group)
    print(_table(report))
    for remark in report.all_remarks:
        print(f"remark: {remark}")
    print(_summary(report, digests=arguments.digests, quick=arguments.quick))
    if arguments.figures is not None:
        _save_figures(path, arguments.figures)
    faults = report.all_faults
    if not faults:
        return 0
    shown = "; ".join(fault.rstrip(".") for fault in faults[:20])
    more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
    print(f"error: {counted(len(faults), 'fault')} in '{path}': {shown}{more}.", file=sys.stderr)
    return BAD_INPUT


def _check_figures(files: Sequence[Path], folder: str, *, overwrite: bool) -> None:
    from dwiml.files import check_output_folder
    from dwiml.inspection.subject_figures import figure_names

    names = [name for path in files for name in figure_names(path)]
    if len(set(names)) < len(names):
        raise ValueError("--figures: a subject is in several of the files; draw them one file at a time.")
    check_output_folder(folder, names, "--figures", inputs=files, overwrite=overwrite)


def _save_figures(path: Path, folder: str) -> None:
    from dwiml.inspection.subject_figures import save_subject_figures

    with _progress("Drawn", "subject") as on_subject:
        written = save_subject_figures(path, folder, on_subject)
    print(f"{counted(len(written), 'figure')} in {folder}")


@contextmanager
def _progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows progress, to be called with the number of items done, first 0, and their total."""
    from dwiml.cli.running.progress import progress_bar

    with ExitStack() as stack:
        counters: list[Callable[[int], None]] = []

        def show(done: int, total: int) -> None:
            if not counters:
                counters.append(stack.enter_context(progress_bar(title, total, unit=unit)))
            counters[0](1 if done else 0)

        yield show


def _table(report: FileReport) -> str:
    rows = [("set", "subject", "group", "content", "state")]
    for group in report.groups:
        state = "DAMAGED" if group.faults else counted(len(group.remarks), "remark") if group.remarks else "good"
        rows.append((group.subset, group.subject, group.group, group.content or "-", state))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _summary(report: FileReport, *, digests: bool, quick: bool) -> str:
    nb_datasets = sum(group.nb_datasets for group in report.groups)
    nb_with_digest = sum(group.nb_with_digest for group in report.groups)
    covered = f"{nb_with_digest} of {nb_datasets} datasets have a digest"
    if not digests:
        volumes = "" if quick else ", volumes"
        checked = (
            f"Structure{volumes}, lengths and coordinates were checked; {covered} (--digests compares all values)."
        )
    elif nb_with_digest < nb_datasets:
        checked = f"All values were read; {covered}: damaged values in the others cannot be detected."
    else:
        checked = f"All values were read and compared with their digests ({nb_datasets} datasets)."
    return f"{checked} Faults: {len(report.all_faults)}. Remarks: {len(report.all_remarks)}."
