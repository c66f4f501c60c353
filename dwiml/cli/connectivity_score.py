"""``dwiml connectivity_score``: count the streamlines that join connected regions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import parse_and_run
from dwiml.cli.options.regions import add_regions, percent, regions_of
from dwiml.cli.options.regions import describe as describe_regions
from dwiml.cli.options.shared import add_overwrite, add_sidecar, add_verbose

if TYPE_CHECKING:
    from dwiml.ops.connectivity_matrix import ConnectivityMatrix
    from dwiml.ops.regions import Regions
    from dwiml.scoring.connectivity_scores import ConnectivityScore
    from dwiml.tractograms.grid import Grid

_PAIRS_SHOWN = 10


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml connectivity_score",
        allow_abbrev=False,
        usage="dwiml connectivity_score TRACTOGRAM MATRIX.npy (--nb_blocs N [N N] | --labels LABELS) [options]\n"
        "       dwiml connectivity_score TRACTOGRAM --hdf5_file HDF5 --subject S --streamline_group_name G [options]",
        description="Count the streamlines that join regions connected in a connectivity matrix (values above 0), join "
        "regions not connected in it, or have an end in no region.",
    )
    parser.add_argument("tractogram", metavar="TRACTOGRAM", help="the tractogram")
    parser.add_argument("matrix", metavar="MATRIX.npy", nargs="?", help="connectivity matrix, one row per region")
    add_regions(parser, required=False)
    hdf5 = parser.add_argument_group("matrix and regions from an HDF5 file")
    hdf5.add_argument("--hdf5_file", metavar="HDF5", help="HDF5 file with a connectivity matrix")
    hdf5.add_argument("--subject", metavar="S", help="subject of the tractogram")
    hdf5.add_argument("--streamline_group_name", metavar="G", help="streamlines group with the matrix")
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="JSON", help="write the table to this file too, with all pairs of regions")
    output.add_argument(
        "--save_invalid",
        metavar="OUT",
        help="save the streamlines that join regions that are not connected (.trk, .tck or .trx)",
    )
    add_sidecar(output, "the tractogram of --save_invalid")
    add_overwrite(output, "replace these outputs if they exist")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    import os

    from dwiml.files import write_json
    from dwiml.ops.connectivity_matrix import JOINS_UNCONNECTED
    from dwiml.scoring.connectivity_scores import score_connectivity
    from dwiml.tractograms.reading import read_streamlines
    from dwiml.tractograms.writing.writer import TractogramWriter

    _check_options(arguments)
    regions, connections, grid = _read_truth(arguments)
    writer, replace = None, False
    if arguments.save_invalid is not None:
        replace = arguments.overwrite and os.path.lexists(arguments.save_invalid)
        writer = TractogramWriter(
            arguments.save_invalid,
            grid=grid,
            overwrite=arguments.overwrite,
            sidecar=_sidecar(arguments, regions) if arguments.sidecar else None,
        )
    points, lengths = read_streamlines(arguments.tractogram, grid.affine)
    score = score_connectivity(points, lengths, regions, connections)
    if arguments.json is not None:
        truth = arguments.matrix or arguments.hdf5_file
        names = {"tractogram": str(arguments.tractogram), "truth": str(truth), "regions": describe_regions(regions)}
        write_json(arguments.json, {**names, **score.summary(regions)})
    invalid = score.status == JOINS_UNCONNECTED
    # A file of an earlier run would look like a result of this one.
    saves = writer is not None and (replace or bool(invalid.any()))
    if writer is not None and saves:
        with writer:
            writer.append(points[invalid.repeat(lengths)], lengths[invalid])
    # Printed last, so that the files are written even if the terminal or pipe is closed.
    print(_table(arguments, score, regions))
    if writer is not None and not saves:
        print(f"'{arguments.save_invalid}' was not written: no streamline joins regions that are not connected.")


def _check_options(arguments: argparse.Namespace) -> None:
    from dwiml.files import check_outputs
    from dwiml.tractograms.writing.sidecar import add_sidecars, tractogram_sidecar

    of_matrix = {"MATRIX.npy": arguments.matrix, "--nb_blocs": arguments.nb_blocs, "--labels": arguments.labels}
    of_hdf5 = {
        "--hdf5_file": arguments.hdf5_file,
        "--subject": arguments.subject,
        "--streamline_group_name": arguments.streamline_group_name,
    }
    if any(value is not None for value in of_hdf5.values()):
        of_matrix["--reference"] = arguments.reference
        extra = [name for name, value in of_matrix.items() if value is not None]
        missing = [name for name, value in of_hdf5.items() if value is None]
        if extra:
            raise ValueError(
                f"{extra[0]} was given with an HDF5 file, which has its own matrix and regions; leave out one of them."
            )
        if missing:
            raise ValueError(
                f"{missing[0]} is missing; give --hdf5_file, --subject and --streamline_group_name together."
            )
    elif arguments.matrix is None:
        raise ValueError("No connectivity matrix was given; give MATRIX.npy, or an HDF5 file with --hdf5_file.")
    elif arguments.nb_blocs is None and arguments.labels is None:
        raise ValueError("The regions of MATRIX.npy were not given; give --nb_blocs or --labels.")
    outputs = {"--json": arguments.json, "--save_invalid": arguments.save_invalid}
    inputs = [arguments.tractogram, arguments.matrix, arguments.labels, arguments.hdf5_file, arguments.reference]
    if arguments.sidecar:
        if arguments.save_invalid is None:
            raise ValueError("--sidecar describes the tractogram of --save_invalid, which was not given.")
        outputs = add_sidecars(outputs, of=["--save_invalid"])
        inputs.append(tractogram_sidecar(arguments.tractogram))
    check_outputs(outputs, inputs=inputs, overwrite=arguments.overwrite)


def _sidecar(arguments: argparse.Namespace, regions: Regions) -> dict[str, Any]:
    from dwiml.tractograms.writing.sidecar import ACCEPTANCE, describe

    sources = [arguments.matrix, arguments.labels, arguments.hdf5_file]
    truth = next(Path(path) for path in (arguments.matrix, arguments.hdf5_file) if path is not None)
    criteria = {"Connects": "regions that are not connected in the matrix", "Matrix": truth}
    if arguments.subject is not None:
        criteria |= {"Subject": arguments.subject, "Group": arguments.streamline_group_name}
    return describe(
        "Streamlines of a tractogram that join regions which are not connected in a connectivity matrix.",
        [arguments.tractogram, *sources],
        {ACCEPTANCE: {**criteria, "Regions": describe_regions(regions)}},
    )


def _read_truth(arguments: argparse.Namespace) -> tuple[Regions, ConnectivityMatrix, Grid]:
    if arguments.hdf5_file is not None:
        return _read_hdf5(arguments)
    from dwiml.hdf5.inputs.connectivity import read_connections

    regions, grid = regions_of(arguments, [arguments.tractogram])
    return regions, read_connections(arguments.matrix, regions, "The matrix"), grid


def _read_hdf5(arguments: argparse.Namespace) -> tuple[Regions, ConnectivityMatrix, Grid]:
    from dwiml.data.dataset import MultiSubjectDataset

    name, group = arguments.subject, arguments.streamline_group_name
    dataset = MultiSubjectDataset(arguments.hdf5_file, lazy=True)
    dataset.load_data(subj_id=name, volume_groups=[], streamline_groups=[group])
    subject = next(item for phase in ("training", "validation", "testing") for item in dataset.subset(phase))
    streamlines = subject.streamlines[group]
    if streamlines.connectivity is None:
        raise ValueError(
            f"'{arguments.hdf5_file}': streamlines group '{group}' of subject '{name}' has no connectivity matrix; "
            "add one to the groups config, or give MATRIX.npy."
        )
    regions, connections = streamlines.connectivity.regions, streamlines.connectivity.connections
    return regions, connections, streamlines.grid_of(regions.shape)


def _table(arguments: argparse.Namespace, score: ConnectivityScore, regions: Regions) -> str:
    from dwiml.ops.connectivity_matrix import JOINS_CONNECTED, JOINS_NONE, JOINS_UNCONNECTED

    truth = arguments.matrix or f"{arguments.hdf5_file} ({arguments.subject})"
    rows = [
        ("streamlines", score.nb_streamlines, ""),
        *(
            (name, score.count(status), percent(score.share(status)))
            for name, status in (
                ("join regions that are connected", JOINS_CONNECTED),
                ("join regions that are not connected", JOINS_UNCONNECTED),
                ("have an end in no region", JOINS_NONE),
            )
        ),
        ("pairs of regions that are connected", score.nb_pairs_connected, ""),
        ("of them, joined by a streamline", score.nb_pairs_found, percent(_ratio(score))),
    ]
    width = max(len(str(number)) for _, number, _ in rows)
    lines = [f"{arguments.tractogram} against {truth} ({describe_regions(regions)})"]
    lines += [f"  {name:<36}{number:>{width}}{share}" for name, number, share in rows]
    unconnected = score.unconnected
    if unconnected:
        lines.append("  most frequent pairs that are not connected:")
        names = [f"{regions.name(a)} - {regions.name(b)}" for a, b, _ in unconnected[:_PAIRS_SHOWN]]
        lines += [f"    {name:<34}{unconnected[i][2]:>{width}}" for i, name in enumerate(names)]
        if len(unconnected) > _PAIRS_SHOWN:
            lines.append(f"    and {len(unconnected) - _PAIRS_SHOWN} more")
    return "\n".join(lines)


def _ratio(score: ConnectivityScore) -> float | None:
    return score.nb_pairs_found / score.nb_pairs_connected if score.nb_pairs_connected else None
