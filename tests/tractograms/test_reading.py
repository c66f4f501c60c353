"""The same calls read .trk, .tck and .trx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dipy.io.streamline import load_tractogram
from scoring_support import OBLIQUE, SHAPE, joined, random_lines

from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import open_tractogram
from dwiml.tractograms.writing.with_data import Part, write_with_data
from dwiml.tractograms.writing.writer import TractogramWriter

GRID = Grid(OBLIQUE, SHAPE)
LINES = random_lines(np.random.default_rng(1), 7, reach=0)
POINTS, LENGTHS = joined(LINES)
IDS = np.arange(7, dtype=np.float32)[:, None]


def written(path: Path) -> Path:
    names = {} if path.suffix == ".tck" else {"id": 1}
    with TractogramWriter(path, grid=GRID, data_per_streamline=names) as writer:
        writer.append(POINTS, LENGTHS, dict.fromkeys(names, IDS))
    return path


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_all_formats_alike(tmp_path: Path, suffix: str) -> None:
    tractogram = open_tractogram(written(tmp_path / f"a{suffix}"))
    keys = [] if suffix == ".tck" else ["id"]
    assert (tractogram.dps_keys, tractogram.has_streamlines()) == (keys, True)
    if suffix == ".tck":
        assert tractogram.grid is None
    else:
        assert tractogram.grid is not None
        assert GRID.difference(tractogram.grid) == ""
    found = tractogram.read(OBLIQUE, keys)
    assert (found.points.dtype, found.nb_removed) == (np.float32, 0)
    np.testing.assert_allclose(found.points, POINTS, atol=1e-4)
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    for key in keys:
        np.testing.assert_array_equal(found.dps[key], IDS)
    sample = tractogram.sample(3)
    np.testing.assert_array_equal(sample.lengths, LENGTHS[[0, 2, 4]])
    assert (sample.nb_in_file, sample.values) == (7, None)
    with pytest.raises(ValueError, match=r"The tractogram: data per streamline 'w' not found in '.*'; it has: "):
        tractogram.read(OBLIQUE, ["w"])
    with pytest.raises(ValueError, match=r"has no data named 'w'; it has per point: none; per streamline: .*\. Look"):
        tractogram.sample(3, "w", hint=" Look.")


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_without_streamlines(tmp_path: Path, suffix: str) -> None:
    with TractogramWriter(tmp_path / f"a{suffix}", grid=GRID):
        pass
    tractogram = open_tractogram(tmp_path / f"a{suffix}")
    assert not tractogram.has_streamlines()
    found = tractogram.read(OBLIQUE, ["w"])
    assert (found.points.shape, len(found.lengths), found.dps) == ((0, 3), 0, {})


def test_streamlines_without_points_are_counted_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "a.trx"
    (folder / "dps").mkdir(parents=True)
    header = (
        f'{{"VOXEL_TO_RASMM": {OBLIQUE.tolist()}, "DIMENSIONS": {list(SHAPE)}, "NB_STREAMLINES": 3, "NB_VERTICES": 4}}'
    )
    (folder / "header.json").write_text(header)
    np.arange(12, dtype="<f4").tofile(folder / "positions.3.float32")
    np.array([0, 1, 1], "<u8").tofile(folder / "offsets.uint64")
    np.array([5, 6, 7], "<f4").tofile(folder / "dps/id.float32")
    found = open_tractogram(folder).read(OBLIQUE, ["id"])
    assert (found.lengths.tolist(), found.dps["id"].tolist(), found.nb_removed) == ([1, 3], [[5], [7]], 1)


@pytest.mark.parametrize("extension", [".trk", ".trx"])
def test_data_per_point_are_written_part_by_part(tmp_path: Path, extension: str) -> None:
    path, loss = tmp_path / f"a{extension}", np.linspace(0, 1, len(POINTS), dtype=np.float32)[:, None]
    color = np.arange(3 * len(POINTS)).reshape(-1, 3) % 256
    cut = int(LENGTHS[:3].sum())
    path.write_bytes(b"older")
    write_with_data(
        path,
        GRID,
        [
            Part(POINTS[:cut], LENGTHS[:3], {"loss": loss[:cut], "color": color[:cut]}, {"id": IDS[:3]}),
            Part(POINTS[cut:], LENGTHS[3:], {"loss": loss[cut:], "color": color[cut:]}, {"id": IDS[3:]}),
        ],
    )
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    found = open_tractogram(path).read(OBLIQUE, ["id"])
    np.testing.assert_allclose(found.points, POINTS, atol=1e-4)
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    np.testing.assert_array_equal(found.dps["id"], IDS)
    # With nibabel or trx-python.
    read = load_tractogram(str(path), "same", bbox_valid_check=False)
    for name, values in (("loss", loss), ("color", color)):
        np.testing.assert_array_equal(np.concatenate(list(read.data_per_point[name])), values)
    np.testing.assert_array_equal(read.data_per_streamline["id"], IDS)
    grid = open_tractogram(path).grid
    assert grid is not None
    assert GRID.difference(grid) == ""


@pytest.mark.parametrize("extension", [".trk", ".trx"])
def test_no_streamlines_with_data(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    write_with_data(path, GRID, [])
    assert len(load_tractogram(str(path), "same", bbox_valid_check=False)) == 0
    assert not open_tractogram(path).has_streamlines()


def test_data_per_point_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.trx"
    path.write_bytes(b"older")
    part = Part(POINTS, LENGTHS, {"a.b": np.zeros((len(POINTS), 1))})
    with pytest.raises(ValueError, match="A .trx file cannot hold data named 'a.b'"):
        write_with_data(path, GRID, [part])

    def stopped() -> Iterator[Part]:
        yield Part(POINTS, LENGTHS)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_with_data(path, GRID, stopped())
    assert path.read_bytes() == b"older"
    assert [each.name for each in tmp_path.iterdir()] == ["a.trx"]
    with pytest.raises(ValueError, match=r"written to a \.trk or \.trx file; give one of these"):
        write_with_data(tmp_path / "a.tck", GRID, [])
