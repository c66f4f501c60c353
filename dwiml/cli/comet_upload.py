"""``dwiml comet_upload``: send an experiment to Comet.ml afterwards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml comet_upload",
        allow_abbrev=False,
        description="Send an experiment to Comet.ml after its training: parameters, metrics of epochs and batches, and "
        "the figure of its curves. An experiment that has logged to Comet offline is sent with 'comet upload' instead. "
        "If the connection was lost during the training, send it again as a new experiment with -f.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="experiment folder")
    parser.add_argument("--workspace", metavar="NAME", help="workspace on Comet [as recorded in the experiment]")
    parser.add_argument("--project", metavar="NAME", help="project on Comet [as recorded in the experiment]")
    add_overwrite(parser, "send it as a new experiment even if it is already on Comet")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.inspection.comet_upload import upload_to_comet

    url = upload_to_comet(
        arguments.experiment, workspace=arguments.workspace, project=arguments.project, again=arguments.overwrite
    )
    print(f"Comet shows this experiment at {url}")
