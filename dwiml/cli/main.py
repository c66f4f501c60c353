"""``dwiml COMMAND``: pass the rest of the command line to the module of the command."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from dwiml import __version__
from dwiml.files.streams import guarded_streams

COMMANDS = {
    "phantom": "create the built-in example subjects",
    "curate": "keep the streamlines that are worth training on, balanced between bundles",
    "create_hdf5": "gather subjects' volumes and streamlines into one HDF5 file",
    "join_hdf5": "copy the subjects of several HDF5 files into one file",
    "check_hdf5": "check an HDF5 file: structure, coordinates, digests of all values",
    "info": "print what an HDF5 file, an experiment or a tractogram contains",
    "extract_hdf5": "write a group of an HDF5 file as NIfTI, tractogram or matrix",
    "train": "train one of dwiml's models",
    "resume": "continue an experiment that was stopped",
    "evaluate": "measure a trained model's direction error, and that of simple baselines",
    "track": "create a tractogram with a trained model",
    "autoencode": "reconstruct streamlines with a trained autoencoder",
    "filter_plausible": "keep the streamlines that a trained classifier finds plausible",
    "filter_latent": "keep the streamlines near reference streamlines in a latent space",
    "import_dwi_ml": "import an experiment of dwi_ml 1.0: model, weights and logs",
    "connectivity_matrix": "count the streamlines that connect each pair of regions",
    "connectivity_score": "count the streamlines that connect regions connected in a matrix",
    "score": "compare tractograms with true bundles: connections, overlap, overreach",
    "show_batch": "draw what a model receives of a batch: augmented streamlines, neighborhood",
    "show_loss": "write a trained model's loss at each point of streamlines",
    "show_attention": "draw what a trained transformer attends to along true streamlines",
    "show_tractogram": "draw streamlines over slices of an image",
    "runs": "list experiments: status, best values, time left, different parameters",
    "report": "write one page about experiments: curves, parameters, scores, pictures",
    "comet_upload": "send an experiment to Comet.ml after its training",
    "visualize_logs": "plot the training curves of one or more experiments",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command's name; each command parses its own options."""
    lines = "\n".join(f"  {name:<21}{description}" for name, description in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dwiml",
        allow_abbrev=False,
        usage="dwiml COMMAND ...",
        description="Train tractography models.",
        epilog=f"commands:\n{lines}\n\n'dwiml COMMAND --help' describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dwiml {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    with guarded_streams():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 0
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        # Only for the error: numpy would slow down the commands that do not need it.
        from dwiml.arguments import did_you_mean, shown, similar_names

        hint = did_you_mean(similar_names(arguments[0], COMMANDS)) or "'dwiml --help' lists them."
        parser.error(f"there is no command {shown(arguments[0])}: {hint}")
    command = parser.parse_args(arguments[:1]).command
    module = importlib.import_module(f"dwiml.cli.{command}")
    code: int = module.main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
