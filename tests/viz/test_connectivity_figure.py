"""The figure of a connectivity matrix, read back from the matplotlib objects."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dwiml.viz.connectivity_figure import max_by_cell, plot_connectivity


def drawn(pairs: Any, values: Any, nb_regions: int, **options: Any) -> Figure:
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    options = {"axis": "Label", "title": "t", **options}
    figure = plot_connectivity(pairs, np.asarray(values, dtype=np.int64), nb_regions, **options)
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize(("nb_regions", "nb_cells"), [(5, 8), (8, 8), (9, 8), (20, 8), (24, 8), (31, 7)])
def test_cells_hold_the_largest_value(nb_regions: int, nb_cells: int) -> None:
    rng = np.random.default_rng(nb_regions)
    matrix = np.triu(rng.integers(1, 99, (nb_regions,) * 2) * (rng.uniform(size=(nb_regions,) * 2) < 0.1))
    first, last = np.nonzero(matrix)
    cells = max_by_cell(np.stack([first, last], axis=1), matrix[first, last], nb_regions, nb_cells)
    whole = np.maximum(matrix, matrix.T)
    side = min(nb_regions, nb_cells)
    of_region = np.arange(nb_regions) * side // nb_regions
    expected = [[whole[np.ix_(of_region == i, of_region == j)].max() for j in range(side)] for i in range(side)]
    np.testing.assert_array_equal(cells, expected)


def test_eight_thousand_blocs_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 8000, (1000, 2))
    tracemalloc.start()
    figure = drawn(pairs, np.full(1000, 7), 8000, axis="Bloc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8000**2 / 2
    ax, bar = figure.axes
    assert bar.get_ylabel() == "Largest number of streamlines in 40 x 40 pairs (log scale)"
    left, right, bottom, top = ax.images[0].get_extent()
    assert (left, right, bottom, top) == (-0.5, 7999.5, 7999.5, -0.5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Bloc", "Bloc")


def test_each_of_twenty_labels_has_its_name_at_its_row() -> None:
    names = [str(1000 + i) for i in range(20)]
    figure = drawn([[0, 3], [2, 2]], [12, 1], 20, names=names, title="Streamlines of x.trk")
    ax, bar = figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == names
    assert [text.get_text() for text in ax.get_yticklabels()] == names
    assert ax.get_yticks().tolist() == list(range(20))
    shown = ax.images[0].get_array()
    assert shown[0, 3] == shown[3, 0] == 12
    assert shown[2, 2] == 1
    # All other cells are white.
    assert shown.count() == 3
    assert ax.images[0].norm(12) == 1
    assert ax.get_title() == "Streamlines of x.trk"
    assert bar.get_ylabel() == "Number of streamlines (log scale)"
    assert "10" in [text.get_text() for text in bar.get_yticklabels()]


def test_only_some_of_many_labels_are_named() -> None:
    names = [str(i) for i in range(150)]
    figure = drawn([[0, 149]], [1], 150, names=names)
    ticks = figure.axes[0].get_xticklabels()
    assert 30 < len(ticks) <= 40
    assert [text.get_text() for text in ticks] == names[::4]


def test_figure_reports_that_no_streamline_connects_regions() -> None:
    figure = drawn([], [], 24)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no streamline connects two regions"]
