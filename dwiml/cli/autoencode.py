"""``dwiml autoencode``: reconstruct streamlines with a trained autoencoder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.latent_space import MODEL_HELP, add_latent_options, memory_advice
from dwiml.cli.running.scanner_streamlines import check_tractogram_outputs, read_scanner_streamlines

ERROR = "rms_error_mm"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml autoencode",
        allow_abbrev=False,
        description="Encode and decode streamlines with a trained autoencoder, to see what it keeps of them. OUT has "
        "the reconstruction of each streamline, in the same order; its data per streamline "
        f"'{ERROR}' (.trk, .trx) is the root mean square distance, in mm, to the points of the streamline, resampled "
        "for the model.",
    )
    parser.add_argument("model", metavar="EXPERIMENT_OR_MODEL", help=MODEL_HELP)
    parser.add_argument("tractogram", metavar="IN", help="a tractogram, in the space of the training")
    parser.add_argument("out", metavar="OUT", help="tractogram to write: .trk, .tck or .trx")
    add_latent_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv, memory_advice=memory_advice)


def _run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from dwiml.arguments import counted
    from dwiml.cli.running.progress import progress_bar
    from dwiml.evaluation.latent_space import load_autoencoder, reconstruct_streamlines
    from dwiml.ops.spaces import to_vox_corner
    from dwiml.tractograms.writing.sidecar import describe

    check_tractogram_outputs(arguments, {"OUT": arguments.out})
    model = load_autoencoder(arguments.model, arguments.model_class)
    needs_grid = not arguments.out.lower().endswith(".tck")
    lines = read_scanner_streamlines(arguments.tractogram, "IN", image=arguments.grid, needs_grid=needs_grid)
    sidecar = describe(
        f"The streamlines of a tractogram, reconstructed by a trained autoencoder, with {model.nb_points} points each.",
        [arguments.tractogram, arguments.model],
    )
    writer = lines.writer(
        arguments.out, {ERROR: 1}, overwrite=arguments.overwrite, sidecar=sidecar if arguments.sidecar else None
    )
    lengths, errors, start = lines.stored.lengths, [np.zeros(0)], 0
    rebuilt = reconstruct_streamlines(model, lines.points, lengths, batch_size=arguments.batch_size)
    with progress_bar("Reconstructing", len(lengths)) as count, writer:
        for points, some_errors in rebuilt:
            points = to_vox_corner(
                points, space="rasmm", origin="center", affine=lines.grid.affine, voxel_sizes=lines.grid.voxel_sizes
            )
            data = lines.data(arguments.out, slice(start, start + len(some_errors)))
            data |= {ERROR: some_errors[:, None].astype(np.float32)} if needs_grid else {}
            writer.append(points, np.full(len(some_errors), model.nb_points), data)
            errors.append(some_errors)
            start += len(some_errors)
            count(len(some_errors))
    all_errors = np.concatenate(errors)
    print(f"{counted(len(all_errors), 'streamline')} of {model.nb_points} points in '{arguments.out}'.")
    if len(all_errors):
        low, middle, high = np.quantile(all_errors, (0.05, 0.5, 0.95))
        print(
            f"Root mean square distance to the original points, in mm: median {middle:.3g}, 5% below {low:.3g}, 5% "
            f"above {high:.3g}."
        )
