"""A .trk file without other data is read as one array: the result is that of nibabel to the bit."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.streamlines.trk import header_2_dtype
from tests_support import AFFINE, SHAPE, VOXEL_SIZES

from dwiml.tractograms.trk import Trk

BEGIN = header_2_dtype.itemsize


def written(path: Path, lengths: list[int], byte_order: str = "<", announced: int | None = None) -> Path:
    """Write a file, in either byte order, with the number of streamlines in its header."""
    rng = np.random.default_rng(1)
    header = np.zeros((), header_2_dtype)
    header["magic_number"], header["hdr_size"], header["version"] = b"TRACK", BEGIN, 2
    header["dimensions"], header["voxel_sizes"] = SHAPE, VOXEL_SIZES
    header["voxel_to_rasmm"], header["voxel_order"] = AFFINE, b"RAS"
    header["nb_streamlines"] = len(lengths) if announced is None else announced
    content = header.astype(header_2_dtype.newbyteorder(byte_order)).tobytes()
    for length in lengths:
        points = rng.uniform(0, 15, (length, 3)).astype(f"{byte_order}f4")
        content += np.array(length, f"{byte_order}i4").tobytes() + points.tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("lengths", [[2], [1, 40, 3], [0, 5, 0, 0, 7, 0], [9] * 300, [0, 0], []])
def test_it_is_what_nibabel_reads(tmp_path: Path, lengths: list[int], byte_order: str) -> None:
    path = written(tmp_path / "lines.trk", lengths, byte_order)
    stored = Trk(path, "The tractogram")._read([])
    expected = nib.streamlines.load(path).streamlines
    points = expected.get_data().reshape(-1, 3)
    assert np.array_equal(stored.points, points)
    assert stored.points.dtype == np.float32
    assert stored.lengths.tolist() == [len(line) for line in expected] == [length for length in lengths if length]
    assert stored.nb_without_points == lengths.count(0)


def test_an_unknown_number_of_streamlines(tmp_path: Path) -> None:
    stored = Trk(written(tmp_path / "lines.trk", [4, 6, 2], announced=0), "The tractogram")._read([])
    assert stored.lengths.tolist() == [4, 6, 2]


def test_data_that_the_file_has_not(tmp_path: Path) -> None:
    path = written(tmp_path / "lines.trk", [4, 6])
    with pytest.raises(ValueError, match="'weights'"):
        Trk(path, "The tractogram")._read(["weights"])
