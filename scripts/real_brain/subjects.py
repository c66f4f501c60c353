"""Write the subjects: the left hemisphere, its mirror image, a part for validation, and the right hemisphere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from dipy.io.streamline import save_tractogram
from dipy.tracking.streamline import set_number_of_points

from dwiml.curation.curating import BUNDLE_ID, VALID, curate_tractograms
from dwiml.curation.settings import CurationSettings
from dwiml.ops.randomness import keyed_generator
from real_brain.diffusion import Acquisition, fit_signal_sh
from real_brain.mirroring import mirrored, mirrored_streamlines, mirrored_volume, positions

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
Lines = Sequence[npt.NDArray[np.float32]]

END_TOLERANCE_MM = 5.0
MAX_STREAMLINES = 1200
CANDIDATES, CURATED, LABELLED = "candidates.trk", "curated.trk", "labelled.trk"
# The number that the classifier receives; otherwise, they would be resampled in every epoch, and take more space.
NB_POINTS = 32
# One streamline in this many is for validation.
_VALIDATION_SHARE = 12


def write_subjects(
    work: Path,
    brain: Acquisition,
    fa: FloatArray,
    masks: Mapping[str, BoolArray],
    candidates: Lines,
    *,
    midline: float,
    seed: int,
) -> dict[str, Any]:
    """Write the volumes and streamlines of all subjects; the true bundles of both sides must exist.

    Parameters
    ----------
    work
        The folder; subjects are written to its folder ``subjects``.
    brain
        The acquisition.
    fa : (X, Y, Z) array
        Fractional anisotropy.
    masks
        {"left", "right": white matter (X, Y, Z)}.
    candidates : sequence of (n, 3) arrays
        Streamlines of the left hemisphere, RAS mm. The valid ones are curated, that is, kept and balanced between
        bundles. All of them, with 32 points each, are the labelled streamlines from which a classifier learns which are
        valid.
    midline
        The x of the plane between the hemispheres, in RAS mm.
    seed
        Seed of the choices.

    Returns
    -------
    dict
        Figures for the report.
    """
    subjects = work / "subjects"
    left = subjects / "left"
    _write_volumes(left, brain, fa, masks["left"])
    mirror = mirrored(brain, midline)
    _write_volumes(subjects / "left_mirrored", mirror, mirrored_volume(fa), mirrored_volume(masks["left"]))
    for name, side in (("left_validation", "left"), ("right", "right")):
        _write_volumes(subjects / name, brain, fa, masks[side], like=left)
    tractograms = left / "tractograms"
    _save_trk(candidates, None, left, tractograms / CANDIDATES)
    settings = CurationSettings(max_streamlines=MAX_STREAMLINES, seed=seed)
    curated = curate_tractograms(
        [tractograms / CANDIDATES],
        tractograms / CURATED,
        bundles=left,
        end_tolerance=END_TOLERANCE_MM,
        settings=settings,
        report=left / "curation.json",
        candidates=tractograms / LABELLED,
    )
    report = left / "curation.json"
    # The folder has a temporary name until it is complete.
    report.write_text(report.read_text(encoding="utf-8").replace(f"{work}{os.sep}", ""), encoding="utf-8")
    numbers = {}
    for file, key in ((CURATED, BUNDLE_ID), (LABELLED, VALID)):
        numbers[file.removesuffix(".trk")] = _divide(subjects, file, key, midline=midline, seed=seed)
    held = numbers["curated"]["validation"]
    nb = numbers["curated"]["training"] + held
    print(f"Curated: {nb} streamlines of {len(curated.bundles)} bundles, {held} of them for validation.")
    return {"streamlines": numbers}


def _divide(subjects: Path, file: str, key: str, *, midline: float, seed: int) -> dict[str, int]:
    """Divide the streamlines of a file into those for training, which are mirrored too, and those for validation."""
    path = subjects / "left" / "tractograms" / file
    tractogram = nib.streamlines.load(path).tractogram
    lines = [np.asarray(line, dtype=np.float32) for line in tractogram.streamlines]
    values = np.asarray(tractogram.data_per_streamline[key], dtype=np.float32)
    if key == VALID:
        lines = set_number_of_points(lines, NB_POINTS)
    order = keyed_generator(seed, "validation").permutation(len(lines))
    held, kept = np.split(order, [len(lines) // _VALIDATION_SHARE])
    for name, chosen in (("left", kept), ("left_mirrored", kept), ("left_validation", held)):
        part = [lines[i] for i in chosen]
        if name == "left_mirrored":
            part = mirrored_streamlines(part, midline)
        _save_trk(part, {key: values[chosen]}, subjects / name, subjects / name / "tractograms" / file)
    return {"training": len(kept), "validation": len(held)}


def _write_volumes(
    folder: Path, brain: Acquisition, fa: FloatArray, mask: BoolArray, *, like: Path | None = None
) -> None:
    """Write the volumes of a subject; those of the whole brain are copied from another one if it is given."""
    for name in ("metrics", "masks", "tractograms"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), brain.affine), folder / "masks" / "wm.nii.gz")
    if like is not None:
        for path in (like / "metrics").iterdir():
            shutil.copyfile(path, folder / "metrics" / path.name)
        return
    volumes = {
        "sh": fit_signal_sh(brain),
        "positions": positions(brain.mask.shape, brain.affine),
        "fa": np.asarray(fa, dtype=np.float32),
    }
    for name, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, brain.affine), folder / "metrics" / f"{name}.nii.gz")


def _save_trk(lines: Lines, data: dict[str, npt.NDArray[np.float32]] | None, subject: Path, path: Path) -> None:
    reference = str(subject / "masks" / "wm.nii.gz")
    tractogram = StatefulTractogram(list(lines), reference, Space.RASMM, origin=Origin.NIFTI, data_per_streamline=data)
    save_tractogram(tractogram, str(path))
