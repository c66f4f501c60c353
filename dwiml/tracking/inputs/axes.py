"""Check that the main directions of the input of tracking lead from one voxel to the next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dwiml.hdf5.directions.alignment import recorded_statistics
from dwiml.hdf5.directions.recorded import stored_directions
from dwiml.hdf5.schema import DIRECTIONS, FILES, FILES_FOUND, NB_FEATURES, STANDARDIZATION
from dwiml.hdf5.stored.nodes import StoredGroup
from dwiml.hdf5.stored.provenance import provenance_of
from dwiml.ops.axes.alignment import kind_of_unknown
from dwiml.ops.axes.coherence import measure_coherence
from dwiml.ops.axes.conventions import Directions, parse_directions

if TYPE_CHECKING:
    from dwiml.hdf5.inputs.standardization import StandardizationReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InputDirections:
    """The conventions of the features of an input, and the standardization that they had.

    Attributes
    ----------
    sizes
        Number of features of each file.
    known
        The convention of those of each file, as they are stored; None if it is unknown.
    means, stds
        Shape (F,), float64: ``stored * stds + means`` are the values before the standardization.
    """

    sizes: Sequence[int]
    known: Sequence[Directions | None]
    means: NDArray[np.float64]
    stds: NDArray[np.float64]


def directions_of_group(node: StoredGroup, label: str, nb_features: int) -> InputDirections | None:
    """Return the conventions of a volume group of an HDF5 file; None if its standardization is not recorded.

    Parameters
    ----------
    node
        The group.
    label
        Description of the group, used in the error message.
    nb_features
        Its number of features.

    Raises
    ------
    ValueError
        If the recorded conventions are damaged.
    """
    record = provenance_of(node)
    means, stds = np.zeros(nb_features), np.ones(nb_features)
    if record.get(STANDARDIZATION) != "none":
        found = recorded_statistics(node, nb_features)
        if found is None:
            return None
        means, stds = found
    stored = stored_directions(node, label)
    sizes: list[int] = [each.nb_features for each in stored]
    known: list[Directions | None] = [each.stored for each in stored]
    if not stored:
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            sizes = [int(each[NB_FEATURES]) for each in record[FILES]]
            known = [None] * len(sizes)
    return _checked(sizes, known, means, stds)


def directions_of_images(entry: Mapping[str, Any], report: StandardizationReport) -> InputDirections | None:
    """Return the conventions of images that were read as those of the training.

    Parameters
    ----------
    entry
        The entry of the input group in the groups config of the training.
    report
        The report of the standardization of the images.
    """
    sizes: list[int] = []
    known: list[Directions | None] = []
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        for each in entry.get(FILES_FOUND) or []:
            sizes.append(int(each[NB_FEATURES]))
            known.append(parse_directions(each[DIRECTIONS], "").stored if DIRECTIONS in each else None)
    nb_features = len(report.features)
    statistics = [(each.mean, each.std) for each in report.applied] or [(0.0, 1.0)]
    if len(statistics) == len(sizes):
        statistics = [each for each, size in zip(statistics, sizes, strict=True) for _ in range(size)]
    if len(statistics) not in (1, nb_features) or len(known) != len(sizes):
        return None
    means, stds = np.broadcast_to(np.array(statistics), (nb_features, 2)).T
    return _checked(sizes, known, means, stds)


def _checked(
    sizes: list[int], known: list[Directions | None], means: NDArray[np.float64], stds: NDArray[np.float64]
) -> InputDirections | None:
    if not sizes:
        sizes, known = [len(means)], [None]
    return InputDirections(sizes, known, means, stds) if sum(sizes) == len(means) else None


def warn_of_other_axes(
    what: str,
    volume: Tensor,
    inside: NDArray[np.bool_],
    voxel_sizes: NDArray[np.floating[Any]],
    features: InputDirections | None,
) -> None:
    """Warn of directional features whose main directions lead farther with mirrored or exchanged axes.

    See :func:`dwiml.ops.axes.coherence.measure_coherence`. The training is not considered.

    Parameters
    ----------
    what
        What has these features, for the message, such as ``"the input"``.
    volume
        Shape (X, Y, Z, F), float32: the features, after the standardization.
    inside
        Shape (X, Y, Z), bool: the tracking mask, in which the directions are followed.
    voxel_sizes
        Shape (3,), mm.
    features
        The conventions of the features; None if they are unknown, and nothing is measured.
    """
    if features is None:
        return
    voxels = np.flatnonzero(inside)
    rows = volume.reshape(-1, volume.shape[-1]).numpy()
    end = 0
    for nb, known in zip(features.sizes, features.known, strict=True):
        start, end = end, end + nb
        if (known.kind if known is not None else kind_of_unknown(nb)) in ("", "none"):
            continue
        values = rows[voxels, start:end] * features.stds[start:end] + features.means[start:end]
        found = measure_coherence(values, inside, voxel_sizes, known)
        if found is not None and found.is_suspicious:
            logger.warning(
                "The main directions of %s lead farther from voxel to voxel with %s: over %.1f voxels on average, "
                "instead of %.1f. The axes of its directional features are probably wrong: check the gradient "
                "directions (bvecs) from which they were computed, and the affine.",
                *(what, found.change, found.longest, found.length),
            )
