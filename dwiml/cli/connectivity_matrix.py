"""``dwiml connectivity_matrix``: count the streamlines that join each pair of regions."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwiml.cli import parse_and_run
from dwiml.cli.options.regions import add_regions, describe, percent, regions_of
from dwiml.cli.options.shared import add_overwrite, add_verbose

if TYPE_CHECKING:
    from dwiml.ops.connectivity_matrix import ConnectivityMatrix
    from dwiml.ops.regions import Regions

logger = logging.getLogger(__name__)

_LONGEST_NAME = 36


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml connectivity_matrix",
        allow_abbrev=False,
        usage="dwiml connectivity_matrix TRACTOGRAM [TRACTOGRAM ...] OUT.npy (--nb_blocs N [N N] | --labels LABELS) "
        "[options]",
        description="Count the streamlines that join each pair of regions: a symmetric matrix, one row per region. "
        "Only the two ends of a streamline count; streamlines with an end in no region are ignored. With --labels, "
        "OUT_labels.txt lists the label of each row; with --nb_blocs, that of an older matrix is removed.",
    )
    parser.add_argument(
        "tractograms",
        metavar="TRACTOGRAM",
        nargs="+",
        help="a tractogram; the streamlines of several are added up",
    )
    parser.add_argument("out", metavar="OUT.npy", help="matrix to write")
    add_regions(parser, required=True)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--binary", action="store_true", help="write 1 for regions joined by any streamline [the number of streamlines]"
    )
    output.add_argument("--figure", metavar="PNG", help="save a figure of the matrix")
    add_overwrite(output, "replace these outputs if they exist")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from dwiml.cli.running.input_files import refuse_repeated
    from dwiml.files import check_outputs
    from dwiml.hdf5.inputs.connectivity import check_labels_file, check_matrix_name, labels_path, write_matrix
    from dwiml.ops.connectivity_matrix import count_connections
    from dwiml.ops.regions import LabelRegions
    from dwiml.scoring.connectivity_scores import ends_of
    from dwiml.tractograms.reading import read_streamlines

    refuse_repeated(arguments.tractograms)
    out = check_matrix_name(arguments.out)
    if arguments.figure is not None:
        from dwiml.viz.figure_file import check_figure_format

        check_figure_format(arguments.figure)
    outputs = {"OUT.npy": arguments.out, "OUT_labels.txt": labels_path(out), "--figure": arguments.figure}
    inputs = (*arguments.tractograms, arguments.labels, arguments.reference)
    check_outputs(outputs, inputs=inputs, overwrite=arguments.overwrite)
    check_labels_file(labels_path(out))
    regions, grid = regions_of(arguments, arguments.tractograms)
    # Keep only the ends of each tractogram in memory.
    ends = [ends_of(*read_streamlines(tractogram, grid.affine)) for tractogram in arguments.tractograms]
    first, last = (np.concatenate(points) for points in zip(*ends, strict=True))
    connections = count_connections(first, last, regions)
    write_matrix(out, connections, regions, binary=arguments.binary)
    print(_table(out, connections, regions, len(first)))
    if isinstance(regions, LabelRegions):
        print(f"The label of each row is in {labels_path(out)}.")
    if arguments.figure is not None:
        _draw(arguments, connections, regions)
        print(f"Figure: {arguments.figure}")
    if not len(connections.keys):
        logger.warning(
            "No streamline has both ends in regions; check that tractogram and regions have the same subject and space."
        )


def _table(out: Path, connections: ConnectivityMatrix, regions: Regions, nb_streamlines: int) -> str:
    n = connections.nb_regions
    nb_joining, nb_pairs, nb_possible = int(connections.values.sum()), len(connections.keys), n * (n + 1) // 2
    rows = [
        ("streamlines", nb_streamlines, ""),
        ("with both ends in regions", nb_joining, percent(nb_joining / nb_streamlines if nb_streamlines else None)),
        ("pairs of regions joined", nb_pairs, f"{percent(nb_pairs / nb_possible)} of {nb_possible}"),
    ]
    width = max(len(str(number)) for _, number, _ in rows)
    lines = [f"  {name:<26}{number:>{width}}{share}" for name, number, share in rows]
    return "\n".join([f"{out}: {n} x {n} ({describe(regions)})", *lines])


def _short(name: str) -> str:
    """Return a file name, shortened to fit in a title."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}...{name[-_LONGEST_NAME // 2 :]}"


def _draw(arguments: argparse.Namespace, connections: ConnectivityMatrix, regions: Regions) -> None:
    from dwiml.ops.regions import LabelRegions
    from dwiml.viz.connectivity_figure import DPI, plot_connectivity
    from dwiml.viz.figure_file import save_figure

    names = [Path(tractogram).name for tractogram in arguments.tractograms]
    source = _short(names[0]) if len(names) == 1 else f"{len(names)} tractograms"
    is_labels = isinstance(regions, LabelRegions)
    figure = plot_connectivity(
        connections.pairs,
        connections.values,
        connections.nb_regions,
        names=[regions.name(region) for region in range(regions.nb_regions)] if is_labels else None,
        axis="Label" if is_labels else "Bloc (number, from 0; z runs fastest)",
        title=f"Streamlines of {source} between {describe(regions)}",
    )
    save_figure(figure, Path(arguments.figure), dpi=DPI)
