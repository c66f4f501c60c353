"""Voxels of images, read as nibabel reads them; damaged files are one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dwiml.files import images
from dwiml.files.images import open_image, read_voxels, readable
from dwiml.files.opening import open_gzip

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def _write(path: Path, dtype: str, *, slope: float | None = None, shape: tuple[int, ...] = (5, 4, 3, 2)) -> Path:
    rng = np.random.default_rng(3)
    stored = (rng.integers(-50, 50, shape) if slope is None else rng.normal(size=shape)).astype(dtype)
    image = nib.Nifti1Image(stored.astype(stored.dtype.newbyteorder("=")), AFFINE)
    image = type(image)(image.dataobj, AFFINE, nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<"))
    image.header.set_data_dtype(np.int16 if slope is not None else dtype)
    if slope is not None:
        image.header.set_slope_inter(slope, 0.25)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "slope"),
    [("<f4", None), (">f4", None), ("<i2", None), (">i2", None), ("u1", None), ("<f8", None), ("<f4", 0.01)],
)
def test_the_values_are_those_of_nibabel(tmp_path: Path, suffix: str, dtype: str, slope: float | None) -> None:
    path = _write(tmp_path / f"image{suffix}", dtype, slope=slope)
    expected = np.asarray(nib.load(path).dataobj)
    for wanted in (None, np.float32):
        values = read_voxels(open_image(path, "it"), "it", dtype=wanted)
        assert values.dtype == (expected.dtype if wanted is None else wanted)
        np.testing.assert_array_equal(values, expected.astype(values.dtype))
    np.testing.assert_array_equal(read_voxels(open_image(path, "it"), "it", volume=1), expected[..., 1])


def test_a_file_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path / "image.nii.gz", "<f4", shape=(80, 90, 70, 2))
    assert images._SLAB < 80 * 90 * 70 * 2 * 4
    np.testing.assert_array_equal(read_voxels(open_image(path, "it"), "it"), np.asarray(nib.load(path).dataobj))


@pytest.mark.parametrize("where", ["header", "voxels", "checksum", "size"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, where: str) -> None:
    content = bytearray(_write(tmp_path / "image.nii.gz", "<f4", shape=(20, 20, 20, 3)).read_bytes())
    place = {"header": 12, "voxels": len(content) // 2, "checksum": -8, "size": -4}[where]
    content[place] ^= 0xFF
    path = tmp_path / "damaged.nii.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.nii\.gz") as error, readable(path, "Subject 'a'"):
        read_voxels(open_image(path, "Subject 'a'"), "Subject 'a'")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, share: float) -> None:
    content = _write(tmp_path / "image.nii.gz", "<f4", shape=(20, 20, 20, 3)).read_bytes()
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.nii\.gz"), readable(path, "it"):
        read_voxels(open_image(path, "it"), "it")


def test_voxels_that_are_missing_in_a_whole_file(tmp_path: Path) -> None:
    content = gzip.decompress(_write(tmp_path / "image.nii.gz", "<f4").read_bytes())
    path = tmp_path / "short.nii.gz"
    path.write_bytes(gzip.compress(content[:-10]))
    with pytest.raises(ValueError, match="470 of the 480 bytes"), readable(path, "it"):
        read_voxels(open_image(path, "it"), "it")


def test_gzip_files_of_several_members_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "two.gz"
    path.write_bytes(gzip.compress(b"abc" * 1000) + gzip.compress(b"def"))
    with open_gzip(path) as stream:
        assert stream.read() == b"abc" * 1000 + b"def"
    with path.open("rb") as raw, open_gzip(raw) as stream:
        assert stream.read(4) == b"abca"
        stream.seek(3000)
        assert stream.read() == b"def"
