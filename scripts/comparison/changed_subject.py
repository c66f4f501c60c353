"""Files of a changed version of a subject, and the trackers on them (``scripts/robustness.py``)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.io import read_bvals_bvecs
from numpy.typing import NDArray
from real_brain.diffusion import Acquisition, fit_fodf

from comparison.changed_images import B0_THRESHOLD, FloatArray, Images
from comparison.dipy_trackers import DipySettings, track_with_dipy
from dwiml.files import check_file
from dwiml.ops.spaces import from_vox_corner
from dwiml.phantom.simulate import to_fsl
from dwiml.phantom.tensor_maps import fractional_anisotropy, signal_harmonics
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.sources import TrackingData
from dwiml.trained.experiment import TrainedExperiment
from dwiml.trained.tracking import track
from dwiml.trained.tracking_data import input_group_of, read_images

SH, FA, MASK = "metrics/sh.nii.gz", "metrics/fa.nii.gz", "masks/wm.nii.gz"
MAX_LENGTH_MM = 250.0
# Where the response of a single fiber is looked for, around the middle of the volume.
_ROI_RADIUS_MM = 40.0

Streamlines = list[NDArray[np.float32]]


def read_images_of(subject_dir: Path) -> Images:
    """Read the diffusion images and the masks of an example subject; the head is where its SH are not all 0."""
    files = [subject_dir / name for name in ("dwi/dwi.nii.gz", MASK, SH)]
    dwi, mask, harmonics = (nib.load(check_file(path, "The file of the subject")) for path in files)
    bvals, bvecs = read_bvals_bvecs(*(str(subject_dir / "dwi" / name) for name in ("dwi.bval", "dwi.bvec")))
    return Images(
        dwi=np.asarray(dwi.dataobj, dtype=np.int16),
        bvals=bvals.astype(np.float64),
        directions=to_fsl(bvecs, dwi.affine),
        affine=dwi.affine,
        mask=np.asarray(mask.dataobj) > 0,
        in_head=(np.asarray(harmonics.dataobj) != 0).any(axis=-1),
    )


def gradients_of(images: Images) -> Any:
    """Return DIPY's gradient table, with directions along the voxel axes."""
    return gradient_table(images.bvals, bvecs=images.directions, b0_threshold=B0_THRESHOLD)


def fa_of(images: Images) -> NDArray[np.float32]:
    """Return the FA, shape (X, Y, Z), as the example subjects have it."""
    return fractional_anisotropy(images.dwi, gradients_of(images), images.in_head)


def write_version(images: Images, folder: Path) -> None:
    """Write the maps and the mask of a version of a subject, recomputed as those of the example subjects."""
    volumes = {
        SH: signal_harmonics(images.dwi, gradients_of(images), images.in_head),
        FA: fa_of(images),
        MASK: images.mask.astype(np.uint8),
    }
    for name, volume in volumes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume, images.affine), folder / name)


def read_version(trained: TrainedExperiment, folder: Path) -> tuple[TrackingData, list[str]]:
    """Read the model's input from the files of :func:`write_version`, as ``dwiml track --input`` does.

    Parameters
    ----------
    trained
        The experiment.
    folder
        The folder of the files.

    Returns
    -------
    data, warnings
        The data, and the warnings about them, with file names relative to the folder.

    Raises
    ------
    ValueError
        If the model reads other files.
    """
    config = trained.parameters.get("groups_config")
    entry = (config if isinstance(config, dict) else {}).get(input_group_of(trained.parameters, trained.path)) or {}
    images = _files_of(entry, "files", folder)
    std_mask = _files_of(entry, "std_mask", folder) if entry.get("std_mask") else []
    with _warnings() as messages:
        data = read_images(trained.path, trained.parameters, images, tracking_mask=folder / MASK, std_mask=std_mask)
    return data, [message.replace(f"{folder}/", "") for message in messages]


def track_version(
    trained: TrainedExperiment,
    data: TrackingData,
    *,
    nb_seeds: int,
    seed: int,
    theta: float,
    algo: str,
    min_length: float,
) -> Streamlines:
    """Track with a model, in both directions from random points of the mask, and return the streamlines in rasmm."""
    tractogram = track(
        trained,
        data,
        nb_seeds=nb_seeds,
        seed=seed,
        theta=theta,
        algo=algo,
        mask_interpolation="trilinear",
        min_length=min_length,
        max_length=MAX_LENGTH_MM,
    )
    return list(tractogram.streamlines)


def fodf_of(images: Images, sh_order: int) -> NDArray[np.float64]:
    """Return the fiber orientation distributions of a version, for :func:`track_version_with_dipy`."""
    acquisition = Acquisition(
        images.dwi.astype(np.float32), gradients_of(images), images.affine, images.dwi[..., 0] > 0
    )
    radius = round(_ROI_RADIUS_MM / float(images.voxel_sizes.mean()))
    return fit_fodf(acquisition, images.mask, sh_order=sh_order, roi_radius=radius)


def track_version_with_dipy(
    images: Images,
    fodf: FloatArray,
    settings: DipySettings,
    *,
    nb_seeds: int,
    seed: int,
    step_size: float,
    min_length: float,
) -> Streamlines:
    """Track with DIPY's probabilistic tracker from the points of :func:`track_version`; streamlines are in rasmm."""
    seeds = Seeds(images.mask, total=nb_seeds, seed=seed)
    starts = from_vox_corner(
        seeds.points(0, nb_seeds).numpy(),
        space="rasmm",
        origin="center",
        affine=images.affine,
        voxel_sizes=images.voxel_sizes,
    )
    lengths = {"step_size": step_size, "min_length": min_length, "max_length": MAX_LENGTH_MM}
    return track_with_dipy(
        "prob", settings, fodf, images.mask, starts.astype(np.float64), images.affine, seed=seed, **lengths
    )


def _files_of(entry: Mapping[str, Any], key: str, folder: Path) -> list[Path]:
    names = entry.get(key) or []
    found = [folder / name for name in ([names] if isinstance(names, str) else names)]
    if not found or not all(path.is_file() for path in found):
        raise ValueError(
            f"The {key} of the model's input are {names}; only {SH}, {FA} and {MASK} of each subject are recomputed. "
            "Give an experiment that was trained on these."
        )
    return found


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the warnings of dwiml, instead of printing them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("dwiml"), Collector(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
