"""Save scored streamlines, one file for each kind of connection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_name, check_output_folder
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import Scores
from dwiml.tractograms.writing.sidecar import ACCEPTANCE, describe, tractogram_sidecar
from dwiml.tractograms.writing.writer import TractogramWriter

_WITH_BUNDLE = {Connection.VALID: "valid", Connection.WRONG_PATH: "wrong_path"}
_WITHOUT = {Connection.INVALID: "invalid.trk", Connection.NONE: "no_connection.trk"}


def split_files(truth: GroundTruth) -> dict[str, tuple[Connection, int]]:
    """Return the files that :func:`save_split` writes.

    Returns
    -------
    dict
        {path in the folder: (kind of connection, index of the bundle or -1)}.
    """
    return {
        f"{folder}/{name}.trk": (connection, index)
        for connection, folder in _WITH_BUNDLE.items()
        for index, name in enumerate(truth.names)
        if truth.has_ends[index]
    } | {file: (connection, -1) for connection, file in _WITHOUT.items()}


def check_split(
    folder: Path,
    truth: GroundTruth,
    *,
    inputs: Iterable[str | os.PathLike[str] | None],
    overwrite: bool,
    label: str = "folder",
    sidecars: bool = False,
) -> None:
    """Check that :func:`save_split` can write its files.

    Parameters
    ----------
    folder
        The output folder.
    truth
        The ground truth that the streamlines are scored against.
    inputs
        Files that must not be replaced.
    overwrite
        Whether other existing files may be replaced.
    label
        Name of the folder in error messages.
    sidecars
        Whether the sidecars of the tractograms are written too.

    Raises
    ------
    ValueError, OSError
        If no bundle has end regions, the name of a bundle cannot be used as a file name, the folder is a file, a file
        exists and may not be replaced, or a file is an input.
    """
    if not truth.has_ends.any():
        raise ValueError(f"No bundle has end regions, which are needed to split streamlines; leave out {label}.")
    for name in truth.names:
        check_name(name, "Bundle")
        if name.endswith(".partial"):
            raise ValueError(f"Bundle '{name}' ends in .partial, which is used for unfinished files; rename it.")
    files = list(split_files(truth))
    files += [str(tractogram_sidecar(file)) for file in files] if sidecars else []
    check_output_folder(folder, files, label, inputs=inputs, overwrite=overwrite)


def save_split(
    folder: Path,
    points: NDArray[np.float32],
    lengths: NDArray[np.int64],
    scores: Scores,
    truth: GroundTruth,
    *,
    sources: Sequence[str | os.PathLike[str] | None] | None = None,
    rules: Mapping[str, float] | None = None,
) -> None:
    """Write one tractogram for each kind of connection and bundle that has streamlines.

    Files of an earlier run without streamlines in this one are removed.

    Parameters
    ----------
    folder
        The output folder; created if missing.
    points : (N, 3) float32
        Points of all streamlines, concatenated; voxel space of the ground truth, corner origin, in voxels.
    lengths : (S,) int64
        Number of points of each streamline.
    scores
        Scores of these streamlines.
    truth
        The ground truth that they were scored against.
    sources
        The tractogram and the files of the ground truth, to write sidecars; None to write none.
    rules
        The rules of the scores, which the sidecars name.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    for file, (connection, bundle) in split_files(truth).items():
        chosen = (scores.kind == connection) & (scores.bundle == bundle) & (lengths > 0)
        path = folder / file
        if not chosen.any():
            # A file of an earlier run would look like a result of this one.
            for older in (path, *([] if sources is None else [tractogram_sidecar(path)])):
                older.unlink(missing_ok=True)
            continue
        sidecar = None if sources is None else _sidecar(truth, connection, bundle, sources, rules or {})
        path.parent.mkdir(parents=True, exist_ok=True)
        with TractogramWriter(path, grid=truth.grid, overwrite=True, sidecar=sidecar) as writer:
            writer.append(points[np.repeat(chosen, lengths)], lengths[chosen])


def _sidecar(
    truth: GroundTruth,
    connection: Connection,
    bundle: int,
    sources: Sequence[str | os.PathLike[str] | None],
    rules: Mapping[str, float],
) -> dict[str, Any]:
    kind = connection.name.lower()
    criteria: dict[str, Any] = {"Connection": kind, **rules}
    if bundle >= 0:
        criteria["Bundle"] = truth.names[bundle]
    return describe(
        f"Streamlines of a tractogram, of one kind of connection ({kind}).", sources, {ACCEPTANCE: criteria}
    )
