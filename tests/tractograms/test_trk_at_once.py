"""An uncompressed .trk file is read as one array: the result is that of nibabel to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.streamlines.trk import header_2_dtype
from tests_support import AFFINE, SHAPE, VOXEL_SIZES

from dwiml.tractograms.trk import Trk

BEGIN = header_2_dtype.itemsize


def written(
    path: Path,
    lengths: list[int],
    byte_order: str = "<",
    announced: int | None = None,
    scalars: int = 0,
    properties: Sequence[bytes] = (),
    nb_properties: int = 0,
) -> Path:
    """Write a file, in either byte order, with the number of streamlines in its header."""
    rng = np.random.default_rng(1)
    header = np.zeros((), header_2_dtype)
    header["magic_number"], header["hdr_size"], header["version"] = b"TRACK", BEGIN, 2
    header["dimensions"], header["voxel_sizes"] = SHAPE, VOXEL_SIZES
    header["voxel_to_rasmm"], header["voxel_order"] = AFFINE, b"RAS"
    header["nb_streamlines"] = len(lengths) if announced is None else announced
    header["nb_scalars_per_point"], header["nb_properties_per_streamline"] = scalars, nb_properties
    for number, name in enumerate(properties):
        header["property_name"][number] = name
    content = header.astype(header_2_dtype.newbyteorder(byte_order)).tobytes()
    for length in lengths:
        points = rng.uniform(0, 15, (length, 3 + scalars)).astype(f"{byte_order}f4")
        values = rng.normal(size=nb_properties).astype(f"{byte_order}f4")
        content += np.array(length, f"{byte_order}i4").tobytes() + points.tobytes() + values.tobytes()
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


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(
    ("names", "nb"), [([b"id"], 1), ([b"id", b"rgb\x003"], 4), ([b"id"], 3), ([], 2), ([b"", b"id"], 1)]
)
def test_data_are_what_nibabel_reads(tmp_path: Path, names: list[bytes], nb: int, byte_order: str) -> None:
    path = written(tmp_path / "lines.trk", [3, 1, 8], byte_order, None, 2, names, nb)
    expected = nib.streamlines.load(path).tractogram
    keys = list(expected.data_per_streamline)
    stored = Trk(path, "The tractogram")._read(keys)
    assert np.array_equal(stored.points, expected.streamlines.get_data())
    assert list(stored.dps) == keys
    for key in keys:
        assert np.array_equal(stored.dps[key], expected.data_per_streamline[key])
        assert stored.dps[key].dtype == np.float32


def test_data_of_a_streamline_without_points_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "lines.trk", [0, 3, 0, 2, 8], nb_properties=1, properties=[b"id"])
    content = path.read_bytes()
    every = np.array([np.frombuffer(content[end - 4 : end], "<f4")[0] for end in _ends([0, 3, 0, 2, 8])])
    stored = Trk(path, "The tractogram")._read(["id"])
    assert stored.nb_without_points == 2
    assert stored.lengths.tolist() == [3, 2, 8]
    assert stored.dps["id"][:, 0].tolist() == every[[1, 3, 4]].tolist()


def _ends(lengths: list[int]) -> list[int]:
    """Return where each streamline with one property ends."""
    return (BEGIN + np.cumsum([4 + 12 * length + 4 for length in lengths])).tolist()


def test_names_of_more_data_than_there_are(tmp_path: Path) -> None:
    path = written(tmp_path / "lines.trk", [3], properties=[b"rgb\x003"], nb_properties=1)
    with pytest.raises(ValueError, match="its header names 3 properties of 1"):
        Trk(path, "The tractogram")._read([])


def test_an_unknown_number_of_streamlines(tmp_path: Path) -> None:
    stored = Trk(written(tmp_path / "lines.trk", [4, 6, 2], announced=0), "The tractogram")._read([])
    assert stored.lengths.tolist() == [4, 6, 2]


def test_data_that_the_file_has_not(tmp_path: Path) -> None:
    path = written(tmp_path / "lines.trk", [4, 6])
    with pytest.raises(ValueError, match="'weights'"):
        Trk(path, "The tractogram")._read(["weights"])
