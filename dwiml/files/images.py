"""Images, opened by nibabel in one place: whatever fails is told in one sentence, with its reason."""

from __future__ import annotations

import gzip
import logging
import math
import os
import struct
import tokenize
import zipfile
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.analyze import AnalyzeImage
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer import MGHImage
from nibabel.spatialimages import HeaderDataError
from nibabel.streamlines.tractogram_file import DataError, HeaderError
from nibabel.wrapstruct import WrapStructError

from dwiml.files.opening import check_file, explained, open_regular
from dwiml.files.sizes import check_memory

logger = logging.getLogger(__name__)

# Headers and their extensions.
_MOST_BESIDE_VOXELS = 2**26
# What gzip makes of zeros.
_LARGEST_GZIP_RATIO = 1032
# Raised on damaged files by nibabel, beside its own errors, and by the readers of other formats.
_READ_ERRORS = (
    ImageFileError,
    HeaderDataError,
    HeaderError,
    DataError,
    WrapStructError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OSError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    struct.error,
    # Of the header of a .npy.
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)


def open_image(path: Path, label: str) -> Any:
    """Open an image, its voxels unread; what its header announces must fit in its file, and in the memory.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, OSError
        When it is missing, or the system refuses it.
    ValueError
        When it is damaged, no image, or too large.
    """
    # nibabel tries one format after the other, and calls a file that it may not open one of an unknown format.
    with open_regular(path, f"{label}: the file"):
        pass
    with readable(path, label):
        try:
            image = nib.load(path)
        except ImageFileError as error:
            if "Cannot work out file type" not in str(error):
                raise
            image = None
        if hasattr(image, "affine") and hasattr(image, "dataobj"):
            _check_announced_size(image)
            return image
    raise ValueError(
        f"{label}: the file '{path}' is not an image that nibabel reads, or is damaged; give a NIfTI "
        "file, or copy it again."
    )


def open_numbers(path: Path, label: str) -> Any:
    """Open an image of 3 or 4 axes of real numbers, its voxels unread.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, OSError, ValueError
        As :func:`open_image`; also when it is of another shape or type.
    """
    image = open_image(path, label)
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) not in (3, 4) or 0 in shape or dtype.kind not in "biuf":
        raise ValueError(
            f"{label} '{path}' has shape {shape} and {dtype} values; 3 or 4 axes of real numbers are expected."
        )
    return image


def read_nb_features(path: str | Path) -> int:
    """Return the number of features of an image, the size of its fourth axis; its voxels are not read.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing, damaged or not an image.
    """
    image = open_image(check_file(path, "The image"), "The image")
    return int(image.shape[3]) if len(image.shape) > 3 else 1


def check_image_end(image: Any, label: str) -> None:
    """Read the .gz files of an image to their end: the checksum stands there, where reading the voxels does not come.

    Bytes after the voxels of a NIfTI file give a warning: its header may announce too few voxels.

    Raises
    ------
    OSError, EOFError, zlib.error
        When one is damaged.
    ValueError
        When one continues long after the voxels: it may never end.
    """
    announced = math.prod(image.shape) * image.get_data_dtype().itemsize
    for name, part in image.file_map.items():
        if not part.filename:
            continue
        if os.fspath(part.filename).lower().endswith((".gz", ".mgz")):
            size = _unpacked_size(part.filename, announced + _MOST_BESIDE_VOXELS)
        else:
            size = os.stat(part.filename).st_size
        if name == "image" and isinstance(image, nib.Nifti1Pair):
            beside = size - announced - int(getattr(image.dataobj, "offset", 0))
            if beside > 0:
                logger.warning(
                    "%s: '%s' holds %d bytes after the voxels that its header announces; is the header right?",
                    *(label, part.filename, beside),
                )


def readable(path: Path, label: str) -> AbstractContextManager[None]:
    """Turn any failure to read an image or a tractogram into one sentence that names it, with the true reason."""
    return explained(path, f"{label}: the file", errors=_READ_ERRORS)


def _check_announced_size(image: Any) -> None:
    """Check that the voxels that a header announces can be in the file, before room is made for them."""
    nb_voxels = math.prod(int(size) for size in image.shape)
    announced = nb_voxels * image.get_data_dtype().itemsize
    voxels = image.file_map.get("image")
    if isinstance(image, AnalyzeImage | MGHImage) and voxels is not None and voxels.filename is not None:
        size = Path(voxels.filename).stat().st_size
        if str(voxels.filename).lower().endswith((".gz", ".mgz")):
            size *= _LARGEST_GZIP_RATIO
        elif str(voxels.filename).lower().endswith((".bz2", ".zst")):
            size = announced
        if announced > size:
            raise ValueError(f"its header announces {announced / 1e6:,.3g} MB of voxels, more than the file can hold")
    check_memory(4 * nb_voxels, "its voxels")


def _unpacked_size(path: str | os.PathLike[str], most: int) -> int:
    total = 0
    with gzip.open(path) as stream:
        while size := len(stream.read(2**20)):
            total += size
            if total > most:
                raise ValueError("it continues long after the voxels that its header announces")
    return total
