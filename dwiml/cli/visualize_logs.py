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
        description="Draw the losses, gradient norms, learning rate, epoch times and all other metrics of one or more "
        "experiments in a window. Without a display, they are saved as curves.png in the experiment folder or, for "
        "several experiments, as curves_compared.png in the parent folder of the first one; existing figures of these "
        "names are replaced.",
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXPERIMENT",
        help="experiment folder, of dwi_ml too, or folder of experiments; with several, folders that are not "
        "experiments are skipped with a warning",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="figure to save (.png, .pdf, .svg, ...), without a window; in an experiment folder, it must be "
        "curves.EXT (weights.EXT with --weights, correlation.EXT with --correlation)",
    )
    parser.add_argument("--save", action="store_true", help="save the figure instead of showing it in a window")
    _add_content(parser)
    _add_look(parser)
    parser.add_argument(
        "--csv", metavar="FILE", help="also write the values of the curves to FILE, one in each row, without smoothing"
    )
    parser.add_argument(
        "--watch",
        type=float,
        metavar="SECONDS",
        help="save the figure again every SECONDS seconds, until all trainings have ended or Ctrl-C is pressed",
    )
    add_overwrite(parser, "replace existing files of --out and --csv")
    add_verbose(parser)
    return parser


def _add_content(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to draw")
    group.add_argument(
        "--panels",
        nargs="+",
        default=[],
        metavar="PANEL",
        help="only these, in this order: loss, grad_norm, learning_rate, epoch_time, points_per_s, memory, or the name "
        "of another metric",
    )
    group.add_argument(
        "--graph",
        nargs="+",
        action="append",
        default=[],
        metavar=("TITLE", "NAME"),
        dest="graphs",
        help="a panel of your own with up to four metrics, such as valid_loss, or diff(A,B), ratio(A,B) or sum(A,B) of "
        "two metrics; may be repeated. Other panels are then drawn only if --panels lists them",
    )
    group.add_argument("--epochs", default=":", metavar="FIRST:END", help="these epochs only: '2:', '0:10' [all]")
    group.add_argument(
        "--per_batch", action="store_true", help="the values of the log of batches, instead of those of epochs"
    )
    group.add_argument(
        "--x", choices=("epoch", "time", "points"), default="epoch", help="the horizontal axis [%(default)s]"
    )
    group.add_argument(
        "--rename",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "NEW"),
        help="show an experiment under another name; may be repeated",
    )
    group.add_argument(
        "--correlation",
        nargs=2,
        default=[],
        metavar=("A", "B"),
        help="draw metric B over metric A instead, a point for each epoch (correlation.png)",
    )
    group.add_argument(
        "--weights",
        action="store_true",
        help="draw instead how much the weights of each layer changed in each epoch, for experiments trained with "
        "--log_weights (weights.png)",
    )


def _add_look(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to draw it")
    group.add_argument(
        "--smooth", type=int, default=1, metavar="N", help="means of N neighboring values, over the values themselves"
    )
    group.add_argument(
        "--ylim",
        nargs=3,
        action="append",
        default=[],
        metavar=("PANEL", "LOW", "HIGH"),
        help="limits of a vertical axis; may be repeated",
    )
    group.add_argument(
        "--log_scale",
        nargs="+",
        default=[],
        metavar="PANEL",
        help="panels with a logarithmic vertical axis; the loss has one by default if its largest value is more than "
        "10 times its smallest, unless --ylim starts at 0 or below",
    )
    group.add_argument(
        "--linear_scale",
        nargs="+",
        default=[],
        metavar="PANEL",
        help="panels that always have a linear vertical axis, for instance loss",
    )
    group.add_argument(
        "--remove_outliers", action="store_true", help="choose the limits of the vertical axes without far outliers"
    )
    group.add_argument(
        "--figsize", nargs=2, type=float, metavar=("WIDTH", "HEIGHT"), help="size of the figure, in inches"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from dwiml.viz.logs import visualize_logs

    names = ("panels", "graphs", "epochs", "per_batch", "smooth", "x", "log_scale", "linear_scale", "remove_outliers")
    options = {name: getattr(arguments, name) for name in names}
    written = visualize_logs(
        arguments.experiments,
        out=arguments.out,
        show=False if arguments.save or arguments.watch is not None else None,
        ylim=_limits(arguments.ylim),
        rename=dict(arguments.rename),
        figsize=None if arguments.figsize is None else tuple(arguments.figsize),
        csv=arguments.csv,
        watch=arguments.watch,
        correlation=arguments.correlation,
        weights=arguments.weights,
        overwrite=arguments.overwrite,
        **options,
    )
    kind = "Weights" if arguments.weights else "Correlation" if arguments.correlation else "Curves"
    for path in written:
        print(f"{'Values' if arguments.csv and path == Path(arguments.csv) else kind} saved in {path}")


def _limits(given: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    limits = {}
    for panel, low, high in given:
        try:
            limits[panel] = float(low), float(high)
        except ValueError:
            raise ValueError(f"--ylim {panel}: LOW and HIGH must be numbers, got {low} and {high}.") from None
    return limits


if __name__ == "__main__":
    sys.exit(main())
