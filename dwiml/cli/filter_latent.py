"""``dwiml filter_latent``: keep the streamlines that are close to reference streamlines in a latent space."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwiml.cli import parse_and_run
from dwiml.cli.options.latent_space import MODEL_HELP, add_latent_options, memory_advice
from dwiml.cli.running.scanner_streamlines import check_tractogram_outputs, describe_kept, read_scanner_streamlines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.evaluation.latent_filter import LatentReference
    from dwiml.models.whole_streamlines.autoencoder import AutoencoderModel

DISTANCE = "latent_distance"
QUANTILE = 0.95
# Keys of the sidecar.
ACCEPTANCE = "StreamlineAcceptanceCriteria"
LATENT = "LatentDistance"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml filter_latent",
        allow_abbrev=False,
        usage="dwiml filter_latent EXPERIMENT_OR_MODEL IN OUT --reference REF [REF ...] [options]",
        description="Keep the streamlines whose distance to the nearest reference streamline, in the latent space of a "
        "trained autoencoder, is at most a threshold (FINTA: Legarreta et al., Medical Image Analysis, 2021; a patent "
        "application on this method is pending, US 17/337,413). The direction of a streamline does not matter. The "
        f"distances are the data per streamline '{DISTANCE}' of the outputs (.trk, .trx).",
    )
    parser.add_argument("model", metavar="EXPERIMENT_OR_MODEL", help=MODEL_HELP)
    parser.add_argument("tractogram", metavar="IN", help="tractogram to filter")
    parser.add_argument("out", metavar="OUT", help="tractogram to write, with the streamlines that are kept")
    parser.add_argument(
        "--reference",
        required=True,
        nargs="+",
        metavar="REF",
        help="tractograms of plausible streamlines, in the same space",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=float, metavar="X", help="largest distance of a streamline that is kept")
    limit.add_argument(
        "--quantile",
        type=float,
        metavar="Q",
        help="the threshold is this quantile, from 0 to 1, of the distances of the reference streamlines, each to the "
        f"nearest other one [{QUANTILE}]",
    )
    parser.add_argument("--rejected", metavar="FILE", help="also write the streamlines that are not kept")
    add_latent_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv, memory_advice=memory_advice)


def _run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from dwiml.arguments import check_number, counted
    from dwiml.cli.running.input_files import refuse_repeated
    from dwiml.cli.running.progress import progress_bar
    from dwiml.evaluation.latent_space import load_autoencoder

    outputs = {"OUT": arguments.out, "--rejected": arguments.rejected}
    check_tractogram_outputs(arguments, outputs, arguments.reference)
    refuse_repeated(arguments.reference)
    if arguments.threshold is not None:
        check_number("--threshold", arguments.threshold, low=0)
    quantile = QUANTILE if arguments.quantile is None else arguments.quantile
    check_number("--quantile", quantile, low=0, high=1)
    model = load_autoencoder(arguments.model, arguments.model_class)
    written = [path for path in outputs.values() if path is not None]
    needs_grid = any(not path.lower().endswith(".tck") for path in written)
    lines = read_scanner_streamlines(arguments.tractogram, "IN", image=arguments.grid, needs_grid=needs_grid)
    sidecars = {path: _sidecar(arguments, path) if arguments.sidecar else None for path in written}
    writers = {
        path: lines.writer(path, {DISTANCE: 1}, overwrite=arguments.overwrite, sidecar=sidecars[path])
        for path in written
    }
    reference = _encode_references(model, arguments)
    threshold = reference.threshold_at(quantile) if arguments.threshold is None else arguments.threshold
    for sidecar in sidecars.values():
        if sidecar is not None:
            sidecar[ACCEPTANCE][LATENT]["Threshold"] = float(threshold)
    lengths = lines.stored.lengths
    with progress_bar("Encoding", len(lengths)) as count:
        distances = reference.distances(lines.points, lengths, batch_size=arguments.batch_size, on_progress=count)
    kept = distances <= threshold
    lines.stored.dps[DISTANCE] = distances[:, None].astype("float32")
    for path, chosen in ((arguments.out, kept), (arguments.rejected, ~kept)):
        if path is not None:
            lines.write(path, writers[path], chosen)
    source = "given" if arguments.threshold is not None else f"quantile {quantile:g} of the reference"
    print(f"Threshold {threshold:.4g} ({source}, {counted(reference.latents.shape[1], 'streamline')}).")
    if len(distances):
        low, median, high = np.quantile(distances, (0.05, 0.5, 0.95))
        print(f"Distances of IN: median {median:.4g}, from {low:.4g} to {high:.4g} (5% to 95%).")
    print(describe_kept(kept, arguments.out))


def _sidecar(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the content of the sidecar of an output; the threshold is added once it is known."""
    from pathlib import Path

    from dwiml.tractograms.writing.sidecar import describe

    references = list(map(Path, arguments.reference))
    kept = "at most" if path == arguments.out else "more than"
    criteria = {"Metric": "distance to the nearest reference streamline in the latent space", "Kept": kept}
    return describe(
        f"Streamlines of a tractogram whose distance to reference streamlines, in the latent space of a trained "
        f"autoencoder, is {kept} a threshold.",
        [arguments.tractogram, *references, arguments.model],
        {ACCEPTANCE: {LATENT: {**criteria, "References": references, "Model": Path(arguments.model)}}},
    )


def _encode_references(model: AutoencoderModel, arguments: argparse.Namespace) -> LatentReference:
    import numpy as np

    from dwiml.cli.running.progress import progress_bar
    from dwiml.evaluation.latent_filter import LatentReference

    points: list[NDArray[np.float32]] = []
    lengths: list[NDArray[np.int64]] = []
    for path in arguments.reference:
        each = read_scanner_streamlines(path, "--reference")
        points.append(each.points)
        lengths.append(each.stored.lengths)
    all_points, all_lengths = np.concatenate(points), np.concatenate(lengths)
    with progress_bar("Encoding the reference", len(all_lengths)) as count:
        return LatentReference.from_streamlines(
            model, all_points, all_lengths, batch_size=arguments.batch_size, on_progress=count
        )
