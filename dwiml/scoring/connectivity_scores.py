"""How many streamlines join regions that are known to be connected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5.connectivity_group import read_label_regions
from dwiml.ops.connectivity_matrix import (
    JOINS_CONNECTED,
    JOINS_NONE,
    JOINS_UNCONNECTED,
    ConnectivityMatrix,
    connection_status,
    count_connections,
)
from dwiml.ops.ragged import first_rows, last_rows
from dwiml.ops.regions import BlocRegions, Regions
from dwiml.tractograms.grid import Grid, read_image_grid
from dwiml.tractograms.reading import open_tractogram


@dataclass(frozen=True, eq=False)
class ConnectivityScore:
    """What streamlines join, against the pairs of regions that are connected.

    Attributes
    ----------
    status : (S,) int8
        Of each streamline: ``JOINS_CONNECTED``, ``JOINS_UNCONNECTED`` or ``JOINS_NONE``, see
        :mod:`dwiml.ops.connectivity_matrix`.
    joined
        The pairs that streamlines join, and how many do.
    connected
        The pairs that are known to be connected.
    """

    status: NDArray[np.int8]
    joined: ConnectivityMatrix
    connected: ConnectivityMatrix

    @property
    def nb_streamlines(self) -> int:
        """Streamlines scored."""
        return len(self.status)

    def count(self, status: int) -> int:
        """Return how many streamlines are of a status."""
        return int(np.count_nonzero(self.status == status))

    def share(self, status: int) -> float | None:
        """Return the share (0 to 1) of streamlines that are of a status; None without any streamline."""
        return self.count(status) / self.nb_streamlines if self.nb_streamlines else None

    @property
    def nb_pairs_connected(self) -> int:
        """Pairs known to be connected."""
        return len(self.connected.keys)

    @property
    def nb_pairs_found(self) -> int:
        """Those of them that a streamline joins."""
        return int(np.isin(self.joined.keys, self.connected.keys).sum())

    @property
    def unconnected(self) -> list[tuple[int, int, int]]:
        """(region, region, streamlines) of the pairs that are joined but not connected, the most frequent first."""
        wrong = ~np.isin(self.joined.keys, self.connected.keys)
        first, last = self.joined.pairs[wrong].T.tolist()
        counts = self.joined.values[wrong].tolist()
        return sorted(zip(first, last, counts, strict=True), key=lambda pair: -pair[2])

    def summary(self, regions: Regions) -> dict[str, Any]:
        """Return all of it, but for the single streamlines, as JSON holds it; regions by their names."""
        return {
            "nb_streamlines": self.nb_streamlines,
            "nb_joining_connected": self.count(JOINS_CONNECTED),
            "nb_joining_unconnected": self.count(JOINS_UNCONNECTED),
            "nb_ending_in_no_region": self.count(JOINS_NONE),
            "share_joining_connected": self.share(JOINS_CONNECTED),
            "share_joining_unconnected": self.share(JOINS_UNCONNECTED),
            "share_ending_in_no_region": self.share(JOINS_NONE),
            "nb_regions": self.connected.nb_regions,
            "nb_pairs_connected": self.nb_pairs_connected,
            "nb_pairs_found": self.nb_pairs_found,
            "unconnected_pairs": [
                {"regions": [regions.name(a), regions.name(b)], "nb_streamlines": count}
                for a, b, count in self.unconnected
            ],
        }


def score_connectivity(
    points: NDArray[np.floating], lengths: NDArray[np.integer], regions: Regions, connections: ConnectivityMatrix
) -> ConnectivityScore:
    """Hold the ends of streamlines against the pairs of regions that are connected.

    Parameters
    ----------
    points : (N, 3)
        The points of all streamlines, one after the other; voxel space, corner origin, in voxels.
    lengths : (S,)
        Points of each streamline. One without any joins nothing.
    regions
        The regions.
    connections
        The pairs that are connected, of the same number of regions.

    Raises
    ------
    ValueError
        When the regions and the connections are not of one number, or the shapes do not fit.
    """
    first, last = ends_of(points, lengths)
    return ConnectivityScore(
        connection_status(first, last, regions, connections), count_connections(first, last, regions), connections
    )


def ends_of(
    points: NDArray[np.floating], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the first and the last point of each streamline, (S, 3) each; NaN for one without any point.

    Raises
    ------
    ValueError
        When `lengths` announce another number of points.
    """
    nb_points = int(np.sum(lengths, dtype=np.int64))
    if nb_points != len(points):
        raise ValueError(f"lengths announce {nb_points} points, there are {len(points)}.")
    some = np.asarray(lengths) > 0
    ends = np.full((2, len(lengths), 3), np.nan, dtype=np.asarray(points).dtype)
    ends[0, some] = points[first_rows(lengths)]
    ends[1, some] = points[last_rows(lengths)]
    return ends[0], ends[1]


def read_regions(
    tractograms: Sequence[str | Path],
    *,
    labels: str | Path | None = None,
    nb_blocs: tuple[int, int, int] | None = None,
    reference: str | Path | None = None,
) -> tuple[Regions, Grid]:
    """Return the regions that streamlines may join, and the grid of voxels that they are on.

    Parameters
    ----------
    tractograms
        The files of the streamlines, whose headers give the volume to be cut in blocs.
    labels
        A label image: one region for each label, but for 0.
    nb_blocs
        Without labels: the number of equal blocs that the volume is cut into along x, y and z.
    reference
        An image of the volume to be cut, in place of the tractograms' headers; with labels, it must be on their grid.

    Raises
    ------
    FileNotFoundError, ValueError
        When an option or a file is wrong, or files of one volume are on different grids.
    """
    grid = None if reference is None else read_image_grid(reference)
    if labels is not None:
        regions, own = read_label_regions(labels, "The labels")
        if grid is not None:
            grid.check_same(own, "reference, labels")
        return regions, own
    if nb_blocs is None:
        raise ValueError("What are the regions? Give nb_blocs or labels.")
    grid = grid or _grid_of(tractograms)
    return BlocRegions(grid.shape, nb_blocs), grid


def _grid_of(tractograms: Sequence[str | Path]) -> Grid:
    grids = [open_tractogram(tractogram).grid for tractogram in tractograms]
    for tractogram, grid in zip(tractograms, grids, strict=True):
        if grid is None:
            raise ValueError(
                f"'{tractogram}' does not give the volume to be cut in blocs, as no .tck does; give an image of "
                "that volume as reference."
            )
    first, *others = [grid for grid in grids if grid is not None]
    for other in others:
        first.check_same(other, "The tractograms")
    return first
