"""Files of trx-python in every type of number are read as trx-python reads them; groups may be chosen."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from scoring_support import OBLIQUE, SHAPE, joined, random_lines
from trx import trx_file_memmap

from dwiml.hdf5.creator import create_hdf5
from dwiml.tractograms.reading import open_tractogram

LINES = random_lines(np.random.default_rng(4), 8, reach=0)
POINTS, LENGTHS = joined(LINES)
IMAGE = nib.Nifti1Image(np.zeros(SHAPE, np.float32), OBLIQUE)
# trx-python leaves maps of files open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def written(folder: Path, positions: Any, offsets: Any, data: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    tractogram = StatefulTractogram(
        [line.astype(np.float32) for line in LINES],
        IMAGE,
        Space.VOX,
        origin=Origin.TRACKVIS,
        data_per_streamline={"one": np.arange(8)[:, None], "three": np.arange(24).reshape(8, 3)},
        data_per_point={"fa": [np.ones((len(line), 1)) for line in LINES]},
    )
    own = {"one": data, "three": data}
    tractogram.dtype_dict = {"positions": positions, "offsets": offsets, "dpp": {"fa": positions}, "dps": own}
    file = trx_file_memmap.TrxFile.from_sft(tractogram)
    file.groups = {"AF_L": np.array([0, 3, 4], np.uint32), "CST": np.array([7], np.uint32)}
    path = folder / "lines.trx"
    trx_file_memmap.save(file, str(path), compression_standard=compression)
    file.close()
    return path


@pytest.mark.parametrize("positions", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("offsets", [np.uint32, np.uint64])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_positions_and_offsets_of_all_types(tmp_path: Path, positions: Any, offsets: Any, compression: int) -> None:
    path = written(tmp_path, positions, offsets, np.float32, compression)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert f"positions.3.{np.dtype(positions).name}" in names
    assert f"offsets.{np.dtype(offsets).name}" in names
    assert "groups/AF_L.uint32" in names
    own = open_tractogram(path)
    assert own.grid is not None
    np.testing.assert_allclose(own.grid.affine, OBLIQUE, atol=1e-6)
    found = own.read(OBLIQUE, ["one", "three"])
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    other = trx_file_memmap.load(str(path))
    np.testing.assert_array_equal(other.streamlines._lengths, LENGTHS)
    rasmm = np.array(other.streamlines._data, dtype=np.float64)
    other.close()
    np.testing.assert_allclose(found.points, nib.affines.apply_affine(np.linalg.inv(OBLIQUE), rasmm) + 0.5, atol=1e-5)
    # Half precision has steps of 1/64 mm between 16 and 32 mm.
    np.testing.assert_allclose(found.points, POINTS, atol=0.03 if positions == np.float16 else 1e-4)
    np.testing.assert_array_equal(own.sample(3).lengths, LENGTHS[[0, 2, 5]])


@pytest.mark.parametrize("data", [np.float16, np.float64, np.uint8, np.int16, np.uint32, np.int64])
def test_data_per_streamline_of_all_types(tmp_path: Path, data: Any) -> None:
    own = open_tractogram(written(tmp_path, np.float32, np.uint32, data))
    assert sorted(own.dps_keys) == ["one", "three"]
    found = own.read(OBLIQUE, ["one", "three"])
    np.testing.assert_array_equal(found.dps["one"], np.arange(8)[:, None])
    np.testing.assert_array_equal(found.dps["three"], np.arange(24).reshape(8, 3))
    assert {values.dtype for values in found.dps.values()} == {np.dtype(np.float32)}


def test_chosen_groups(tmp_path: Path) -> None:
    path = written(tmp_path, np.float32, np.uint32, np.float32)
    other = trx_file_memmap.load(str(path))
    for names, ids in ((["CST"], [7]), (["AF_L"], [0, 3, 4]), (["CST", "AF_L"], [0, 3, 4, 7])):
        by_trx_python = np.unique(np.concatenate([other.groups[name] for name in names]))
        assert by_trx_python.tolist() == ids
        own = open_tractogram(path, trx_groups=names)
        assert own.has_streamlines()
        found = own.read(OBLIQUE, ["one"])
        np.testing.assert_allclose(found.points, np.concatenate([LINES[each] for each in ids]), atol=1e-4)
        np.testing.assert_array_equal(found.lengths, LENGTHS[ids])
        np.testing.assert_array_equal(found.dps["one"][:, 0], ids)
        sample = own.sample(1)
        assert (sample.lengths.tolist(), sample.nb_in_file) == ([LENGTHS[ids[0]]], len(ids))
    other.close()
    for read in (lambda each: each.has_streamlines(), lambda each: each.read(OBLIQUE)):
        with pytest.raises(ValueError, match="groups 'AF_R' not found in '.*lines.trx'; it has: 'AF_L', 'CST'"):
            read(open_tractogram(path, trx_groups=["AF_L", "AF_R"]))
    (tmp_path / "a.tck").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(trx_groups\) are in .trx files only, but '.*a.tck' is a .tck"):
        open_tractogram(tmp_path / "a.tck", trx_groups=["AF_L"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("CST.uint32", np.array([8], "<u4").tobytes(), "has a number that is not that of one of its 8 streamlines"),
        ("CST.int32", np.array([-1], "<i4").tobytes(), "has a number that is not that of one of its 8 streamlines"),
        ("CST.uint32", b"123", "is truncated"),
        ("CST.float32", np.zeros(1, "<f4").tobytes(), "does not hold the numbers of streamlines"),
        ("CST.2.uint32", np.zeros(2, "<u4").tobytes(), "does not hold the numbers of streamlines"),
    ],
)
def test_damaged_groups(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = written(tmp_path, np.float32, np.uint32, np.float32)
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist() if not each.startswith("groups/")}
    with zipfile.ZipFile(path, "w") as archive:
        for each, values in members.items():
            archive.writestr(each, values)
        archive.writestr(f"groups/{name}", content)
    with pytest.raises(ValueError, match=f"lines.trx' is damaged .'groups/{name}' {sentence}"):
        open_tractogram(path, trx_groups=["CST"]).read(OBLIQUE)
    assert len(open_tractogram(path).read(OBLIQUE).lengths) == 8


def test_chosen_groups_in_a_config(tmp_path: Path) -> None:
    """The bundles of pyAFQ are the groups of one .trx."""
    folder = tmp_path / "subjects" / "a"
    folder.mkdir(parents=True)
    written(folder, np.float32, np.uint32, np.float32)
    config: dict[str, Any] = {
        "af": {"type": "streamlines", "files": ["*.trx"], "trx_groups": ["AF_L"]},
        "both": {"type": "streamlines", "files": ["*.trx"], "trx_groups": ["AF_L", "CST"], "dps_keys": ["one"]},
    }
    create_hdf5(tmp_path / "subjects", tmp_path / "out.hdf5", config, training=["a"], validation=[], testing=[])
    with h5py.File(tmp_path / "out.hdf5") as file:
        np.testing.assert_array_equal(file["a/af/lengths"], LENGTHS[[0, 3, 4]])
        np.testing.assert_array_equal(file["a/both/data_per_streamline/one"][:, 0], [0, 3, 4, 7])
    config["af"]["trx_groups"] = ["AF_R"]
    with pytest.raises(ValueError, match="'af' of subject 'a': groups 'AF_R' not found in '.*'; it has: 'AF_L', 'CST'"):
        create_hdf5(tmp_path / "subjects", tmp_path / "o.hdf5", config, training=["a"], validation=[], testing=[])
