"""Measure how well the directional features of a subject follow its streamlines, from what the HDF5 file holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5 import schema
from dwiml.hdf5.directions.recorded import StoredDirections, stored_directions
from dwiml.hdf5.stored.layout import groups_of_type
from dwiml.hdf5.stored.nodes import StoredGroup
from dwiml.hdf5.stored.provenance import provenance_of
from dwiml.ops import spaces
from dwiml.ops.axes.alignment import Measurement, kind_of_unknown, measure
from dwiml.ops.ragged import offsets as offsets_of

# Of each subject, evenly spaced.
_NB_STREAMLINES, _NB_POINTS = 400, 1500
_MOST_POINTS_EACH = 5000
_NAMES = {"sh": "spherical harmonics", "peaks": "peaks", "tensor": "tensors"}
_NOT_MEASURED = "their standardization cannot be undone, because its means and standard deviations are not recorded"


@dataclass(frozen=True)
class Alignment:
    """The alignment of the features of one image of a subject.

    Attributes
    ----------
    subject, group
        Names of the subject and of the volume group.
    features
        The first of the features and the one after the last.
    measurement
        The result; None if it could not be measured.
    reason
        Why it could not be measured; otherwise empty.
    """

    subject: str
    group: str
    features: tuple[int, int]
    measurement: Measurement | None
    reason: str = ""

    @property
    def sentence(self) -> str:
        """What a user should know, as a sentence; empty if the features follow the streamlines best as they are."""
        return f"Group '{self.group}' of subject '{self.subject}': {self.remark}." if self.remark else ""

    @property
    def remark(self) -> str:
        """What a user should know, without the names of the group and the subject; empty if there is nothing."""
        found = self.measurement
        if found is None:
            return f"the axes of its directional features could not be measured: {self.reason}"
        if not found.is_suspicious:
            return ""
        best = found.best
        numbers = f"(alignment {best.alignment:.2f} instead of {found.alignment:.2f}, at most 1)"
        what = _NAMES[found.kind] if found.stated is not None else f"features, if they are {_NAMES[found.kind]},"
        if best.directions is None:
            return (
                f"its {what} follow the streamlines better with {best.change} {numbers}; check the gradient directions "
                "(bvecs) from which they were computed"
            )
        now = "as they are stored" if found.stated is None else f"as {json.dumps(found.stated.as_dict())}"
        better = json.dumps(best.directions.as_dict())
        return (
            f"its {what} follow the streamlines better as {better} than {now} {numbers}; "
            "state this as 'directions' in the groups config, and recreate the HDF5 file"
        )


def measure_subject(
    subject: StoredGroup, config: Mapping[str, Any], groups: Sequence[str] | None = None
) -> list[Alignment]:
    """Measure the alignment of all directional features of a subject.

    Features of an unknown convention are measured if their number is that of spherical harmonics or of three peaks; see
    :func:`dwiml.ops.axes.alignment.kind_of_unknown`.

    Parameters
    ----------
    subject
        The subject.
    config
        The groups config of the file; empty if it is not recorded.
    groups
        The volume groups to measure; None for all.

    Returns
    -------
    list of Alignment
        One for each image; nothing for other images, or if the subject has too few streamlines.

    Raises
    ------
    ValueError, OSError
        If a group is damaged.
    """
    found: list[Alignment] = []
    lines: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    for name in groups_of_type(subject, schema.TYPE_VOLUME) if groups is None else groups:
        node = subject.group(name)
        shape = node.dataset(schema.DATA).shape
        images = _directional(node, f"volume group '{name}' of subject '{subject.name}'", shape[-1] if shape else 0)
        if not images or len(shape) != 4:
            continue
        lines = lines or _sampled_steps(subject)
        found += _measure_group(subject.name, name, node, images, lines, config.get(name) or {})
    return found


def _directional(node: StoredGroup, label: str, nb_features: int) -> list[tuple[int, StoredDirections]]:
    """Return the first feature and the convention of each image that may be measured."""
    recorded = stored_directions(node, label)
    if not recorded:
        recorded = [StoredDirections(nb, None, None) for nb in _features_of_files(node, nb_features) or [nb_features]]
    if sum(each.nb_features for each in recorded) != nb_features:
        raise ValueError(f"The {label} is damaged: its attribute '{schema.DIRECTIONS}' is for other features.")
    for each in recorded:
        if each.read is not None:
            each.read.check_nb_features(each.nb_features, f"The {label}")
    firsts = offsets_of(np.array([each.nb_features for each in recorded], dtype=np.int64)).tolist()
    return [
        (first, each)
        for first, each in zip(firsts, recorded, strict=True)
        if (each.read.kind != "none" if each.read is not None else kind_of_unknown(each.nb_features))
    ]


def _measure_group(
    subject: str,
    name: str,
    node: StoredGroup,
    images: list[tuple[int, StoredDirections]],
    lines: tuple[NDArray[np.float64], NDArray[np.float64]],
    entry: Mapping[str, Any],
) -> Iterator[Alignment]:
    middles, steps = lines
    dataset = node.dataset(schema.DATA)
    inside = ((middles >= 0) & (middles < np.array(dataset.shape[:3]))).all(axis=1)
    if not inside.any():
        return
    voxels, steps = np.floor(middles[inside]).astype(np.int64), steps[inside]
    affine = np.asarray(node.attribute(schema.AFFINE), dtype=np.float64)
    distinct, places = np.unique(voxels, axis=0, return_inverse=True)
    stored = np.stack([dataset[x, y, z] for x, y, z in distinct.tolist()]).astype(np.float64)
    values = _without_standardization(node, stored, entry)
    steps = steps * spaces.voxel_sizes_of(affine)
    for first, image in images:
        features = (first, first + image.nb_features)
        if values is None:
            yield Alignment(subject, name, features, None, _NOT_MEASURED)
            continue
        found = measure(values[places.reshape(-1), slice(*features)], steps, affine, image.read)
        if found is not None:
            yield Alignment(subject, name, features, found)


def _without_standardization(
    node: StoredGroup, stored: NDArray[np.float64], entry: Mapping[str, Any]
) -> NDArray[np.float64] | None:
    """Return values (V, F) as before the standardization, or a positive multiple of them; None if it is impossible.

    Without recorded means, the value of the background, which was zero, is subtracted: what remains was divided by one
    standard deviation, unless each feature has its own.
    """
    kind = entry.get("standardization", "none") if entry else None
    if kind == "none":
        return stored
    recorded = recorded_statistics(node, stored.shape[1])
    if recorded is not None:
        means, deviations = recorded
        return stored * deviations + means
    if kind not in ("all", "per_file"):
        return None
    dataset = node.dataset(schema.DATA)
    x, y, z = (size - 1 for size in dataset.shape[:3])
    corners = np.stack([dataset[i, j, k] for i in (0, x) for j in (0, y) for k in (0, z)]).astype(np.float64)
    return stored - corners[0] if (corners == corners[0]).all() else None


def _features_of_files(node: StoredGroup, nb_features: int) -> list[int]:
    """Return the number of features of each file of a group, if the file records them; otherwise an empty list."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = [int(source[schema.NB_FEATURES]) for source in provenance_of(node)[schema.FILES]]
        return found if sum(found) == nb_features and min(found) > 0 else []
    return []


def recorded_statistics(node: StoredGroup, nb_features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the mean and the standard deviation of each feature, shape (F,), if the file records them."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        content, sizes = provenance_of(node), _features_of_files(node, nb_features)
        found = []
        for key in (schema.MEAN, schema.STD):
            values = np.asarray(content[key], dtype=np.float64)
            if sizes and values.shape == (len(sizes),):
                values = np.repeat(values, sizes)
            found.append(np.broadcast_to(values, (nb_features,)))
        return found[0], found[1]
    return None


def _sampled_steps(subject: StoredGroup) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps of streamlines: their middles and their directions, shape (P, 3) each, in voxels, corner origin.

    They are evenly spaced among those of evenly spaced streamlines of all groups, so that they are always the same.
    """
    middles, steps = [np.zeros((0, 3))], [np.zeros((0, 3))]
    names = groups_of_type(subject, schema.TYPE_STREAMLINES)
    for name in names:
        points, lengths = _sampled_points(subject.group(name), _NB_STREAMLINES // len(names))
        # No step leads from one streamline to the next.
        inside = np.ones(max(len(points) - 1, 0), dtype=bool)
        inside[np.cumsum(lengths)[:-1] - 1] = False
        middles.append(((points[1:] + points[:-1]) / 2)[inside])
        steps.append(np.diff(points, axis=0)[inside])
    found, directions = np.concatenate(middles), np.concatenate(steps)
    moving = np.flatnonzero(np.isfinite(found).all(axis=1) & (np.abs(directions) > 0).any(axis=1))
    chosen = moving[_evenly(len(moving), _NB_POINTS)]
    return found[chosen], directions[chosen]


def _sampled_points(node: StoredGroup, most: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the points of evenly spaced streamlines, shape (N, 3), and the length of each; empty ones are left out."""
    lengths = np.asarray(node.dataset(schema.LENGTHS).read()).reshape(-1).astype(np.int64)
    starts = offsets_of(lengths)
    if schema.OFFSETS in node:
        starts = np.asarray(node.dataset(schema.OFFSETS).read()).reshape(-1).astype(np.int64)
        if len(starts) != len(lengths):
            raise ValueError(f"'{node.name}' has {len(starts)} offsets for {len(lengths)} streamlines.")
    whole = np.flatnonzero(lengths > 0)
    chosen = whole[_evenly(len(whole), most)]
    dataset = node.dataset(schema.DATA)
    if dataset.shape[1:] != (3,):
        raise ValueError(f"The dataset '{dataset.name}' has shape {dataset.shape} instead of (N, 3).")
    # Lengths that lie must not fill the memory.
    ends = starts + np.minimum(lengths, _MOST_POINTS_EACH)
    runs = [dataset[slice(starts[k], ends[k])] for k in chosen.tolist()]
    # Those of a damaged group may be shorter than it says.
    read = np.array([len(run) for run in runs], dtype=np.int64)
    return _to_voxels(node, np.concatenate([np.zeros((0, 3)), *runs])), read[read > 0]


def _to_voxels(node: StoredGroup, points: NDArray[Any]) -> NDArray[np.float64]:
    affine = np.asarray(node.attribute(schema.AFFINE), dtype=np.float64)
    converted = spaces.to_vox_corner(
        points,
        space=schema.read_text(node.attribute(schema.SPACE, "vox")),
        origin=schema.read_text(node.attribute(schema.ORIGIN, "corner")),
        affine=affine,
        voxel_sizes=spaces.voxel_sizes_of(affine),
    )
    return converted.astype(np.float64)


def _evenly(total: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` evenly spaced indices of `total`."""
    return np.unique(np.linspace(0, max(total - 1, 0), min(total, most)).astype(np.int64))
