"""``dwiml show_tractogram``: a figure of streamlines over slices of an image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwiml.cli import run_command
from dwiml.cli.unknown_options import parse_known_options

if TYPE_CHECKING:
    from dwiml.viz.pieces import DrawnTractogram
    from dwiml.viz.slices import Background

_MAX_STREAMLINES = 3000
_DPI = 150
_VIEWS = ("axial", "coronal", "sagittal")
# More than this share of the points outside of the background: it is likely another subject's.
_MANY_OUTSIDE = 0.1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml show_tractogram",
        allow_abbrev=False,
        usage="dwiml show_tractogram TRACTOGRAM [TRACTOGRAM ...] OUT [--background IMAGE] [options]",
        description="Draw streamlines (.trk, .tck, .trx) over slices of an image, right in space: the axes are the "
        "scanner's, in mm, and left is left (neurological convention). Several tractograms are drawn together, or "
        "in a row each.",
    )
    parser.add_argument("tractograms", nargs="+", metavar="TRACTOGRAM", help="what to draw")
    parser.add_argument("out", metavar="OUT", help="figure to write: .png, .pdf, .svg, ...")
    _add_place(parser)
    _add_look(parser)
    parser.add_argument("-f", dest="overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("-v", dest="verbose", action="store_true", help="show informative messages")
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("place")
    group.add_argument(
        "--background",
        action="append",
        metavar="IMAGE",
        help="image under the streamlines, on any grid; with --separate, the option may be given once for each "
        "tractogram, in their order [black]",
    )
    group.add_argument(
        "--background_volume", type=int, metavar="N", help="which of its volumes, where it has several [0, the first]"
    )
    group.add_argument(
        "--views",
        nargs="+",
        choices=_VIEWS,
        default=_VIEWS,
        metavar="VIEW",
        help="axial, coronal, sagittal: a panel each [all three]",
    )
    group.add_argument(
        "--slice_mm",
        type=float,
        nargs="+",
        metavar="MM",
        help="where the slice of each view is, in their order: z for axial, y for coronal, x for sagittal [through the "
        "middle of the streamlines: the median of their points]",
    )
    group.add_argument(
        "--thickness",
        type=float,
        metavar="MM",
        help="draw only what is within MM of the slice, on either side [streamlines wherever they are]",
    )
    group.add_argument(
        "--separate", action="store_true", help="a row for each tractogram, with the same slices and colours"
    )


def _add_look(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("look")
    group.add_argument(
        "--color",
        default="direction",
        metavar="NAME",
        help="direction (red: left-right, green: front-back, blue: up-down), uniform (a colour for each tractogram), "
        "or the name of data per point or per streamline, 'loss' for example [%(default)s]",
    )
    group.add_argument(
        "--color_range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values at the two ends of the colours [the 5th and 95th percentile]",
    )
    group.add_argument(
        "--max_streamlines",
        type=int,
        default=_MAX_STREAMLINES,
        metavar="N",
        help="of each tractogram; of more, N are drawn that are evenly spread over the file [%(default)s]",
    )
    group.add_argument("--title", metavar="TEXT", help="[the tractograms' names]")
    group.add_argument("--dpi", type=float, default=_DPI, metavar="N", help="pixels per inch [%(default)s]")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    return run_command(lambda: _run(arguments), verbose=arguments.verbose)


def _run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from dwiml.arguments import check_number, check_whole
    from dwiml.cli.inputs import names_of
    from dwiml.files import check_outputs
    from dwiml.viz.figure_file import check_figure_format, save_figure
    from dwiml.viz.pieces import DrawnTractogram
    from dwiml.viz.slices import Background
    from dwiml.viz.tractograms import check_looks, plot_tractograms

    check_whole("--max_streamlines", arguments.max_streamlines, low=1)
    check_number("--dpi", arguments.dpi, low=10, high=1200)
    looks = {
        "slices_mm": arguments.slice_mm,
        "thickness": arguments.thickness,
        "color": arguments.color,
        "color_range": arguments.color_range,
    }
    check_looks(arguments.views, **looks)
    out = check_figure_format(arguments.out)
    inputs = [*arguments.tractograms, *(arguments.background or ())]
    check_outputs({"OUT": out}, inputs=inputs, overwrite=arguments.overwrite)
    if arguments.background_volume is not None and arguments.background is None:
        raise ValueError("--background_volume chooses a volume of --background, which is not given.")
    names = arguments.background or []
    nb_rows = len(arguments.tractograms) if arguments.separate else 1
    if len(names) not in (0, 1, nb_rows):
        raise ValueError(
            f"--background was given {len(names)} times; give it once, or with --separate once for each of the "
            f"{len(arguments.tractograms)} tractograms."
        )
    backgrounds = [Background.from_file(name, arguments.background_volume) for name in names]
    drawn = [
        replace(DrawnTractogram.from_file(path, color=arguments.color, most=arguments.max_streamlines), name=name)
        for name, path in names_of(arguments.tractograms).items()
    ]
    for number, each in enumerate(drawn):
        if backgrounds:
            own = number if len(backgrounds) == len(drawn) else 0
            _warn_if_elsewhere(each, backgrounds[own], names[own])
    figure = plot_tractograms(
        drawn,
        background=backgrounds or None,
        views=arguments.views,
        separate=arguments.separate,
        title=arguments.title,
        **looks,
    )
    save_figure(figure, out, dpi=arguments.dpi)
    nb, total = sum(len(each.lengths) for each in drawn), sum(each.nb_in_file or 0 for each in drawn)
    print(f"{nb} of {total} streamlines {'is' if nb == 1 else 'are'} drawn in {out}")


def _warn_if_elsewhere(drawn: DrawnTractogram, background: Background, name: str) -> None:
    import logging

    outside = 1 - float(background.contains(drawn.points).mean()) if len(drawn.points) else 0.0
    if outside > _MANY_OUTSIDE:
        logging.getLogger(__name__).warning(
            "%.0f %% of the points of '%s' are outside of '%s': are they of one subject, in one space?",
            *(100 * outside, drawn.name, name),
        )
