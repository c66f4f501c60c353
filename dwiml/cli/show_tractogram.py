"""``dwiml show_tractogram``: draw streamlines over slices of an image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose

if TYPE_CHECKING:
    from dwiml.viz.pieces import DrawnTractogram
    from dwiml.viz.slices import Background

_MAX_STREAMLINES = 3000
_DPI = 150
_VIEWS = ("axial", "coronal", "sagittal")
# With a larger fraction of points outside the background, it is probably of another subject.
_MAX_OUTSIDE = 0.1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml show_tractogram",
        allow_abbrev=False,
        usage="dwiml show_tractogram TRACTOGRAM [TRACTOGRAM ...] OUT [--background IMAGE] [options]",
        description="Draw streamlines over slices of an image, in scanner coordinates (RAS+, mm). "
        "Left is on the left (neurological convention). Several tractograms are drawn together or in separate rows.",
    )
    parser.add_argument("tractograms", nargs="+", metavar="TRACTOGRAM", help="tractogram to draw")
    parser.add_argument("out", metavar="OUT", help="figure to write: .png, .pdf, .svg, ...")
    _add_space_options(parser)
    _add_style_options(parser)
    add_overwrite(parser, "replace OUT if it exists")
    add_verbose(parser)
    return parser


def _add_space_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("space")
    group.add_argument(
        "--background",
        action="append",
        metavar="IMAGE",
        help="image behind the streamlines, on any grid, or a volume group of an HDF5 file, as "
        "FILE.hdf5:SUBJECT/GROUP; with --separate, the option may be repeated for each tractogram, in the same order "
        "[black]",
    )
    group.add_argument(
        "--background_volume",
        type=int,
        metavar="N",
        help="index of the volume to show, if the image has several [0, the first]",
    )
    group.add_argument(
        "--views",
        nargs="+",
        choices=_VIEWS,
        default=_VIEWS,
        metavar="VIEW",
        help="axial, coronal, sagittal: one panel for each [all three]",
    )
    group.add_argument(
        "--slice_mm",
        type=float,
        nargs="+",
        metavar="MM",
        help="position of the slice of each view, in the same order: z for axial, y for coronal, x for sagittal "
        "[median of the points of the streamlines]",
    )
    group.add_argument(
        "--thickness",
        type=float,
        metavar="MM",
        help="draw only the points within MM of the slice, on both sides [all points]",
    )
    group.add_argument(
        "--separate", action="store_true", help="draw each tractogram in its own row, with the same slices and colors"
    )


def _add_style_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("style")
    group.add_argument(
        "--color",
        default="direction",
        metavar="NAME",
        help="direction (red: left-right, green: front-back, blue: up-down), uniform (one color per tractogram), or "
        "the name of data per point or per streamline, such as 'loss' [%(default)s]",
    )
    group.add_argument(
        "--color_range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values at the two ends of the color scale [5th and 95th percentiles]",
    )
    group.add_argument(
        "--max_streamlines",
        type=int,
        default=_MAX_STREAMLINES,
        metavar="N",
        help="maximum number of streamlines per tractogram; from larger ones, N evenly spaced streamlines are drawn "
        "[%(default)s]",
    )
    group.add_argument("--title", metavar="TEXT", help="title of the figure [names of the tractograms]")
    group.add_argument("--dpi", type=float, default=_DPI, metavar="N", help="pixels per inch [%(default)s]")


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from dwiml.arguments import check_number, check_whole
    from dwiml.cli.running.input_files import short_names
    from dwiml.files import check_outputs
    from dwiml.inspection.backgrounds import background_from, image_file
    from dwiml.viz.figure_file import check_figure_format, save_figure
    from dwiml.viz.pieces import DrawnTractogram
    from dwiml.viz.tractograms import check_drawing_options, plot_tractograms

    check_whole("--max_streamlines", arguments.max_streamlines, low=1)
    check_number("--dpi", arguments.dpi, low=10, high=1200)
    looks = {
        "slices_mm": arguments.slice_mm,
        "thickness": arguments.thickness,
        "color": arguments.color,
        "color_range": arguments.color_range,
    }
    check_drawing_options(arguments.views, **looks)
    out = check_figure_format(arguments.out)
    inputs = [*arguments.tractograms, *map(image_file, arguments.background or ())]
    check_outputs({"OUT": out}, inputs=inputs, overwrite=arguments.overwrite)
    if arguments.background_volume is not None and arguments.background is None:
        raise ValueError("--background_volume selects a volume of --background, which was not given.")
    names = arguments.background or []
    nb_rows = len(arguments.tractograms) if arguments.separate else 1
    if len(names) not in (0, 1, nb_rows):
        raise ValueError(
            f"--background was given {len(names)} times; give it once or, with --separate, once for each of the "
            f"{len(arguments.tractograms)} tractograms."
        )
    backgrounds = [background_from(name, arguments.background_volume) for name in names]
    drawn = [
        replace(
            DrawnTractogram.from_file(path, color=arguments.color, max_streamlines=arguments.max_streamlines), name=name
        )
        for name, path in short_names(arguments.tractograms).items()
    ]
    for number, tractogram in enumerate(drawn):
        if backgrounds:
            row = number if len(backgrounds) == len(drawn) else 0
            _warn_if_outside(tractogram, backgrounds[row], names[row])
    figure = plot_tractograms(
        drawn,
        background=backgrounds or None,
        views=arguments.views,
        separate=arguments.separate,
        title=arguments.title,
        **looks,
    )
    save_figure(figure, out, dpi=arguments.dpi)
    nb, total = sum(len(item.lengths) for item in drawn), sum(item.nb_in_file or 0 for item in drawn)
    print(f"{nb} of {total} streamlines drawn in {out}")


def _warn_if_outside(drawn: DrawnTractogram, background: Background, name: str) -> None:
    import logging

    outside = 1 - float(background.contains(drawn.points).mean()) if len(drawn.points) else 0.0
    if outside > _MAX_OUTSIDE:
        logging.getLogger(__name__).warning(
            "%.0f %% of the points of '%s' are outside '%s': check that both are of the same subject and space.",
            *(100 * outside, drawn.name, name),
        )
