"""The invalid connections between each pair of end regions, as a matrix."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.files import atomic_write
from dwiml.scoring.scores import Scores
from dwiml.scoring.tables import aligned, count

_MOST_SHOWN = 15


def confusion_matrix(scores: Scores, regions: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of invalid connections between each pair of end regions.

    Parameters
    ----------
    scores
        Scores of a tractogram.
    regions
        Names of the R end regions of the ground truth.

    Returns
    -------
    (R, R) int64
        Symmetric; the diagonal, and the pairs that a true bundle joins, are 0. The upper triangle sums to the number
        of invalid connections.
    """
    index = {name: i for i, name in enumerate(regions)}
    matrix = np.zeros((len(regions), len(regions)), dtype=np.int64)
    for bundle in scores.invalid_bundles:
        first, second = (index[name] for name in bundle.regions)
        matrix[first, second] = matrix[second, first] = bundle.nb_streamlines
    return matrix


def write_confusion(path: Path, matrices: Mapping[str, NDArray[np.int64]], regions: Sequence[str]) -> None:
    """Write the matrices of one or more tractograms as a table (CSV, RFC 4180).

    Parameters
    ----------
    path
        File to write. An existing file is replaced.
    matrices
        {name of the tractogram: matrix (R, R)}. With several, they are written one below the other, and the first
        column is the name of the tractogram.
    regions
        Names of the R regions: the header, and the first column of each matrix.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    several = len(matrices) > 1
    writer.writerow([*(["tractogram"] if several else []), "region", *regions])
    for name, matrix in matrices.items():
        for region, row in zip(regions, matrix.tolist(), strict=True):
            writer.writerow([*([name] if several else []), region, *row])
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def confusion_table(matrix: NDArray[np.int64], regions: Sequence[str]) -> str:
    """Return a matrix as text: the regions with most invalid connections, in their order; columns have their numbers.

    Parameters
    ----------
    matrix : (R, R) int64
        From :func:`confusion_matrix`.
    regions
        Names of the R regions.
    """
    involved = np.flatnonzero(matrix.any(axis=1))
    most = involved[np.argsort(-matrix.sum(axis=1)[involved], kind="stable")][:_MOST_SHOWN]
    shown = np.sort(most)
    if not len(shown):
        return "No invalid connections."
    rows = [["invalid connections", *(f"({i})" for i in range(1, len(shown) + 1))]]
    for i, region in enumerate(shown, start=1):
        rows.append([f"({i}) {regions[region]}", *(count(int(value)) for value in matrix[region, shown])])
    if len(shown) == len(involved):
        return aligned(rows)
    return f"{aligned(rows)}\n({len(shown)} of the {count(len(involved))} regions with invalid connections)"
