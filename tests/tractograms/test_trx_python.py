"""Files of trx-python in every type of number are read as trx-python reads them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from scoring_support import OBLIQUE, SHAPE, joined, random_lines
from trx import trx_file_memmap

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
