"""``dwiml visualize_logs``: plot the curves of one or more experiments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="visualize_logs",
        allow_abbrev=False,
        description="Plot the losses, gradient norms, learning rate and epoch times of one or more experiments in a "
        "window. Without a display, they are saved as curves.png in the experiment folder or, for several experiments, "
        "as curves_compared.png in the parent folder of the first one; existing figures of these names are replaced.",
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXPERIMENT",
        help="experiment folder, or folder of experiments; with several, folders that are not experiments are skipped "
        "with a warning",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="figure to save (.png, .pdf, .svg, ...), without a window; in an experiment folder, it must be "
        "curves.EXT (weights.EXT with --weights)",
    )
    parser.add_argument("--save", action="store_true", help="save the figure instead of showing it in a window")
    parser.add_argument(
        "--log_scale",
        nargs="+",
        default=[],
        metavar="PANEL",
        help="panels with a logarithmic y axis: loss, grad_norm, learning_rate, epoch_time, points_per_s, or the name "
        "of another metric; the loss has one by default if its largest value is more than 30 times its smallest",
    )
    parser.add_argument(
        "--linear_scale",
        nargs="+",
        default=[],
        metavar="PANEL",
        help="panels that always have a linear y axis, for instance loss",
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="plot instead how much the weights of each layer changed in each epoch, for experiments trained with "
        "--log_weights; the figure is saved as weights.png or weights_compared.png",
    )
    add_overwrite(parser, "replace FILE if it exists")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.viz.logs import visualize_logs

    for path in visualize_logs(
        arguments.experiments,
        out=arguments.out,
        show=False if arguments.save else None,
        log_scale=arguments.log_scale,
        linear_scale=arguments.linear_scale,
        weights=arguments.weights,
        overwrite=arguments.overwrite,
    ):
        print(f"{'Weights' if arguments.weights else 'Curves'} saved in {path}")


if __name__ == "__main__":
    sys.exit(main())
