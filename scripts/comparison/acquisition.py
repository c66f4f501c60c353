"""The diffusion images of a subject, for dipy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from real_brain.archive import check_sha256, unpack
from real_brain.diffusion import Acquisition, read_acquisition


def read_acquisition_of(
    subject_dir: Path, archive: Path | None, temporary: Path, *, dwi: Path | None = None
) -> Acquisition:
    """Read the diffusion images of an example subject, or of the real brain.

    Parameters
    ----------
    subject_dir
        The subject's folder, with ``masks/wm.nii.gz``.
    archive
        tractseg-2.10.tar.gz for the real brain; None to read ``dwi.nii.gz``, ``dwi.bval`` and ``dwi.bvec``.
    temporary
        Folder into which images of the archive are unpacked.
    dwi
        Folder of the images without an archive; None for ``dwi`` in the subject's folder.

    Returns
    -------
    Acquisition
        Its mask is where there is signal: tracking interpolates beyond the white matter.
    """
    names = ("dwi.nii.gz", "dwi.bval", "dwi.bvec")
    if archive:
        check_sha256(archive)
        paths = unpack(archive, temporary)
        image, bval, bvec = (paths[name] for name in names)
    else:
        image, bval, bvec = ((dwi or subject_dir / "dwi") / name for name in names)
    acquisition = read_acquisition(image, bval, bvec, subject_dir / "masks" / "wm.nii.gz")
    return dataclasses.replace(acquisition, mask=acquisition.data[..., 0] > 0)
