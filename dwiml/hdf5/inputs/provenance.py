"""Where the content of a group comes from, as recorded in the HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from dwiml.files.images import partner_of
from dwiml.hdf5 import schema
from dwiml.hdf5.config import VolumeGroup
from dwiml.hdf5.inputs.connectivity import ConnectivityPlan
from dwiml.hdf5.inputs.inspection import SubjectPlan
from dwiml.hdf5.inputs.standardization import StandardizationReport, Statistics

# An image may be a pair of files.


def sources_of(files: Iterable[Path], folder: Path) -> list[dict[str, Any]]:
    """Return what is recorded of source files: their paths, sizes and times of modification.

    Parameters
    ----------
    files
        The files, in the order in which they are read. A folder (an unzipped ``.trx``), or the ``.hdr`` and ``.img``
        files of an image, have their total size and their latest time.
    folder
        The subject's folder, to which the recorded paths are relative.

    Returns
    -------
    list of dict
        For each file: :data:`~dwiml.hdf5.schema.FILE`, :data:`~dwiml.hdf5.schema.NB_BYTES`, and
        :data:`~dwiml.hdf5.schema.MODIFIED` (UTC, ISO 8601).

    Raises
    ------
    OSError
        If a file cannot be accessed.
    """
    found = []
    for path in files:
        status = [part.stat() for part in _parts(path)]
        found.append(
            {
                schema.FILE: Path(os.path.relpath(path, folder)).as_posix(),
                schema.NB_BYTES: sum(each.st_size for each in status),
                schema.MODIFIED: _time(max((each.st_mtime_ns for each in status), default=0)),
            }
        )
    return found


def volume_sources(plan: SubjectPlan, group: VolumeGroup) -> dict[str, Any]:
    """Return what is recorded of a volume group before it is read: its files and masks, and its standardization."""
    sources = sources_of(plan.volumes[group.name], plan.folder)
    for source, nb_features in zip(sources, plan.features[group.name], strict=True):
        source[schema.NB_FEATURES] = nb_features
    recorded: dict[str, Any] = {schema.FILES: sources, schema.STANDARDIZATION: group.standardization}
    masks = plan.masks[group.name]
    if masks:
        recorded[schema.STD_MASK] = sources_of(masks, plan.folder)
    return recorded


def streamlines_sources(plan: SubjectPlan, group: str, connectivity: ConnectivityPlan | None) -> dict[str, Any]:
    """Return what is recorded of a streamlines group before it is read: its tractograms and connectivity files."""
    recorded = {schema.FILES: sources_of(plan.tractograms[group], plan.folder)}
    if connectivity is not None:
        recorded[schema.CONNECTIVITY] = sources_of(connectivity.files, plan.folder)
    return recorded


def add_statistics(recorded: dict[str, Any], report: StandardizationReport) -> dict[str, Any]:
    """Add the means and standard deviations to the record of a volume group, and return the record.

    Parameters
    ----------
    recorded
        Value of :func:`volume_sources`; it is changed.
    report
        The statistics of the group.
    """
    end = 0
    for source, found in zip(recorded[schema.FILES], report.files, strict=True):
        source[schema.MEAN], source[schema.STD] = (None, None) if found is None else (found.mean, found.std)
        start, end = end, end + source[schema.NB_FEATURES]
        if found is not None:
            source[schema.FEATURES] = feature_record(report.features[start:end])
    if report.applied:
        recorded[schema.MEAN] = [each.mean for each in report.applied]
        recorded[schema.STD] = [each.std for each in report.applied]
    return recorded


def feature_record(features: Sequence[Statistics | None]) -> dict[str, list[float]]:
    """Return what is recorded of the features of a file: their means and standard deviations, to six digits."""
    known = [each for each in features if each is not None]
    return {
        schema.MEAN: [float(f"{each.mean:.6g}") for each in known],
        schema.STD: [float(f"{each.std:.6g}") for each in known],
    }


def _parts(path: Path) -> list[Path]:
    """Return the files that a path stands for."""
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    partner = partner_of(path)
    return [path, partner] if partner is not None and partner.is_file() else [path]


def _time(nanoseconds: int) -> str:
    """Return a time, given since 1970, as text in ISO 8601, UTC, with microseconds."""
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    try:
        return (epoch + timedelta(microseconds=nanoseconds // 1000)).isoformat(timespec="microseconds")
    except OverflowError:
        return f"{nanoseconds // 10**9} s since 1970"
