"""Open images with nibabel; each error is one sentence that names the file and the reason."""

from __future__ import annotations

import logging
import math
import os
import struct
import tokenize
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer import MGHImage
from nibabel.spatialimages import HeaderDataError
from nibabel.streamlines.tractogram_file import DataError, HeaderError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from dwiml.files.opening import DEFLATE_ERRORS, check_file, explained, open_gzip, open_regular
from dwiml.files.sizes import check_memory

logger = logging.getLogger(__name__)

_PARTNERS = {".hdr": ".img", ".img": ".hdr", ".HDR": ".IMG", ".IMG": ".HDR"}
# Of the field xyzt_units of NIfTI.
_OTHER_UNITS = {1: "meters", 3: "micrometers"}
# Size of a header and its extensions.
_MAX_HEADER_BYTES = 2**26
# Bytes decompressed at once, volumes held until they are copied, and slices of them copied at once.
_SLAB, _NB_VOLUMES, _NB_SLICES = 2**20, 16, 4
# Compression ratio of zeros (RFC 1951: 258 bytes in 2 bits).
_MAX_GZIP_RATIO = 1032
# How to convert the formats of other tools; {0} is the file, {1} the file without its extension.
_CONVERSIONS = {
    ".mif": "an MRtrix image, which nibabel does not read; run 'mrconvert {0} {1}.nii.gz' and give the NIfTI file",
    ".mih": "an MRtrix image, which nibabel does not read; run 'mrconvert {0} {1}.nii.gz' and give the NIfTI file",
    ".nrrd": "an NRRD image, which nibabel does not read; convert it to NIfTI, for instance with 3D Slicer",
    ".nhdr": "an NRRD image, which nibabel does not read; convert it to NIfTI, for instance with 3D Slicer",
    ".mha": "a MetaImage, which nibabel does not read; convert it to NIfTI, for instance with 3D Slicer",
    ".mhd": "a MetaImage, which nibabel does not read; convert it to NIfTI, for instance with 3D Slicer",
    ".mnc": "a MINC image, which dwiml does not read; run 'mnc2nii {0} {1}.nii' and give the NIfTI file",
    ".dcm": "a DICOM file; convert its folder to NIfTI with 'dcm2niix', and give the NIfTI file",
}
# Raised by nibabel and by the readers of other formats for damaged files.
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
    # Raised for the header of a .npy file.
    tokenize.TokenError,
    *DEFLATE_ERRORS,
    zipfile.BadZipFile,
)


def partner_of(path: Path) -> Path | None:
    """Return the name of the other file of an image of two files, ``.hdr`` and ``.img``; None for other images."""
    suffix = _PARTNERS.get(path.suffix)
    return None if suffix is None else path.with_suffix(suffix)


def open_image(path: Path, label: str) -> Any:
    """Open an image in any format that nibabel reads, without reading its voxels.

    The size announced in the header must fit in the file and in the memory.

    Parameters
    ----------
    path
        The image.
    label
        Beginning of error messages.

    Returns
    -------
    nibabel.spatialimages.SpatialImage
        The image; its affine maps voxel indices (origin at the center of the first voxel) to rasmm.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, OSError
        If the file is missing or cannot be opened.
    ValueError
        If it is damaged, is not an image, is in a format that nibabel does not read, or is too large.
    """
    # Checked first, because nibabel reports a file without read permission as one of an unknown format.
    with open_regular(path, f"{label}: the file"):
        pass
    _refuse_other_formats(path, label)
    # The readers of nibabel's many formats raise errors of many classes.
    with explained(path, f"{label}: the file", errors=(Exception,)):
        try:
            image = nib.load(path)
        except ImageFileError as error:
            if "Cannot work out file type" not in str(error):
                raise
            image = None
        is_image = hasattr(image, "affine") and hasattr(image, "dataobj")
        if is_image:
            _check_announced_size(image)
    if is_image:
        _check_units(image, path, label)
        return image
    raise ValueError(
        f"{label}: the file '{path}' is not an image in a format that nibabel reads, or is damaged; give a NIfTI file, "
        "or copy it again."
    )


def _refuse_other_formats(path: Path, label: str) -> None:
    """Refuse an image of another tool by its extension, and say how to convert it."""
    stem = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    what = _CONVERSIONS.get(stem.suffix.lower())
    if what is not None:
        raise ValueError(f"{label}: the file '{path}' is {what.format(path.name, stem.stem)}.")


def open_numbers(path: Path, label: str) -> Any:
    """Open an image of real numbers, of shape (X, Y, Z) or (X, Y, Z, F), without reading its voxels.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, OSError, ValueError
        See :func:`open_image`; also if it has another shape or dtype.
    """
    image = open_image(path, label)
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) not in (3, 4) or 0 in shape or dtype.kind not in "biuf":
        raise ValueError(
            f"{label} '{path}' has shape {shape} and {dtype} values; it must have 3 or 4 axes and real numbers."
        )
    return image


def read_nb_features(path: str | Path) -> int:
    """Return the number of features of an image, that is, the size of its fourth axis, without reading its voxels.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged or not an image.
    """
    image = open_image(check_file(path, "The image"), "The image")
    return int(image.shape[3]) if len(image.shape) > 3 else 1


def read_voxels(image: Any, label: str, *, dtype: Any = None, volume: int | None = None) -> NDArray[Any]:
    """Read the voxels of an image, and its files to their end, where gzip stores a checksum (RFC 1952).

    Reading the voxels alone does not reach it. If a NIfTI file has bytes after its voxels, a warning is logged, since
    its header may announce too few voxels.

    Parameters
    ----------
    image
        An image of nibabel, as opened.
    label
        What the image is, for the warning.
    dtype
        Dtype of the result; None for that of the file, or float64 if its header scales the values.
    volume
        Read one volume (X, Y, Z) of an image with four axes; None for all.

    Returns
    -------
    array of the shape of the image, or of a volume
        Its values, scaled as its header says.

    Raises
    ------
    OSError, EOFError, zlib.error, isal.isal_zlib.error
        If a file is damaged; see :func:`readable`.
    ValueError
        If a file continues long after the voxels; it might never end.
    """
    sizes = {}
    if isinstance(image, nib.Nifti1Image) and _is_gzip(image.file_map["image"].filename):
        # In one pass, and not by nibabel's own decompression, which is slower.
        voxels = image.dataobj
        with open_gzip(image.file_map["image"].filename) as stream:
            if volume is None and len(image.shape) in (3, 4) and (voxels.slope, voxels.inter) == (1, 0):
                values = _stored_values(stream, voxels, dtype)
            else:
                spec = (voxels.shape, voxels.dtype, voxels.offset, voxels.slope, voxels.inter)
                values = _values(type(voxels)(stream, spec), dtype, volume)
            sizes["image"] = _size_to_end(stream, _most_bytes(image))
    else:
        values = _values(image.dataobj, dtype, volume)
        for name, part in image.file_map.items():
            if _is_gzip(part.filename):
                with open_gzip(part.filename) as stream:
                    sizes[name] = _size_to_end(stream, _most_bytes(image))
            elif part.filename:
                sizes[name] = os.stat(part.filename).st_size
    if isinstance(image, nib.Nifti1Pair) and "image" in sizes:
        excess = sizes["image"] - _nb_announced(image) - int(getattr(image.dataobj, "offset", 0))
        if excess > 0:
            logger.warning(
                "%s: '%s' holds %d bytes after the voxels that its header announces; check the header.",
                *(label, image.file_map["image"].filename, excess),
            )
    return values


def _values(voxels: Any, dtype: Any, volume: int | None) -> NDArray[Any]:
    return np.asarray(voxels if volume is None else voxels[..., volume], dtype=dtype)


def _stored_values(stream: IO[bytes], voxels: Any, dtype: Any) -> NDArray[Any]:
    """Read the values of a NIfTI image without scaling them, shape (X, Y, Z) or (X, Y, Z, F), in C order.

    A few volumes are read at once, and copied: nibabel would need memory for all of them a second time.
    """
    shape = voxels.shape if len(voxels.shape) == 4 else (*voxels.shape, 1)
    values: NDArray[Any] = np.empty(shape, voxels.dtype if dtype is None else dtype)
    stream.seek(voxels.offset)
    nb_voxels, nb_features = math.prod(shape[:3]), shape[3]
    block: NDArray[Any] = np.empty(nb_voxels * min(_NB_VOLUMES, nb_features), voxels.dtype)
    for first in range(0, nb_features, _NB_VOLUMES):
        nb = min(_NB_VOLUMES, nb_features - first)
        part = block[: nb_voxels * nb]
        nb_read = _fill(part.view(np.uint8).data, stream)
        if nb_read < part.nbytes:
            nb_read += first * nb_voxels * part.itemsize
            nb_bytes = math.prod(shape) * part.itemsize
            raise EOFError(f"it ends after {nb_read} of the {nb_bytes} bytes of voxels that its header announces")
        copy_volumes(values[..., first : first + nb], part.reshape((*shape[:3], nb), order="F"))
    return values.reshape(voxels.shape)


def _fill(buffer: memoryview, stream: IO[bytes]) -> int:
    """Read until a buffer is full or the stream ends; return the number of bytes."""
    nb_read = 0
    while nb_read < len(buffer):
        nb = stream.readinto(buffer[nb_read : nb_read + _SLAB])  # type: ignore[attr-defined]
        if not nb:
            break
        nb_read += nb
    return nb_read


def copy_volumes(out: NDArray[Any], volumes: NDArray[Any]) -> None:
    """Copy volumes (X, Y, Z, F) that have x first and features last in memory, as in a NIfTI file, to C order.

    Blocks that fit in the cache, read in the order of the file, make this several times faster.
    """
    for z in range(0, volumes.shape[2], _NB_SLICES):
        for y in range(volumes.shape[1]):
            out[:, y, z : z + _NB_SLICES] = np.ascontiguousarray(volumes[:, y, z : z + _NB_SLICES].T).T


def _is_gzip(name: str | os.PathLike[str] | None) -> bool:
    return name is not None and os.fspath(name).lower().endswith((".gz", ".mgz"))


def _nb_announced(image: Any) -> int:
    return int(math.prod(image.shape) * image.get_data_dtype().itemsize)


def _most_bytes(image: Any) -> int:
    return _nb_announced(image) + _MAX_HEADER_BYTES


def readable(path: Path, label: str) -> AbstractContextManager[None]:
    """Convert any error of reading an image or a tractogram to one sentence that names the file and the reason."""
    return explained(path, f"{label}: the file", errors=_READ_ERRORS)


def _check_units(image: Any, path: Path, label: str) -> None:
    """Refuse a NIfTI image whose header gives sizes in another unit than mm."""
    code = int(image.header["xyzt_units"]) % 8 if isinstance(image, nib.Nifti1Pair) else 0
    if code in _OTHER_UNITS:
        raise ValueError(
            f"{label}: the header of '{path}' gives its sizes in {_OTHER_UNITS[code]}, and dwiml needs mm; correct its "
            "affine and its units (xyzt_units)."
        )


def _check_announced_size(image: Any) -> None:
    """Check that the file can hold the voxels that its header announces, before memory is allocated for them."""
    nb_voxels = math.prod(int(size) for size in image.shape)
    announced = nb_voxels * image.get_data_dtype().itemsize
    voxels = image.file_map.get("image")
    if isinstance(image, AnalyzeImage | MGHImage) and voxels is not None and voxels.filename is not None:
        size = Path(voxels.filename).stat().st_size
        if str(voxels.filename).lower().endswith((".gz", ".mgz")):
            size *= _MAX_GZIP_RATIO
        elif str(voxels.filename).lower().endswith((".bz2", ".zst")):
            size = announced
        if announced > size:
            raise ValueError(f"its header announces {announced / 1e6:.3g} MB of voxels, more than the file can hold")
    check_memory(4 * nb_voxels, "its voxels")


def _size_to_end(stream: IO[bytes], most: int) -> int:
    """Read a stream from its position to its end, and return its size."""
    while stream.read(_SLAB):
        if stream.tell() > most:
            raise ValueError("it continues long after the voxels that its header announces")
    return int(stream.tell())
