"""Figures of tractograms, read back from the matplotlib objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from dwiml.viz import tractograms as module
from dwiml.viz.pieces import DrawnTractogram, cut
from dwiml.viz.slices import VIEWS, Background
from dwiml.viz.tractograms import plot_tractograms


def tractogram(*lines: Any, name: str = "lines", values: Any = None, nb_in_file: int | None = None) -> DrawnTractogram:
    points = np.concatenate([np.zeros((0, 3)), *map(np.asarray, lines)]).astype(np.float32)
    lengths = np.array([len(line) for line in lines], dtype=np.int64)
    values = None if values is None else np.asarray(values, dtype=np.float32)
    return DrawnTractogram(name, points, lengths, values, nb_in_file)


def random_lines(nb: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.cumsum(rng.normal(size=(rng.integers(2, 30), 3)), axis=0) for _ in range(nb)]


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_title()]


def lines_of(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices (M, 3, 2) and the colors (M, 3) of the pieces in a panel."""
    (collection,) = [each for each in ax.collections if isinstance(each, LineCollection)]
    return np.array(collection.get_segments()).reshape(-1, 3, 2), np.array(collection.get_colors())[:, :3]


def texts_of(figure: Figure) -> str:
    found = [figure.get_supxlabel(), figure.get_suptitle()]
    for each in [*figure.axes, figure]:
        found += [text.get_text() for text in each.texts]
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return "\n".join(found)


def test_points_are_drawn_at_their_rasmm_coordinates() -> None:
    lines = random_lines(20)
    figure = drawn(plot_tractograms([tractogram(*lines)]))
    assert [ax.get_title().split(",")[0] for ax in panels(figure)] == ["Axial", "Coronal", "Sagittal"]
    expected = np.concatenate(lines).astype(np.float32)
    for ax, (first, second) in zip(panels(figure), ((0, 1), (0, 2), (1, 2)), strict=True):
        vertices, _ = lines_of(ax)
        assert (ax.get_xlabel(), ax.get_ylabel()) == (f"{'xyz'[first]} (mm)", f"{'xyz'[second]} (mm)")
        at = np.lexsort(vertices[:, 1].T), np.lexsort(expected[:, [first, second]].T)
        np.testing.assert_array_equal(vertices[at[0], 1], expected[at[1]][:, [first, second]])
        assert ax.get_aspect() == 1
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        assert left < right
        assert bottom < top
        assert ((vertices > [left, bottom]) & (vertices < [right, top])).all()


def test_pieces_make_up_the_streamline() -> None:
    """Compare with a loop over the points of each streamline."""
    lines = [*random_lines(5), np.ones((1, 3)), np.zeros((2, 3))]
    rows, vertices = cut(tractogram(*lines).points, np.array([len(line) for line in lines]))
    expected, numbers, first = [], [], 0
    for line in lines:
        for place in range(len(line) if len(line) > 1 else 0):
            before, after = line[max(place - 1, 0)], line[min(place + 1, len(line) - 1)]
            expected.append([(before + line[place]) / 2, line[place], (after + line[place]) / 2])
            numbers.append(first + place)
        first += len(line)
    np.testing.assert_array_equal(rows, numbers)
    np.testing.assert_allclose(vertices, np.array(expected), atol=1e-6)


@pytest.mark.parametrize("stride", [2, 3, 100])
def test_thinned_streamlines_keep_their_ends(stride: int) -> None:
    lines = random_lines(8)
    points, lengths = tractogram(*lines).points, np.array([len(line) for line in lines])
    rows, vertices = cut(points, lengths, stride=stride)
    first, expected = 0, []
    for line in lines:
        expected += [first + place for place in range(len(line)) if place % stride == 0 or place == len(line) - 1]
        first += len(line)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(vertices[:, 1], points[rows])


def test_a_panel_has_a_bounded_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 1000)
    lines = [np.linspace([0, 0, 0], [50, 30, 40], 400) for _ in range(10)]
    figure = plot_tractograms([tractogram(*lines, name="a"), tractogram(*lines, name="b")], views=["axial"])
    # 8000 points: every eighth point, and the last one of each streamline.
    assert len(lines_of(panels(figure)[0])[0]) == 2 * 10 * (50 + 1)
    # Points far from the slice do not count.
    figure = plot_tractograms([tractogram(*lines)], views=["axial"], slices_mm=[20], thickness=4)
    assert len(lines_of(panels(figure)[0])[0]) == 10 * sum(abs(40 * place / 399 - 20) <= 4 for place in range(400))


def test_directions_are_red_green_and_blue() -> None:
    ways = {(1, 0, 0): (1, 0, 0), (0, -2, 0): (0, 1, 0), (0, 0, 3): (0, 0, 1), (3, -4, 0): (0.6, 0.8, 0)}
    for way, color in ways.items():
        figure = drawn(plot_tractograms([tractogram(np.arange(5)[:, None] * np.array(way))], views=["coronal"]))
        np.testing.assert_allclose(lines_of(panels(figure)[0])[1], [color] * 5, atol=1e-6)
    assert "left - right\nback - front\ndown - up" in texts_of(figure)
    # Identical points have no direction: gray.
    figure = plot_tractograms([tractogram(np.zeros((3, 3)))], views=["axial"])
    np.testing.assert_allclose(lines_of(panels(figure)[0])[1], 0.5)


def test_values_have_the_color_maps_colors_and_a_bar() -> None:
    line = np.linspace([0, 0, 0], [0, 0, 50], 6)
    values = [0.0, 1.0, 2.0, 3.0, 9.0, np.nan]
    figure = drawn(
        plot_tractograms([tractogram(line, values=values)], color="loss", color_range=(1, 3), views=["coronal"])
    )
    viridis = colormaps["viridis"]
    # Without the dark end of the color map, which is not visible on black.
    expected = [viridis(share)[:3] for share in (0.25, 0.25, 0.625, 1.0, 1.0)] + [(0.5, 0.5, 0.5)]
    colors = lines_of(panels(figure)[0])[1]
    np.testing.assert_allclose(colors, expected, atol=0.01)
    # Relative luminance against black: WCAG 2.1 requires a contrast of 3:1 for graphics.
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    assert ((linear @ [0.2126, 0.7152, 0.0722] + 0.05) / 0.05).min() > 2.5
    (bar,) = [ax for ax in figure.axes if not ax.get_title()]
    assert bar.get_ylabel() == "loss"
    assert bar.get_ylim() == (1, 3)
    assert bar._colorbar.extend == "both"


def test_each_row_may_have_its_own_background() -> None:
    both = [tractogram(np.eye(3) * 5), tractogram(np.eye(3) * 5 + 1)]
    images = [Background(np.full((9, 9, 9), value, dtype=np.float32), np.eye(4)) for value in (1.0, 2.0)]

    def pixels(backgrounds: Background | list[Background] | None, *, separate: bool = True) -> list[float]:
        figure = drawn(plot_tractograms(both, background=backgrounds, separate=separate, views=["axial"]))
        return [float(np.nanmax(ax.images[0].get_array())) for ax in panels(figure)]

    assert pixels(images) == [1, 2]
    assert pixels(images[:1]) == pixels(images[0]) == [1, 1]
    for wrong, separate in ((images * 2, True), (images, False)):
        with pytest.raises(ValueError, match=f"Give one background, or one for each row, got {len(wrong)} for"):
            pixels(wrong, separate=separate)


def test_a_dollar_does_not_start_a_formula() -> None:
    named = replace(tractogram(np.eye(3), values=[1.0, 2.0, 3.0]), name="$a_{$")
    for color, separate in (("$x", True), ("uniform", False)):
        figure = plot_tractograms([named, named], color=color, title=r"$\nothing$", separate=separate, views=["axial"])
        assert drawn(figure).get_suptitle() == r"$\nothing$"


def test_the_ends_of_the_color_map_are_percentiles_of_all_values() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=300), rng.normal(loc=3, size=200)]
    both = [tractogram(rng.normal(size=(len(part), 3)), values=part) for part in parts]
    figure = drawn(plot_tractograms(both, color="fa", separate=True, views=["axial"]))
    (bar,) = [ax for ax in figure.axes if not ax.get_title()]
    np.testing.assert_allclose(bar.get_ylim(), np.quantile(np.concatenate(parts).astype(np.float32), [0.05, 0.95]))


def test_equal_values_are_drawn() -> None:
    figure = drawn(plot_tractograms([tractogram(np.eye(3), values=[2.0] * 3)], color="fa", views=["axial"]))
    np.testing.assert_allclose(lines_of(panels(figure)[0])[1], [colormaps["viridis"](0.25)[:3]] * 3, atol=0.01)
    nothing = tractogram(np.eye(3), values=[np.nan] * 3)
    figure = drawn(plot_tractograms([nothing], color="fa", views=["axial"]))
    np.testing.assert_allclose(lines_of(panels(figure)[0])[1], 0.5)


def test_colors_stored_in_the_file() -> None:
    values = np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 1]])
    figure = drawn(plot_tractograms([tractogram(np.eye(3), values=values)], color="color", views=["axial"]))
    _, colors = lines_of(panels(figure)[0])
    np.testing.assert_allclose(colors[np.lexsort(colors.T)], values[np.lexsort(values.T)])
    assert len(figure.axes) == 1


@pytest.mark.parametrize("nb", [2, 10, 13])
def test_tractograms_have_different_colors(nb: int) -> None:
    several = [tractogram(np.eye(3) + number, name=f"bundle {number}") for number in range(nb)]
    figure = drawn(plot_tractograms(several, color="uniform", views=["sagittal"]))
    _, colors = lines_of(panels(figure)[0])
    assert len(np.unique(colors, axis=0)) == nb
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [each.name for each in several]


def test_nearer_streamlines_are_drawn_later() -> None:
    lines = [np.array([[0, 0, 0], [1, 0, 0]]) + shift for shift in np.random.default_rng(0).normal(size=(20, 3))]
    depths = {}
    for name in VIEWS:
        # The value of each streamline is its coordinate on the axis perpendicular to the slice.
        across = VIEWS[name].across
        values = np.concatenate(lines)[:, across]
        figure = plot_tractograms([tractogram(*lines, values=values)], color="place", views=[name], color_range=(-9, 9))
        # In viridis, green increases with the value.
        depths[name] = np.diff(lines_of(panels(figure)[0])[1][:, 1])
    assert (depths["axial"] >= 0).all()
    assert (depths["coronal"] <= 0).all()
    assert (depths["sagittal"] >= 0).all()
    assert min(np.abs(each).max() for each in depths.values()) > 0


def test_only_points_near_the_slice_are_drawn() -> None:
    line = np.linspace([-10, -10, -10], [10, 10, 10], 41)
    figure = drawn(plot_tractograms([tractogram(line)], thickness=2, slices_mm=[0, 5, -4.9]))
    near = [line[np.abs(line[:, axis] - at) <= 2] for axis, at in ((2, 0), (1, 5), (0, -4.9))]
    for ax, expected in zip(panels(figure), near, strict=True):
        places = lines_of(ax)[0][:, 1, 0]
        np.testing.assert_allclose(np.sort(places), expected[:, 0], atol=1e-6)
    assert panels(figure)[2].get_title() == "Sagittal, from the right\nx = -4.9 ± 2 mm"


def test_the_slice_goes_through_the_median_of_all_points() -> None:
    lines = random_lines(9)
    figure = plot_tractograms([tractogram(*lines[:4]), tractogram(*lines[4:])])
    middle = np.median(np.concatenate(lines), axis=0)
    for ax, axis in zip(panels(figure), (2, 1, 0), strict=True):
        assert f"{'xyz'[axis]} = {middle[axis]:.1f} mm" in ax.get_title()


def test_the_slice_lies_under_the_streamlines_in_mm() -> None:
    data = np.zeros((8, 8, 8), dtype=np.float32)
    data[2:6, 2:6, 2:6] = 1
    data[3, 4, 4] = 5
    background = Background(data, np.diag([-2.0, 2.0, 2.0, 1.0]))
    line = np.array([[-6.0, 8.0, 8.0], [-6.0, 8.5, 8.0], [-6.0, 9.0, 8.0]])
    figure = drawn(plot_tractograms([tractogram(line)], background=background, slices_mm=[8, 8, -6]))
    for ax in panels(figure):
        (image,) = ax.images
        (vertices, _) = lines_of(ax)
        left, right, bottom, top = image.get_extent()
        pixels = image.get_array()
        x, y = vertices[np.abs(vertices[:, 1] - vertices[:, 1].min(axis=0)).sum(axis=1).argmin(), 1]
        row = int((y - bottom) / (top - bottom) * pixels.shape[0])
        column = int((x - left) / (right - left) * pixels.shape[1])
        # The bright voxel is at (-6, 8, 8) mm, where the streamline starts.
        assert pixels[row, column] == pixels.max() > 3
        assert image.origin == "lower"


def test_orientation_letters_and_convention_are_written() -> None:
    figure = drawn(plot_tractograms([tractogram(*random_lines(3), nb_in_file=12_345)]))
    for ax, letters in zip(panels(figure), ("LRPA", "LRIS", "PAIS"), strict=True):
        assert [text.get_text() for text in ax.texts] == list(letters)
        places = [text.get_position() for text in ax.texts]
        assert places[0][0] < 0.1 < 0.9 < places[1][0]
        assert places[2][1] < 0.1 < 0.9 < places[3][1]
    assert figure.get_supxlabel() == "3 of 12 345 streamlines. Left is left (neurological convention)."
    assert figure.get_suptitle() == "lines"


def test_rows_have_the_same_slices_and_names() -> None:
    both = [tractogram(*random_lines(3, seed), name=f"part {seed}") for seed in (1, 2)]
    figure = drawn(plot_tractograms(both, separate=True, title="My title"))
    shown = panels(figure)
    assert [ax.get_title() for ax in shown[:3]] == [ax.get_title() for ax in shown[3:]]
    assert shown[0].get_ylabel() == "part 1\n3 streamlines\n\ny (mm)"
    assert shown[3].get_ylabel() == "part 2\n3 streamlines\n\ny (mm)"
    assert figure.get_suptitle() == "My title"
    assert len(lines_of(shown[0])[0]) == len(both[0].points)
    assert figure.get_supxlabel() == "Left is left (neurological convention)."


@pytest.mark.parametrize("nb_rows", [1, 3])
@pytest.mark.parametrize("views", [["axial"], ["axial", "coronal", "sagittal"]])
def test_nothing_overlaps(views: list[str], nb_rows: int) -> None:
    """The panels of a straight streamline would be very narrow."""
    line = np.linspace([0, 0, 0], [0, 0, 60], 20)
    several = [tractogram(line, name=f"a_tractogram_{number}") for number in range(nb_rows)]
    figure = drawn(plot_tractograms(several, separate=True, views=views))
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [ax.title.get_window_extent(renderer) for ax in panels(figure)]
    boxes += [figure.legends[0].get_window_extent(renderer)]
    boxes += [text.get_window_extent(renderer) for text in (figure._suptitle, figure._supxlabel)]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"views": []}, "views must be distinct names among axial, coronal, sagittal, got none."),
        (
            {"views": ["axial", "axial"]},
            "views must be distinct names among axial, coronal, sagittal, got axial, axial.",
        ),
        ({"views": ["above"]}, "views must be distinct names among axial, coronal, sagittal, got above."),
        (
            {"slices_mm": [1, 2]},
            "slices_mm must have one value for each view (axial, coronal, sagittal), in this order, got 2",
        ),
        ({"slices_mm": [500, 0, 0]}, "The axial slice must be at z from -"),
        ({"thickness": 0}, "thickness must be positive, in mm, got 0."),
        (
            {"color": "loss", "color_range": (2, 1)},
            "color_range must be two finite numbers in increasing order, got 2 and 1.",
        ),
        (
            {"color_range": (1, 2)},
            "color_range requires a color given by the name of values, got the color 'direction'.",
        ),
    ],
)
def test_invalid_options_are_reported(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="^") as raised:
        plot_tractograms([tractogram(*random_lines(2), values=None)], **options)
    assert sentence in str(raised.value)


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="There are no streamlines to draw in: one, two, three and 2 more"):
        plot_tractograms([tractogram(name=name) for name in ("one", "two", "three", "four", "five")])
    with pytest.raises(ValueError, match="There are no streamlines to draw in: no tractogram"):
        plot_tractograms([])
    # An empty tractogram among others has an empty row.
    figure = drawn(plot_tractograms([tractogram(name="empty"), tractogram(np.eye(3))], separate=True, views=["axial"]))
    assert [len(lines_of(ax)[0]) for ax in panels(figure)] == [0, 3]
