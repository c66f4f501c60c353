"""Compare each feature of the input of tracking, as the model reads it, with those of the training subjects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5.schema import (
    DIRECTIONS,
    FEATURES,
    FEATURES_BEFORE,
    FILE,
    FILES,
    FILES_FOUND,
    MEAN,
    NB_FEATURES,
    STD,
)
from dwiml.hdf5.stored.provenance import features_before
from dwiml.tracking.inputs.units import FACTOR_OF_STD, ROUNDING, STDS_OF_MEAN

if TYPE_CHECKING:
    from dwiml.hdf5.inputs.standardization import StandardizationReport, Statistics

logger = logging.getLogger(__name__)

_MAX_SHOWN = 5
_READ = (
    "The values that the model reads from %s are far from those of the training subjects: %s%s. Check the images and "
    "how they are standardized."
)
_BEFORE = (
    "Before the standardization, the values of %s are far from those of the training subjects: %s%s. Check the "
    "acquisition, and the contrast and the normalization of the images."
)


@dataclass(frozen=True)
class FileFeatures:
    """The features of one file in the voxels of the standardization (or non-zero), after the standardization.

    Attributes
    ----------
    means, stds
        Shape (F,), float64.
    before
        The same before a standardization in which each feature has its own mean and standard deviation: those after it
        are the same for all subjects. None for another standardization, or if they are not recorded.
    """

    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    before: FileFeatures | None = None


@dataclass(frozen=True)
class _Difference:
    """How far some features are; `size` compares differences: above 1 is far."""

    text: str
    size: float


def features_of(record: Mapping[str, Any]) -> list[FileFeatures | None]:
    """Return the features of each file that the provenance of a volume group records; None where it does not.

    Parameters
    ----------
    record
        Value of :func:`dwiml.hdf5.stored.provenance.provenance_of`.
    """
    files = record.get(FILES)
    found = [_read(file) for file in files] if isinstance(files, list) else []
    before: list[Any] = []
    with suppress(KeyError, TypeError, ValueError, OverflowError), np.errstate(over="ignore", invalid="ignore"):
        before = features_before(record)
    if len(before) != len(found):
        return found
    return [
        each and replace(each, before=_read({**file, FEATURES: known}))
        for each, file, known in zip(found, files or [], before, strict=True)
    ]


def features_of_report(report: StandardizationReport, entry: Mapping[str, Any]) -> list[FileFeatures | None]:
    """Return the features of each file of images that were read, divided into files as those of the training.

    Parameters
    ----------
    report
        The report of the standardization of the images.
    entry
        The entry of the input group in the groups config of the training.
    """
    found: list[FileFeatures | None] = []
    end = 0
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        for file in entry.get(FILES_FOUND) or []:
            start, end = end, end + int(file[NB_FEATURES])
            after = _stacked(report.features[start:end])
            if after is not None and len(report.applied) == len(report.features):
                applied = _stacked(report.applied[start:end])
                assert applied is not None
                before = FileFeatures(after.means * applied.stds + applied.means, after.stds * applied.stds)
                after = replace(after, before=before)
            found.append(after)
    return found


def warn_of_other_features(what: str, files: Sequence[FileFeatures | None], entry: Mapping[str, Any]) -> None:
    """Warn of features with a mean or a standard deviation that is far from those of the training subjects.

    What is compared are the values that the model reads, after the standardization, so that features whose values
    differ from those of other features in another way than in the training are noticed too. Both are of the voxels in
    which the standardization is computed (or, without one, the non-zero voxels): the tracking mask of the user may be
    another one. A feature is far by the criteria of
    :func:`dwiml.tracking.inputs.units.warn_of_other_units`.

    If each feature has its own standardization, the values after it have a mean of 0 and a standard deviation of 1 in
    any image. The values before it are then compared too.

    Parameters
    ----------
    what
        What is compared, for the message, such as ``"the input"``.
    files
        The features of each file, in the order of the training.
    entry
        The entry of the input group in the groups config of the training; see
        :func:`dwiml.hdf5.stored.provenance.recorded_config`. What it does not record is not compared.
    """
    trained = entry.get(FILES_FOUND) or []
    if len(trained) != len(files):
        return
    _warn(_READ, what, files, trained, FEATURES)
    _warn(_BEFORE, what, [each and each.before for each in files], trained, FEATURES_BEFORE)


def _warn(message: str, what: str, files: Sequence[FileFeatures | None], trained: Sequence[Any], key: str) -> None:
    differences: list[_Difference] = []
    for found, each in zip(files, trained, strict=True):
        known = _read(each, key)
        if found is None or known is None or known.means.shape != (len(found.means), 2):
            continue
        differences += _differences(found, known, each)
    if not differences:
        return
    differences.sort(key=lambda difference: -difference.size)
    shown = ", ".join(each.text for each in differences[:_MAX_SHOWN])
    more = f" and {len(differences) - _MAX_SHOWN} more" if len(differences) > _MAX_SHOWN else ""
    logger.warning(message, what, shown, more)


def _stacked(statistics: Sequence[Statistics | None]) -> FileFeatures | None:
    """Return the features of a file; None if those of one are unknown."""
    known = [each for each in statistics if each is not None]
    if len(known) < len(statistics):
        return None
    return FileFeatures(np.array([each.mean for each in known]), np.array([each.std for each in known]))


def _read(file: Any, key: str = FEATURES) -> FileFeatures | None:
    """Return the means and standard deviations of a file, (F,), or their ranges, (F, 2); None if not recorded."""
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        means, stds = (np.asarray(file[key][name], dtype=np.float64) for name in (MEAN, STD))
        if (
            means.shape == stds.shape
            and means.shape[:1] == (int(file[NB_FEATURES]),)
            and np.isfinite([means, stds]).all()
        ):
            return FileFeatures(means, stds)
    return None


def _differences(found: FileFeatures, known: FileFeatures, file: Mapping[str, Any]) -> list[_Difference]:
    """Return the features of a file that are far from those of the training, by degree if they are SH."""
    (low_means, high_means), (low_stds, high_stds) = known.means.T, known.stds.T
    # Features that are constant, or almost, are compared with the tolerance instead.
    rounding = ROUNDING * float((np.abs(known.means).max(axis=1) + high_stds).max()) + 1e-12
    larger = found.stds / np.maximum(high_stds, rounding)
    smaller = np.maximum(low_stds, rounding) / np.maximum(found.stds, rounding)
    away = np.maximum(found.means - high_means, low_means - found.means)
    shifts = away / np.maximum(high_stds, rounding)
    differences = []
    for name, columns in _groups(file):
        for values, limit, how in (
            (larger, FACTOR_OF_STD, "a standard deviation {} times the largest one"),
            (smaller, FACTOR_OF_STD, "a standard deviation 1/{} of the smallest one"),
            (shifts, STDS_OF_MEAN, "a mean {} standard deviations from the nearest one"),
        ):
            here = values[columns]
            nb_far = int((here > limit).sum())
            if nb_far:
                worst = float(here.max())
                of_some = f"{nb_far} of {len(here)} coefficients of " if nb_far < len(here) else ""
                number = f"{worst:.2g}" if worst < 100 else f"{worst:.0f}"
                text = f"{of_some}{name} of '{file.get(FILE, '')}' ({how.format(number)})"
                differences.append(_Difference(text, worst / limit))
                break
    return differences


def _groups(file: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Return the features of a file that are named together: SH by their degree, others one by one."""
    nb, read = int(file[NB_FEATURES]), file.get(DIRECTIONS)
    if not isinstance(read, Mapping) or read.get("kind") != "sh":
        return [(f"feature {column}", [column]) for column in range(nb)]
    groups: list[tuple[str, list[int]]] = []
    start, degree = 0, 0
    while start < nb:
        end = min(start + 2 * degree + 1, nb)
        groups.append((f"the SH of degree {degree}", list(range(start, end))))
        start, degree = end, degree + (1 if read.get("full_basis") else 2)
    return groups
