"""Read the images of a subject into one standardized array."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import quoted
from dwiml.files.images import copy_volumes, open_image, read_voxels, readable
from dwiml.hdf5.config import VolumeGroup
from dwiml.hdf5.inputs.inspection import SubjectPlan
from dwiml.hdf5.inputs.standardization import FEW_VOXELS, standardize
from dwiml.ops.axes.conversion import convert_features
from dwiml.ops.masks import DEFAULT_THRESHOLD, Mask, as_mask
from dwiml.tractograms.grid import Grid

logger = logging.getLogger(__name__)


def read_volume_group(plan: SubjectPlan, group: VolumeGroup) -> NDArray[np.float32]:
    """Read the files of one volume group, concatenate them on the last axis, and standardize them.

    The result of the standardization is added to ``plan.statistics``.

    Returns
    -------
    array of shape (X, Y, Z, F), float32
        The features. Directional features of a known convention are converted to voxel axes; see
        :mod:`dwiml.ops.axes.conventions`.

    Raises
    ------
    ValueError
        If a file is damaged or holds NaN, or if there is no voxel to compute the mean and the std from.
    """
    label = plan.label(group.name)
    mask = _read_mask(plan, group.name, label)
    shape = (*plan.grid.shape, plan.nb_features[group.name])
    data: NDArray[np.float32] | None = None
    features_per_file, start = [], 0
    planned = zip(plan.volumes[group.name], plan.directions[group.name], plan.features[group.name], strict=True)
    for path, read, nb in planned:
        values = _read_volume(path, label, plan, peaks=read is not None and read.kind == "peaks")
        if values.shape[-1] != nb:
            raise ValueError(f"{label}: '{path}' has changed since its header was checked; run the same again.")
        end = start + nb
        if values.flags.f_contiguous:
            # As nibabel gives them.
            data = np.empty(shape, np.float32) if data is None else data
            copy_volumes(data[..., start:end], values)
        elif values.shape == shape:
            # Those of a single file are used as they are.
            data = values
        else:
            data = np.empty(shape, np.float32) if data is None else data
            data[..., start:end] = values
        if read is not None and convert_features(data[..., start:end], read, plan.grid.affine):
            logger.info("%s: '%s' was converted from %s to voxel axes.", label, path, read.as_dict())
        logger.info("%s: %d features from '%s'.", label, end - start, path)
        features_per_file.append(end - start)
        start = end
    assert data is not None
    try:
        report = standardize(data, group.standardization, features_per_file, mask)
    except ValueError as error:
        raise ValueError(f"{label}: {error}; files: {_names(plan.volumes, plan.masks, group.name)}.") from error
    plan.statistics[group.name] = report
    if report.constant:
        columns = [str(k) for features in report.constant for k in range(features.start, features.stop)]
        logger.warning(
            "%s: features %s are constant in the mask, up to rounding; only their mean was subtracted.",
            label,
            quoted(columns, 10),
        )
    if report.fewest_voxels is not None and report.fewest_voxels < FEW_VOXELS:
        logger.warning(
            "%s: a mean and a std were computed from only %d voxels; check the mask and the volumes.",
            label,
            report.fewest_voxels,
        )
    return data


def _read_volume(path: Path, label: str, plan: SubjectPlan, *, peaks: bool = False) -> NDArray[np.float32]:
    """Read the voxels of one file, shape (X, Y, Z, F); NaN, infinite values and another grid are refused.

    A peak whose three values are NaN is zero: this is how MRtrix marks a missing one.
    """
    image = open_image(path, label)
    # Hours may lie between the check of the header and this.
    if plan.grid.difference(Grid.from_header(image.affine, image.shape[:3], path)):
        raise ValueError(f"{label}: '{path}' has changed since its header was checked; run the same again.")
    with readable(path, label):
        values: NDArray[np.float32] = read_voxels(image, label, dtype=np.float32)
    if peaks:
        vectors = values.reshape(*values.shape[:3], -1, 3)
        values = np.where(np.isnan(vectors).all(axis=-1, keepdims=True), 0, vectors).reshape(values.shape)
    # The minimum and the maximum of values with NaN are NaN.
    if not (np.isfinite(values.min(initial=0)) and np.isfinite(values.max(initial=0))):
        hint = "fix the file"
        if not peaks and values.ndim == 4 and values.shape[-1] % 3 == 0:
            missing = np.isnan(values.reshape(*values.shape[:3], -1, 3))
            if (missing.all(axis=-1) == missing.any(axis=-1)).all() and not np.isinf(values).any():
                hint += (
                    ", or, if these are the missing peaks of MRtrix, state 'directions' of kind 'peaks' in the config"
                )
        raise ValueError(
            f"{label}: '{path}' holds {np.count_nonzero(~np.isfinite(values))} NaN or infinite values; {hint}."
        )
    return values if values.ndim == 4 else values[..., None]


def mask_with_warning(values: NDArray[Any], name: str, *, threshold: float = DEFAULT_THRESHOLD) -> Mask:
    """Return a mask with :func:`dwiml.ops.masks.as_mask`, and log a warning if its values are not 0 and 1.

    Parameters
    ----------
    values
        Shape (X, Y, Z), any numeric dtype.
    name
        Description of the mask, for messages.
    threshold
        Threshold applied to a probability map.

    Raises
    ------
    ValueError
        If the values are not those of a mask.
    """
    mask = as_mask(values, name, threshold=threshold)
    if mask.note:
        logger.warning("%s", mask.note)
    return mask


def _read_mask(plan: SubjectPlan, group: str, label: str) -> NDArray[np.bool_] | None:
    """Return the union of the masks of a group, shape (X, Y, Z); None if there are no masks."""
    paths = plan.masks[group]
    if not paths:
        return None
    masks = [
        mask_with_warning(_read_volume(path, label, plan)[..., 0], f"{label}: the mask '{path}'") for path in paths
    ]
    union: NDArray[np.bool_] = np.logical_or.reduce([mask.inside for mask in masks])
    return union


def _names(volumes: dict[str, list[Path]], masks: dict[str, list[Path]], group: str) -> str:
    return quoted([*volumes[group], *masks[group]], 5)
