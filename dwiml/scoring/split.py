"""Scored streamlines as files, one for each kind of connection."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_name, check_output_folder
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import Scores
from dwiml.tractograms.writing.writer import TractogramWriter

_WITH_BUNDLE = {Connection.VALID: "valid", Connection.WRONG_PATH: "wrong_path"}
_WITHOUT = {Connection.INVALID: "invalid.trk", Connection.NONE: "no_connection.trk"}


def split_files(truth: GroundTruth) -> dict[str, tuple[Connection, int]]:
    """Return {file in the folder: (what is in it, of which bundle; -1: of none)}."""
    return {
        f"{folder}/{name}.trk": (connection, index)
        for connection, folder in _WITH_BUNDLE.items()
        for index, name in enumerate(truth.names)
        if truth.has_ends[index]
    } | {file: (connection, -1) for connection, file in _WITHOUT.items()}


def check_split(
    folder: Path, truth: GroundTruth, *, inputs: Iterable[str | Path | None], overwrite: bool, label: str = "folder"
) -> None:
    """Check that the files can be written.

    Parameters
    ----------
    folder
        Where they go.
    truth
        What the streamlines are scored against.
    inputs
        Files that must not be replaced.
    overwrite
        Whether older files may be.
    label
        What errors call the folder.

    Raises
    ------
    ValueError, OSError
        When no bundle has end regions, a bundle's name is no file name, the folder is a file, files are there and may
        not be replaced, or one of them is an input.
    """
    if not truth.has_ends.any():
        raise ValueError(f"No bundle has end regions, so that streamlines cannot be told apart; leave out {label}.")
    for name in truth.names:
        check_name(name, "Bundle")
        if name.endswith(".partial"):
            raise ValueError(f"Bundle '{name}' has the name of a file that is being written; rename it.")
    check_output_folder(folder, split_files(truth), label, inputs=inputs, overwrite=overwrite)


def save_split(
    folder: Path,
    points: NDArray[np.float32],
    lengths: NDArray[np.int64],
    scores: Scores,
    truth: GroundTruth,
) -> None:
    """Write streamlines (N, 3), (S,) in voxel space, corner origin, one file for each kind that there is."""
    for file, (connection, bundle) in split_files(truth).items():
        chosen = (scores.kind == connection) & (scores.bundle == bundle) & (lengths > 0)
        path = folder / file
        if not chosen.any():
            # What an earlier run has left would be taken for this one's.
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with TractogramWriter(path, grid=truth.grid, overwrite=True) as writer:
            writer.append(points[np.repeat(chosen, lengths)], lengths[chosen])
