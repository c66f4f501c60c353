"""The mask of a subject in a volume group of an HDF5 file."""

from __future__ import annotations

from dwiml.data.dataset import SubjectData, not_loaded
from dwiml.ops.masks import Mask, as_mask


def mask_of_group(subject: SubjectData, group: str, input_group: str, *, parameter: str, threshold: float) -> Mask:
    """Return the mask of a subject: a volume group of one feature, on the grid of the model's input.

    Parameters
    ----------
    subject
        The subject, with both groups loaded.
    group, input_group
        Volume groups of the mask and of the model's input.
    parameter
        Name of the parameter that chose the mask, for error messages.
    threshold
        For probability maps: see :func:`dwiml.ops.masks.as_mask`.

    Returns
    -------
    Mask
        The mask, of shape (X, Y, Z).

    Raises
    ------
    ValueError
        If the group was not loaded, has several features, is on another grid, or is not a mask.
    """
    what = f"Volume group '{group}' ({parameter})"
    if group not in subject.volumes:
        raise not_loaded(what)
    volume = subject.volumes[group]
    if volume.nb_features != 1:
        raise ValueError(f"{what} has {volume.nb_features} features; a mask has one.")
    difference = subject.volumes[input_group].grid.difference(volume.grid)
    if difference:
        raise ValueError(
            f"Subject '{subject.subject_id}': volume groups '{input_group}' and '{group}' ({parameter}) have "
            f"{difference}; recreate the HDF5 file."
        )
    return as_mask(volume.as_tensor()[..., 0].numpy(), f"{what} of subject '{subject.subject_id}'", threshold=threshold)
