"""Draw streamlines over slices of an image, in rasmm space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from dwiml.arguments import counted, grouped
from dwiml.matplotlib_backend import value_colormap
from dwiml.params import checks_arguments
from dwiml.viz.pieces import DIRECTION, UNIFORM, Coloring, DrawnTractogram, Pieces, cut, uniform_color
from dwiml.viz.slices import AXES, ENDS, VIEWS, Background, View, resample_slice

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from dwiml.viz.slices import Doubles

    Box = tuple[Doubles, Doubles]

DPI = 150
# Maximal number of points in a panel; if there are more, only every n-th point of each streamline is kept.
MAX_POINTS = 120_000
# Minimal range of an axis, as a fraction of the longest one, and in mm.
_MIN_FRACTION, _MIN_MM = 0.6, 10.0
_MARGIN = 0.06
_MAX_WIDTH_IN, _MAX_HEIGHT_IN = 12.0, 4.5
_DIRECTIONS = (("left - right", "red"), ("back - front", "lime"), ("down - up", "blue"))


@checks_arguments
def plot_tractograms(
    tractograms: Sequence[DrawnTractogram],
    *,
    background: Background | Sequence[Background] | None = None,
    views: Sequence[str] = tuple(VIEWS),
    slices_mm: Sequence[float] | None = None,
    thickness: float | None = None,
    color: str = DIRECTION,
    color_range: Sequence[float] | None = None,
    separate: bool = False,
    title: str | None = None,
) -> Figure:
    """Draw streamlines over slices of an image, in rasmm space.

    The axes are those of rasmm space, and left is left (neurological convention). Streamlines are projected on the
    slice from both of its sides; those nearer to the viewer hide those farther away.

    Parameters
    ----------
    tractograms
        One or more tractograms.
    background
        The image, which is resampled along the rasmm axes. None: black. With ``separate``, it may be a sequence with
        one image for each row.
    views
        One or more of ``"axial"``, ``"coronal"`` and ``"sagittal"``, one panel each.
    slices_mm
        Coordinate of the slice of each view on the axis perpendicular to it, rasmm. None: the median of all points.
    thickness
        Draw only the points within this distance of the slice, on both sides, mm. None: all points.
    color
        ``"direction"``, ``"uniform"`` (tractograms have different colors), or the name of the ``values`` of the
        tractograms.
    color_range
        Values at the ends of the color map. None: the 5th and 95th percentiles of all values.
    separate
        Draw each tractogram in a separate row, with the same slices and colors.
    title
        Title of the figure. None: the names of the tractograms.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no point to draw or an option is invalid.
    """
    check_drawing_options(views, slices_mm=slices_mm, thickness=thickness, color=color, color_range=color_range)
    if not any(len(tractogram.points) for tractogram in tractograms):
        raise ValueError(f"There are no streamlines to draw in: {_names(tractograms) or 'no tractogram'}.")
    backgrounds = _backgrounds(background, len(tractograms), separate=separate)
    box = _box(tractograms, backgrounds)
    planes = _planes(views, slices_mm, thickness, tractograms, box)
    coloring = Coloring.choose(color, tractograms, color_range)
    # The indices of the tractograms in each row of panels.
    rows = [[number] for number in range(len(tractograms))] if separate else [list(range(len(tractograms)))]
    figure, panels = _panels(planes, len(rows), box)
    for numbers, row, image in zip(rows, panels, backgrounds, strict=True):
        pieces = _pieces(tractograms, numbers, coloring, planes)
        for plane, ax in zip(planes, row, strict=True):
            _draw_slice(ax, plane, image)
            _draw_lines(ax, pieces, plane, sum(len(tractograms[number].lengths) for number in numbers))
            _label_panel(ax, plane, box)
        if separate:
            shown = tractograms[numbers[0]]
            count = f"{_count([shown])}\n" if shown.is_counted else ""
            row[0].set_ylabel(f"{shown.name}\n{count}\n{row[0].get_ylabel()}", parse_math=False)
    _add_legend(figure, panels, tractograms, coloring, separate=separate)
    # A `$` in a name does not start a formula.
    figure.suptitle(_names(tractograms) if title is None else title, parse_math=False)
    return figure


def check_drawing_options(
    views: Sequence[str],
    *,
    slices_mm: Sequence[float] | None = None,
    thickness: float | None = None,
    color: str = DIRECTION,
    color_range: Sequence[float] | None = None,
) -> None:
    """Check the options of :func:`plot_tractograms`, without streamlines.

    Raises
    ------
    ValueError
        If an option is invalid.
    """
    if not views or len(set(views)) < len(views) or not set(views) <= set(VIEWS):
        raise ValueError(f"views must be distinct names among {', '.join(VIEWS)}, got {', '.join(views) or 'none'}.")
    if slices_mm is not None and len(slices_mm) != len(views):
        raise ValueError(
            f"slices_mm must have one value for each view ({', '.join(views)}), in this order, got {len(slices_mm)} "
            f"for {len(views)}."
        )
    if thickness is not None and not (np.isfinite(thickness) and thickness > 0):
        raise ValueError(f"thickness must be positive, in mm, got {thickness:g}.")
    if color_range is not None:
        low, high = color_range
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"color_range must be two finite numbers in increasing order, got {low:g} and {high:g}.")
        if color in (DIRECTION, UNIFORM):
            raise ValueError(f"color_range requires a color given by the name of values, got the color '{color}'.")


@dataclass(frozen=True)
class _Plane:
    """The slice of a panel: its orientation, its position, and the maximal distance of streamlines from it (mm)."""

    view: View
    position: float
    thickness: float | None

    def near(self, points: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return whether points (N, 3), rasmm, are near enough to be drawn: (N,), bool."""
        if self.thickness is None:
            return np.ones(len(points), dtype=bool)
        flags: npt.NDArray[np.bool_] = np.abs(points[:, self.view.across] - np.float64(self.position)) <= self.thickness
        return flags

    @property
    def title(self) -> str:
        around = "" if self.thickness is None else f" ± {self.thickness:g}"
        name, axis = self.view.name.capitalize(), AXES[self.view.across]
        # Adding 0 turns -0 into 0.
        position = round(self.position, 1) + 0.0
        return f"{name}, {self.view.seen}\n{axis} = {position:.1f}{around} mm"


def _planes(
    views: Sequence[str],
    slices_mm: Sequence[float] | None,
    thickness: float | None,
    tractograms: Sequence[DrawnTractogram],
    box: Box,
) -> list[_Plane]:
    shown = [VIEWS[name] for name in views]
    if slices_mm is None:
        middle = np.median(np.concatenate([tractogram.points for tractogram in tractograms]), axis=0)
        slices_mm = [float(middle[view.across]) for view in shown]
    for view, position in zip(shown, slices_mm, strict=True):
        low, high = box[0][view.across], box[1][view.across]
        if not low <= position <= high:
            raise ValueError(
                f"The {view.name} slice must be at {AXES[view.across]} from {low:.4g} to {high:.4g} mm, the range of "
                f"the figure, got {position:g}."
            )
    return [_Plane(view, float(position), thickness) for view, position in zip(shown, slices_mm, strict=True)]


def _backgrounds(
    given: Background | Sequence[Background] | None, nb_tractograms: int, *, separate: bool
) -> list[Background | None]:
    """Return the image of each row of panels."""
    nb_rows = nb_tractograms if separate else 1
    if not isinstance(given, Sequence):
        return [given] * nb_rows
    if len(given) == 1:
        return [given[0]] * nb_rows
    if len(given) != nb_rows:
        rows = f"{nb_rows} rows" if separate else "one row, as the tractograms are drawn together"
        raise ValueError(f"Give one background, or one for each row, got {len(given)} for {rows}.")
    return list(given)


def _box(tractograms: Sequence[DrawnTractogram], backgrounds: Sequence[Background | None]) -> Box:
    """Return two opposite corners, (3,) each, rasmm, of a box that contains all streamlines and images."""
    corners = [
        end
        for tractogram in tractograms
        if len(tractogram.points)
        for end in (tractogram.points.min(0), tractogram.points.max(0))
    ]
    for image in {id(image): image for image in backgrounds if image is not None}.values():
        corners += image.box()
    low, high = np.min(corners, axis=0).astype(float), np.max(corners, axis=0).astype(float)
    sides = np.maximum((high - low) * (1 + 2 * _MARGIN), max(_MIN_FRACTION * (high - low).max(), _MIN_MM))
    return (low + high - sides) / 2, (low + high + sides) / 2


def _panels(planes: Sequence[_Plane], nb_rows: int, box: Box) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its rows of panels, all with the same scale."""
    sides = box[1] - box[0]
    widths = [sides[plane.view.axes[0]] for plane in planes]
    height = max(sides[plane.view.axes[1]] for plane in planes)
    inches = min(_MAX_WIDTH_IN / sum(widths), _MAX_HEIGHT_IN / height)
    size = (max(inches * sum(widths) + 0.9 * len(planes) + 1.4, 5.0), (inches * height + 1.1) * nb_rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(nb_rows, len(planes), squeeze=False, gridspec_kw={"width_ratios": widths})
    return figure, [list(row) for row in axes]


def _pieces(
    tractograms: Sequence[DrawnTractogram], numbers: Sequence[int], coloring: Coloring, planes: Sequence[_Plane]
) -> Pieces:
    """Cut the tractograms of a row of panels into pieces, not more than can be drawn."""
    nb_near = max(sum(int(plane.near(tractograms[number].points).sum()) for number in numbers) for plane in planes)
    stride = max(-(-nb_near // MAX_POINTS), 1)
    parts = []
    for number in numbers:
        drawn = tractograms[number]
        rows, vertices = cut(drawn.points, drawn.lengths, stride=stride)
        parts.append(Pieces(vertices, coloring.colors_of(drawn, number, rows, vertices)))
    return Pieces.concatenate(parts)


def _draw_slice(ax: Axes, plane: _Plane, background: Background | None) -> None:
    ax.set_facecolor("black")
    if background is not None:
        pixels, extent = resample_slice(background, plane.view, plane.position)
        low, high = background.window()
        ax.imshow(pixels, extent=extent, origin="lower", cmap="gray", vmin=low, vmax=high, zorder=0)


def _draw_lines(ax: Axes, pieces: Pieces, plane: _Plane, nb_streamlines: int) -> None:
    centers = pieces.vertices[:, 1]
    near = np.flatnonzero(plane.near(centers))
    # From the farthest to the nearest.
    order = np.argsort(plane.view.nearest * centers[near, plane.view.across], kind="stable")
    drawn = pieces.select(near[order])
    width = float(np.clip(4.0 / max(nb_streamlines, 1) ** 0.25, 0.5, 2.0))
    segments = drawn.vertices[:, :, list(plane.view.axes)]
    ax.add_collection(LineCollection(list(segments), colors=drawn.colors, linewidths=width, zorder=1), autolim=False)


def _label_panel(ax: Axes, plane: _Plane, box: Box) -> None:
    first, second = plane.view.axes
    ax.set_aspect("equal")
    ax.set_xlim(box[0][first], box[1][first])
    ax.set_ylim(box[0][second], box[1][second])
    ax.set_xlabel(f"{AXES[first]} (mm)")
    ax.set_ylabel(f"{AXES[second]} (mm)")
    ax.set_title(plane.title, fontsize="medium")
    (left, right), (bottom, top) = ENDS[first], ENDS[second]
    for letter, x, y in ((left, 0.02, 0.5), (right, 0.98, 0.5), (bottom, 0.5, 0.02), (top, 0.5, 0.98)):
        ax.text(
            *(x, y, letter),
            transform=ax.transAxes,
            color="white",
            weight="bold",
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.02: "bottom", 0.98: "top"}.get(y, "center"),
            path_effects=[withStroke(linewidth=2, foreground="black")],
            zorder=3,
        )


def _add_legend(
    figure: Figure,
    panels: Sequence[Sequence[Axes]],
    tractograms: Sequence[DrawnTractogram],
    coloring: Coloring,
    *,
    separate: bool,
) -> None:
    """Add the legend of the colors, the number of streamlines and the orientation convention."""
    if coloring.color == DIRECTION:
        handles = [Line2D([], [], color=color, label=name, linewidth=2) for name, color in _DIRECTIONS]
        figure.legend(handles=handles, loc="outside right upper", fontsize="small", title="Direction")
    elif coloring.color == UNIFORM and len(tractograms) > 1 and not separate:
        handles = [
            Line2D([], [], color=uniform_color(number, len(tractograms)), label=tractogram.name, linewidth=2)
            for number, tractogram in enumerate(tractograms)
        ]
        legend = figure.legend(
            handles=handles, loc="outside right upper", fontsize="small", ncols=-(-len(handles) // 20)
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    elif any(tractogram.has_values for tractogram in tractograms):
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        bar = figure.colorbar(
            ScalarMappable(Normalize(coloring.low, coloring.high), value_colormap()),
            ax=[ax for row in panels for ax in row],
            label=coloring.color,
            extend=extend[coloring.is_cut],
            aspect=30,
        )
        bar.ax.yaxis.label.set_parse_math(False)
    # Rows have their own counts.
    count = "" if separate else f"{_count(tractograms)}. "
    figure.supxlabel(f"{count}Left is left (neurological convention).", fontsize="small")


def _count(tractograms: Sequence[DrawnTractogram]) -> str:
    """Return the number of streamlines: ``3 of 12 345 streamlines``."""
    nb_drawn = sum(len(tractogram.lengths) for tractogram in tractograms)
    nb_in_all = sum(
        len(tractogram.lengths) if tractogram.nb_in_file is None else tractogram.nb_in_file
        for tractogram in tractograms
    )
    sample = f"{grouped(nb_drawn)} of {grouped(nb_in_all)} streamlines"
    return sample if nb_drawn < nb_in_all else counted(nb_drawn, "streamline")


def _names(tractograms: Sequence[DrawnTractogram]) -> str:
    names = [tractogram.name for tractogram in tractograms]
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
