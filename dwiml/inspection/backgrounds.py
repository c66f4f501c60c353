"""The image behind streamlines: a file, or a volume group of a subject in an HDF5 file."""

from __future__ import annotations

import re
from pathlib import Path

from dwiml.arguments import quoted
from dwiml.data.volumes import SubjectVolume
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import groups_of_type, subject_lists
from dwiml.inspection.subject_figures import distance_from_background
from dwiml.viz.slices import Background

_GROUP = re.compile(r"(?P<file>.+\.(?:hdf5|h5)):(?P<subject>[^/]+)/(?P<group>[^/]+)", re.DOTALL | re.IGNORECASE)


def image_file(name: str) -> Path:
    """Return the file of an image, or of ``FILE.hdf5:SUBJECT/GROUP``."""
    found = _GROUP.fullmatch(name)
    return Path(found["file"]) if found is not None else Path(name)


def background_from(name: str, volume: int | None = None) -> Background:
    """Read the image behind streamlines.

    Parameters
    ----------
    name
        A NIfTI image, or a volume group of an HDF5 file, as ``FILE.hdf5:SUBJECT/GROUP``.
    volume
        Index of the volume or of the feature, from 0. None: the first volume of an image; of a group with several
        features, how far each voxel is from the background
        (:func:`dwiml.inspection.subject_figures.distance_from_background`).

    Raises
    ------
    FileNotFoundError, OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or has no such subject, group or volume.
    """
    found = _GROUP.fullmatch(name)
    if found is None:
        return Background.from_file(name, volume)
    with open_hdf5(found["file"]) as file:
        known = [each for listed in subject_lists(file).values() for each in listed]
        if found["subject"] not in known:
            raise ValueError(f"Subject '{found['subject']}' not found in '{file.path}'; it has: {quoted(known, 20)}.")
        subject = file.root.group(found["subject"])
        groups = groups_of_type(subject, schema.TYPE_VOLUME)
        if found["group"] not in groups:
            raise ValueError(
                f"Volume group '{found['group']}' of subject '{subject.name}' not found in '{file.path}'; it has: "
                f"{quoted(groups)}."
            )
        image = SubjectVolume(subject, found["group"], lazy=True)
        if not 0 <= (volume or 0) < image.nb_features:
            raise ValueError(f"background_volume must be from 0 to {image.nb_features - 1} in '{name}', got {volume}.")
        values = image.as_tensor().numpy()
        is_single = volume is not None or image.nb_features == 1
        shown = values[..., volume or 0].copy() if is_single else distance_from_background(values)
        return Background(shown, image.affine)
