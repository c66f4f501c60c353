"""Read how an HDF5 file was created, and from which files each group was read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from dwiml.hdf5 import schema
from dwiml.hdf5.stored.layout import groups_config, open_hdf5, subject_lists
from dwiml.hdf5.stored.nodes import StoredFile, StoredGroup
from dwiml.ops.spaces import obliquity_degrees, voxel_order_of, voxel_sizes_of


def provenance_of(node: StoredGroup) -> dict[str, Any]:
    """Return what the root or a group of a subject records about its origin.

    Parameters
    ----------
    node
        The root, or a group.

    Returns
    -------
    dict
        The content of its attribute :data:`~dwiml.hdf5.schema.PROVENANCE`; empty if it has none (files of dwi_ml or of
        earlier versions) or it is not a JSON object.
    """
    with suppress(ValueError, RecursionError):
        found = json.loads(schema.read_text(node.attribute(schema.PROVENANCE, "{}")))
        if isinstance(found, dict):
            return found
    return {}


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how an HDF5 file was created, and from which files.

    Parameters
    ----------
    path
        The HDF5 file.

    Returns
    -------
    dict
        The keys of the root (version of dwiml, command line, options), and ``"subjects"``: {subject: {group: its
        source files, and for a volume the means and standard deviations of its standardization}}. What a file does not
        record is absent. The page "Creating the HDF5 file" describes all keys.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        See :func:`~dwiml.hdf5.stored.layout.open_hdf5`.
    """
    with open_hdf5(path) as file:
        subjects: dict[str, dict[str, Any]] = {}
        for name in [name for names in subject_lists(file).values() for name in names]:
            subject = file.root.group(name)
            groups = {group: subject.group(group) for group in subject.names if subject.is_group(group)}
            subjects[name] = {group: found for group, node in groups.items() if (found := provenance_of(node))}
        return {**provenance_of(file.root), "subjects": subjects}


def root_provenances(files: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Return what the root of each file records about its origin, with the path of the file."""
    found = []
    for path in files:
        with open_hdf5(path) as file:
            found.append({schema.FILE: os.fspath(path), **provenance_of(file.root)})
    return found


def recorded_config(file: StoredFile) -> dict[str, dict[str, Any]]:
    """Return the groups config that a file was created from, with the statistics of the files of each volume group.

    Parameters
    ----------
    file
        The HDF5 file.

    Returns
    -------
    dict of dict
        Value of :func:`~dwiml.hdf5.stored.layout.groups_config`. If the provenance is recorded, each file in
        :data:`~dwiml.hdf5.schema.FILES_FOUND` also has ``"mean"`` and ``"std"``: [lowest, highest] of the mean and of
        the standard deviation of this file among the training subjects, before the standardization; the same for each
        feature after the standardization, as ``"features"``, and, if each has its own standardization, before it, as
        ``"features_before"``; and, if the file of some of them was in other conventions, these as
        ``"other_directions"``. The entry of a volume group also has
        :data:`~dwiml.hdf5.schema.GRIDS`, the voxel grids of the training subjects.
    """
    config = groups_config(file)
    subjects = subject_lists(file)["training"]
    for name, entry in config.items():
        found = entry.get(schema.FILES_FOUND) or []
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            records = [provenance_of(file.root.group(subject).group(name)) for subject in subjects]
            recorded = [record[schema.FILES] for record in records]
            ranges = [
                {key: _range([each[key] for each in of_file]) for key in (schema.MEAN, schema.STD)}
                for of_file in zip(*recorded, strict=True)
            ]
            entry[schema.FILES_FOUND] = [{**each, **more} for each, more in zip(found, ranges, strict=True)]
            for each, of_file in zip(entry[schema.FILES_FOUND], zip(*recorded, strict=True), strict=True):
                if all(schema.FEATURES in source for source in of_file):
                    each[schema.FEATURES] = _feature_ranges([source[schema.FEATURES] for source in of_file])
            before = list(zip(*map(features_before, records), strict=True))
            for each, of_each in zip(entry[schema.FILES_FOUND], before, strict=False):
                if None not in of_each:
                    each[schema.FEATURES_BEFORE] = _feature_ranges(of_each)
        with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            groups = [file.root.group(subject).group(name) for subject in subjects]
            add_other_conventions(entry, [node.attribute(schema.DIRECTIONS) for node in groups])
        if entry.get(schema.TYPE) == schema.TYPE_VOLUME and subjects:
            with suppress(ValueError, TypeError, KeyError):
                nodes = [file.root.group(subject).group(name) for subject in subjects]
                entry[schema.GRIDS] = _grid_ranges([node.attribute(schema.AFFINE) for node in nodes])
    return config


def features_before(record: Mapping[str, Any]) -> list[dict[str, list[float]] | None]:
    """Return the features of a subject before a standardization in which each has its own mean and std.

    Parameters
    ----------
    record
        Value of :func:`provenance_of` of a volume group.

    Returns
    -------
    list of dict
        For each file, ``"mean"`` and ``"std"`` of each of its features, in the unit of the file; None for a file whose
        features are not recorded. Empty for another standardization, where features keep the proportions that they had.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the record is damaged.
    """
    if record.get(schema.STANDARDIZATION) != "independent":
        return []
    found: list[dict[str, list[float]] | None] = []
    end = 0
    for source in record[schema.FILES]:
        start, end = end, end + int(source[schema.NB_FEATURES])
        if schema.FEATURES not in source:
            found.append(None)
            continue
        means, stds = (np.asarray(record[key][start:end], dtype=np.float64) for key in (schema.MEAN, schema.STD))
        after_mean, after_std = (np.asarray(source[schema.FEATURES][key]) for key in (schema.MEAN, schema.STD))
        found.append({schema.MEAN: (after_mean * stds + means).tolist(), schema.STD: (after_std * stds).tolist()})
    return found


def united_ranges(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several files of a data set record about the grids or the features of a volume group, together.

    Parameters
    ----------
    entries
        Values of :data:`~dwiml.hdf5.schema.GRIDS` or :data:`~dwiml.hdf5.schema.FEATURES`.

    Returns
    -------
    dict
        For each key, the union of the texts, or the lowest and highest numbers.
    """
    united = {}
    for key in entries[0]:
        values = [each[key] for each in entries]
        if key == schema.VOXEL_ORDERS:
            united[key] = sorted({order for orders in values for order in orders})
        else:
            limits = np.asarray(values, dtype=np.float64)
            united[key] = np.stack([limits[..., 0].min(axis=0), limits[..., 1].max(axis=0)], axis=-1).tolist()
    return united


def add_other_conventions(entry: dict[str, Any], recorded: Sequence[Any]) -> None:
    """Add to each file of a volume group the conventions in which it was read for other subjects than the first.

    Parameters
    ----------
    entry
        The entry of the group in the groups config; it is changed.
    recorded
        The attribute :data:`~dwiml.hdf5.schema.DIRECTIONS` of the group of each subject, or None.
    """
    texts = dict.fromkeys(schema.read_text(each) for each in recorded if each is not None)
    conventions = [
        [{key: value for key, value in read.items() if key != schema.NB_FEATURES} for read in found]
        for found in (json.loads(text)[schema.DIRECTIONS_READ] for text in texts)
    ]
    for place, known in enumerate(entry.get(schema.FILES_FOUND) or []):
        others = known.get(schema.OTHER_DIRECTIONS, [])
        for found in conventions:
            if found[place] and found[place] not in (known.get(schema.DIRECTIONS), *others):
                others = [*others, found[place]]
        if others:
            known[schema.OTHER_DIRECTIONS] = others


def _feature_ranges(features: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Return [lowest, highest] of the mean and of the standard deviation of each feature of a file."""
    keys = (schema.MEAN, schema.STD)
    return {key: [_range(list(each)) for each in zip(*(one[key] for one in features), strict=True)] for key in keys}


def _grid_ranges(affines: Sequence[Any]) -> dict[str, Any]:
    """Return the voxel orders, and the lowest and highest obliquities (degrees) and voxel sizes (mm), of affines."""
    sizes = np.stack([voxel_sizes_of(affine) for affine in affines])
    return {
        schema.VOXEL_ORDERS: sorted({voxel_order_of(affine) for affine in affines}),
        schema.OBLIQUITY: _rounded(_range([obliquity_degrees(affine) for affine in affines])),
        schema.VOXEL_SIZES: [_rounded(_range(each.tolist())) for each in sizes.T],
    }


def _rounded(limits: list[float]) -> list[float]:
    return [round(limit, 4) for limit in limits]


def _range(values: list[Any]) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("A recorded mean or standard deviation is not finite.")
    return [min(numbers), max(numbers)]
