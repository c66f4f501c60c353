"""``dwiml visualize_logs``: draw the curves of one or more experiments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dwiml.cli import run_command
from dwiml.cli.unknown_options import parse_known_options


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="visualize_logs",
        allow_abbrev=False,
        description="Draw the losses, gradient norms, learning rate and epoch times of one or more experiments: in a "
        "window where there is a display, otherwise in a PNG: curves.png in the experiment's folder, or "
        "curves_compared.png in the folder that the first of several is in. These two are replaced without a question.",
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXPERIMENT",
        help="folder of an experiment, or a folder of experiments; of several, what is not an experiment is left "
        "out with a warning",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="save the figure here (.png, .pdf, .svg, ...); no window; in an experiment's folder, only as curves.EXT",
    )
    parser.add_argument("--save", action="store_true", help="save the figure even where there is a display")
    parser.add_argument(
        "--log_scale",
        nargs="+",
        default=[],
        metavar="PANEL",
        help="panels with a logarithmic y axis: loss, grad_norm, learning_rate, epoch_time, points_per_s, or the name "
        "of another metric; the loss has one anyway when its largest value is more than 30 times its smallest",
    )
    parser.add_argument(
        "--linear_scale", nargs="+", default=[], metavar="PANEL", help="panels with a linear y axis in any case: loss"
    )
    parser.add_argument("-f", dest="overwrite", action="store_true", help="overwrite the FILE of --out")
    parser.add_argument("-v", dest="verbose", action="store_true", help="say more")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)

    def draw() -> None:
        from dwiml.viz.logs import visualize_logs

        for path in visualize_logs(
            arguments.experiments,
            out=arguments.out,
            show=False if arguments.save else None,
            log_scale=arguments.log_scale,
            linear_scale=arguments.linear_scale,
            overwrite=arguments.overwrite,
        ):
            print(f"The curves are in {path}")

    return run_command(draw, verbose=arguments.verbose)


if __name__ == "__main__":
    sys.exit(main())
