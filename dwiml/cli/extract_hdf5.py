"""``dwiml extract_hdf5``: write a group of an HDF5 file to a NIfTI, tractogram or NumPy file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_sidecar, add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml extract_hdf5",
        allow_abbrev=False,
        description="Write a group of a subject of an HDF5 file to a file that other programs read. Values are as in "
        "the HDF5 file: volumes as standardized, streamlines as resampled when it was created.",
    )
    parser.add_argument(
        "hdf5_file",
        metavar="FILE.hdf5",
        help="file created by 'dwiml create_hdf5' or dwi_ml; a folder stands for its *.hdf5",
    )
    parser.add_argument("subject", metavar="SUBJECT", help="name of the subject")
    parser.add_argument(
        "group", metavar="GROUP", help="name of the volume or streamlines group ('dwiml info' lists them)"
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="file to write. Volume: .nii.gz or .nii, with the convention of directional features in a .json file "
        "beside it; streamlines: .trk, .trx or .tck (without data per streamline); connectivity of a streamlines "
        "group: .npy, with its labels, if it has any, in OUT_labels.txt and OUT_labels.nii.gz",
    )
    parser.add_argument(
        "--original_values",
        action="store_true",
        help="volume: undo the standardization, if the file records its means and standard deviations",
    )
    add_sidecar(parser, "a tractogram")
    add_overwrite(parser, "replace existing outputs")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.inspection.extraction import extract_hdf5

    print(
        extract_hdf5(
            arguments.hdf5_file,
            arguments.subject,
            arguments.group,
            arguments.out,
            overwrite=arguments.overwrite,
            sidecar=arguments.sidecar,
            original_values=arguments.original_values,
        )
    )
