"""Take the few needed files out of the source distribution of the Python package tractseg 2.10."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = "tractseg-2.10"
SHA256 = "cb7c4e064922f42be8c7b42f98a3469118dfc55c9cf46e133b7274289dccbd7e"
# Name under which a file is unpacked: its place in the archive.
NEEDED = {
    "dwi.nii.gz": "examples/Diffusion.nii.gz",
    "dwi.bval": "examples/Diffusion.bvals",
    "dwi.bvec": "examples/Diffusion.bvecs",
    "brain_mask.nii.gz": "tests/reference_files/nodif_brain_mask.nii.gz",
    "reference_fa.nii.gz": "tests/reference_files/FA.nii.gz",
    "reference_peaks.nii.gz": "tests/reference_files/peaks.nii.gz",
}


def check_sha256(path: Path, expected: str = SHA256) -> None:
    """Make sure that a file is the very one that is meant.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If its sha256 differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Archive {path} not found.")
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{path} has sha256 {digest.hexdigest()}, expected {expected}: "
            "it is damaged or another file; fetch it again."
        )


def unpack(archive: Path, target: Path, *, folder: str = FOLDER, needed: Mapping[str, str] = NEEDED) -> dict[str, Path]:
    """Copy the needed members into a folder, and nothing else.

    An archive from elsewhere may hold links or names that lead out of the folder. Here only regular files are read, and
    each is written under a name that this program chose.

    Parameters
    ----------
    archive
        A tar file, compressed or not.
    target
        An existing folder.
    folder
        The folder of the archive below which the members lie.
    needed
        Name under which a file is written: its place below ``folder``.

    Returns
    -------
    dict
        The path of each file, by the name it was written under.

    Raises
    ------
    ValueError
        If a member is missing or is not a regular file, or the archive cannot be read.
    """
    paths = {}
    try:
        with tarfile.open(archive) as tar:
            members = {member.name: member for member in tar.getmembers()}
            for name, place in needed.items():
                member = members.get(f"{folder}/{place}")
                if member is None or not member.isreg():
                    raise ValueError(f"{archive} has no regular file {folder}/{place}.")
                source = tar.extractfile(member)
                assert source is not None  # It is one for regular files.
                paths[name] = target / name
                with source, paths[name].open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} cannot be read as a tar archive ({error}); fetch it again.") from error
    return paths
