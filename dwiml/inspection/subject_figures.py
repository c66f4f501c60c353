"""Draw the streamlines of the subjects of an HDF5 file over slices of a volume, to see whether both are aligned."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from dwiml.data.streamlines import SubjectStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import StoredFile, StoredGroup, open_hdf5
from dwiml.hdf5.stored.layout import groups_of_type, subject_lists
from dwiml.ops.spaces import from_vox_corner
from dwiml.tractograms.tractogram import evenly
from dwiml.viz.figure_file import save_figure
from dwiml.viz.pieces import DrawnTractogram
from dwiml.viz.slices import VIEWS, Background
from dwiml.viz.tractograms import plot_tractograms

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

_DPI = 110
_MAX_STREAMLINES = 2000
# Half the thickness of the slab in which streamlines are drawn, in mm; at least a voxel.
_HALF_SLAB_MM = 2.0
# Size of the cells that are counted to choose the slices, in mm.
_CELL_MM = 2.0
_NB_LEVELS = 64
# Voxels below this fraction of the largest value are background.
_BACKGROUND = 0.02
# Percentiles of the tissue that are dark gray and white, and the gray level of the former as a fraction of
# their difference.
_TISSUE = (10.0, 99.0)
_DARK_GRAY = 0.4


def figure_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the figures of an HDF5 file, one for each subject.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If the file cannot be opened, or its list of subjects is damaged.
    """
    with open_hdf5(path) as file:
        return [_figure_name(name) for names in subject_lists(file).values() for name in names]


def save_subject_figures(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], on_subject: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Save a figure of each subject (:func:`plot_subject`) as ``SUBJECT.png``; existing figures are replaced.

    Parameters
    ----------
    path
        The HDF5 file.
    folder
        Folder of the figures, created if it is missing.
    on_subject
        Called with (number of subjects done, total number), first with (0, total).

    Returns
    -------
    list of Path
        The figures. A subject that is damaged, or has no volume or no streamlines, is left out with a warning.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If the file cannot be opened, or a figure cannot be written.
    """
    written: list[Path] = []
    report_progress = on_subject or (lambda done, total: None)
    with open_hdf5(path) as file:
        names = [name for listed in subject_lists(file).values() for name in listed]
        report_progress(0, len(names))
        for done, name in enumerate(names, 1):
            try:
                figure = plot_subject(file, name)
            except ValueError as error:
                logger.warning("No figure of subject '%s': %s", name, error)
            else:
                written.append(Path(folder) / _figure_name(name))
                save_figure(figure, written[-1], dpi=_DPI)
            report_progress(done, len(names))
    return written


def plot_subject(file: StoredFile, name: str) -> Figure:
    """Draw the streamlines of a subject over three slices of its most detailed volume, in rasmm space.

    Each slice is where the streamlines cover the largest area, and only the points within 2 mm of it (or a voxel, if
    that is larger) are drawn. There is a row of panels for each streamlines group.

    Parameters
    ----------
    file
        The HDF5 file.
    name
        The subject.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the subject is damaged, or has no volume or no streamlines.
    """
    subject = file.root.group(name)
    volumes = [SubjectVolume(subject, group, lazy=True) for group in groups_of_type(subject, schema.TYPE_VOLUME)]
    if not volumes:
        raise ValueError("it has no volume.")
    group, background = _choose_background(dict(zip(groups_of_type(subject, schema.TYPE_VOLUME), volumes, strict=True)))
    drawn = [
        tractogram
        for each in groups_of_type(subject, schema.TYPE_STREAMLINES)
        if len((tractogram := _drawn(subject, each)).points)
    ]
    if not drawn:
        raise ValueError("it has no streamlines.")
    thickness = max(_HALF_SLAB_MM, float(volumes[0].voxel_sizes.max()))
    points = np.concatenate([tractogram.points for tractogram in drawn])
    grid = volumes[0].grid
    sizes = " x ".join(f"{size:.3g}" for size in volumes[0].voxel_sizes)
    return plot_tractograms(
        drawn,
        background=background,
        slices_mm=[_best_slice(points, view.across, background, thickness) for view in VIEWS.values()],
        thickness=round(thickness, 2),
        separate=True,
        title=f"{name}: streamlines over the volume '{group}' (voxels of {sizes} mm, order {grid.voxel_order})",
    )


def _figure_name(subject: str) -> str:
    return f"{subject}.png"


def _choose_background(volumes: Mapping[str, SubjectVolume]) -> tuple[str, Background]:
    """Return the name and the image of the group with the most gray levels; of two, that with fewer features.

    A mask has two levels, a map of anisotropy or a T1 image has many.
    """
    images = {group: distance_from_background(volume.as_tensor().numpy()) for group, volume in volumes.items()}
    best = max(images, key=lambda group: (_nb_levels(images[group]), -volumes[group].nb_features))
    return best, Background(_with_contrast(images[best]), volumes[best].affine)


def distance_from_background(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return one image of several features: how far each voxel is from the background.

    The background is the value of the corners (their median), which is not 0 in a standardized volume. For one feature
    that is 0 outside the brain, this is the absolute value; for peaks or spherical harmonics, their norm.

    Parameters
    ----------
    values
        Shape (X, Y, Z, F), float32.

    Returns
    -------
    array of shape (X, Y, Z), float32
        The root mean square, over features, of the difference from the background.
    """
    corners = values[:: max(values.shape[0] - 1, 1), :: max(values.shape[1] - 1, 1), :: max(values.shape[2] - 1, 1)]
    background = np.median(corners.reshape(-1, values.shape[-1]), axis=0)
    image = np.empty(values.shape[:3], dtype=np.float32)
    for x, slab in enumerate(values):
        image[x] = np.sqrt(np.mean(np.square(slab - background, dtype=np.float64), axis=-1))
    return image


def _with_contrast(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return an image of gray levels from 0 to 1, in which the background is black and most tissue is dark gray.

    The brightest voxels, often the white matter, are then recognized under the streamlines.
    """
    tissue = image[image > image.max() * _BACKGROUND]
    if not len(tissue):
        return image
    dark, bright = np.percentile(tissue, _TISSUE)
    black = max(dark - _DARK_GRAY * (bright - dark), 0.0)
    levels: npt.NDArray[np.float32] = np.clip((image - black) / max(bright - black, 1e-30), 0, 1).astype(np.float32)
    return levels


def _nb_levels(image: npt.NDArray[np.float32]) -> int:
    """Return how many of 64 equal ranges of values have voxels."""
    return int(np.count_nonzero(np.histogram(image, bins=_NB_LEVELS)[0]))


def _drawn(subject: StoredGroup, group: str) -> DrawnTractogram:
    streamlines = SubjectStreamlines(subject, group, lazy=True)
    in_voxels, lengths = streamlines.gather(evenly(len(streamlines), _MAX_STREAMLINES))
    points = from_vox_corner(
        in_voxels, space="rasmm", origin="center", affine=streamlines.affine, voxel_sizes=streamlines.voxel_sizes
    )
    return DrawnTractogram(group, points, lengths, nb_in_file=len(streamlines))


def _best_slice(points: npt.NDArray[np.float32], axis: int, background: Background, half: float) -> float:
    """Return the coordinate (mm) of the slice in which streamlines cover the largest area.

    Parameters
    ----------
    points
        Shape (N, 3), rasmm.
    axis
        The axis perpendicular to the slice.
    background
        The image; the slice is within it.
    half
        Half the thickness of the slab, mm.
    """
    low, high = (float(end[axis]) for end in background.box())
    positions = np.arange(low + half, high - half, half) if high - low > 3 * half else np.array([(low + high) / 2])
    across = points[:, axis].astype(np.float64)
    cells = np.floor(np.delete(points, axis, axis=1) / _CELL_MM).astype(np.int64)
    areas = [len(np.unique(cells[np.abs(across - position) <= half], axis=0)) for position in positions]
    return float(positions[int(np.argmax(areas))])
