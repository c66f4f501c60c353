"""Count the streamlines that join regions known to be connected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5.inputs.connectivity import read_label_regions
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
    """Pairs of regions that streamlines join, compared with the pairs that are connected.

    Attributes
    ----------
    status : (S,) int8
        For each streamline, ``JOINS_CONNECTED``, ``JOINS_UNCONNECTED`` or ``JOINS_NONE``; see
        :mod:`dwiml.ops.connectivity_matrix`.
    joined
        The pairs that streamlines join, with their number of streamlines.
    connected
        The pairs that are known to be connected.
    """

    status: NDArray[np.int8]
    joined: ConnectivityMatrix
    connected: ConnectivityMatrix

    @property
    def nb_streamlines(self) -> int:
        """Number of streamlines."""
        return len(self.status)

    def count(self, status: int) -> int:
        """Return the number of streamlines with a status."""
        return int(np.count_nonzero(self.status == status))

    def share(self, status: int) -> float | None:
        """Return the share (0 to 1) of streamlines with a status; None if there are no streamlines."""
        return self.count(status) / self.nb_streamlines if self.nb_streamlines else None

    @property
    def nb_pairs_connected(self) -> int:
        """Number of pairs known to be connected."""
        return len(self.connected.keys)

    @property
    def nb_pairs_found(self) -> int:
        """Number of connected pairs that a streamline joins."""
        return int(np.isin(self.joined.keys, self.connected.keys).sum())

    @property
    def unconnected(self) -> list[tuple[int, int, int]]:
        """(region, region, number of streamlines) of pairs joined but not connected, most frequent first."""
        wrong = ~np.isin(self.joined.keys, self.connected.keys)
        first, last = self.joined.pairs[wrong].T.tolist()
        counts = self.joined.values[wrong].tolist()
        return sorted(zip(first, last, counts, strict=True), key=lambda pair: -pair[2])

    def summary(self, regions: Regions) -> dict[str, Any]:
        """Return all scores except those of single streamlines, ready for JSON, with regions given by name."""
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
    """Compare the ends of streamlines with the pairs of regions that are connected.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines, concatenated; voxel space, corner origin, in voxels.
    lengths : (S,) int
        Number of points of each streamline. One without points joins nothing.
    regions
        The regions.
    connections
        The pairs that are connected, for the same number of regions.

    Raises
    ------
    ValueError
        If the regions and the connections differ in number, or if shapes are inconsistent.
    """
    first, last = ends_of(points, lengths)
    return ConnectivityScore(
        connection_status(first, last, regions, connections), count_connections(first, last, regions), connections
    )


def ends_of(
    points: NDArray[np.floating], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the first and last point of each streamline, (S, 3) each; NaN for one without points.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines, concatenated, in any space; the ends have the same space and dtype.
    lengths : (S,) int
        Number of points of each streamline.

    Raises
    ------
    ValueError
        If the sum of `lengths` is not N.
    """
    nb_points = int(np.sum(lengths, dtype=np.int64))
    if nb_points != len(points):
        raise ValueError(f"lengths add up to {nb_points} points, but points has {len(points)} rows.")
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
    """Return the regions that streamlines may join, and their voxel grid.

    Parameters
    ----------
    tractograms
        Tractogram files, whose headers give the volume to cut into blocs.
    labels
        A label image: each label except 0 is a region.
    nb_blocs
        Without labels, the number of equal blocs into which the volume is cut along x, y and z.
    reference
        An image that gives the volume, instead of the headers of the tractograms. With labels, it must be on their
        grid.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a file is invalid, if neither labels nor nb_blocs are given, or if files are on different grids.
    """
    grid = None if reference is None else read_image_grid(reference)
    if labels is not None:
        regions, own = read_label_regions(labels, "The labels")
        if grid is not None:
            grid.check_same(own, "reference, labels")
        return regions, own
    if nb_blocs is None:
        raise ValueError("No regions were given; give nb_blocs or labels.")
    grid = grid or _grid_of(tractograms)
    return BlocRegions(grid.shape, nb_blocs), grid


def _grid_of(tractograms: Sequence[str | Path]) -> Grid:
    grids = [open_tractogram(tractogram).grid for tractogram in tractograms]
    for tractogram, grid in zip(tractograms, grids, strict=True):
        if grid is None:
            raise ValueError(
                f"'{tractogram}' does not record the volume to cut into blocs (no .tck file does); give an image of "
                "that volume as reference."
            )
    first, *others = [grid for grid in grids if grid is not None]
    for other in others:
        first.check_same(other, "The tractograms")
    return first
