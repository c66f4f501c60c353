"""Streamlines in HDF5 files: .dpy as DIPY writes them, .h5 in the layout of scilpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from dipy.io.streamline import load_tractogram, save_tractogram
from scoring_support import OBLIQUE, SHAPE, joined, random_lines

from dwiml.tractograms.reading import open_tractogram, read_streamlines

LINES = random_lines(np.random.default_rng(2), 9, reach=0)
POINTS, LENGTHS = joined(LINES)
IMAGE = nib.Nifti1Image(np.zeros(SHAPE, np.float32), OBLIQUE)
# The streamlines of each connection.
CONNECTIONS = {"1_12": slice(0, 4), "3_3": slice(4, 5), "3_40": slice(5, 9)}


def tractogram(lines: list[np.ndarray]) -> StatefulTractogram:
    return StatefulTractogram([line.astype(np.float32) for line in lines], IMAGE, Space.VOX, origin=Origin.TRACKVIS)


@pytest.fixture
def dpy(tmp_path: Path) -> Path:
    save_tractogram(tractogram(LINES), str(tmp_path / "lines.dpy"))
    return tmp_path / "lines.dpy"


@pytest.fixture
def h5(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "lines.h5", "w") as file:
        whole = tractogram(LINES)
        file.attrs["affine"], file.attrs["dimensions"] = whole.affine, whole.dimensions
        file.attrs["voxel_sizes"], file.attrs["voxel_order"] = whole.voxel_sizes, whole.voxel_order
        for number, (name, rows) in enumerate(CONNECTIONS.items()):
            part = tractogram(LINES[rows])
            part.to_vox()
            part.to_corner()
            group, streamlines = file.create_group(name), part.streamlines.copy()
            group.create_dataset("data", data=streamlines.get_data(), dtype=np.float32)
            group.create_dataset("offsets", data=streamlines._offsets, dtype=np.int64)
            group.create_dataset("lengths", data=streamlines._lengths, dtype=np.int32)
            group.create_dataset("seeds", data=np.arange(27.0).reshape(9, 3)[rows], dtype=np.float32)
            group.create_dataset("weight", data=np.arange(9.0)[rows], dtype=np.float32)
            group.create_dataset("afd_fixel", data=number / 2)
        file.create_group("2_7")
    return tmp_path / "lines.h5"


def test_a_dpy_is_read_as_dipy_reads_it(dpy: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = open_tractogram(dpy)
    assert (own.grid, own.dps_keys, own.has_streamlines()) == (None, [], True)
    found = own.read(OBLIQUE)
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    np.testing.assert_allclose(found.points, POINTS, atol=1e-4)
    by_dipy = load_tractogram(str(dpy), IMAGE, to_space=Space.VOX, to_origin=Origin.TRACKVIS)
    np.testing.assert_allclose(found.points, by_dipy.streamlines.get_data(), atol=1e-4)
    assert "assumed" not in caplog.text
    sample = own.sample(3)
    np.testing.assert_array_equal(sample.lengths, LENGTHS[[0, 3, 6]])


def test_a_dpy_in_lps(tmp_path: Path) -> None:
    path = tmp_path / "lines.dpy"
    save_tractogram(tractogram(LINES), str(path), to_space=Space.LPSMM)
    found = open_tractogram(path, space="lpsmm").read(OBLIQUE)
    np.testing.assert_allclose(found.points, POINTS, atol=1e-4)


def test_a_h5_of_scilpy(h5: Path) -> None:
    own = open_tractogram(h5)
    assert own.grid is not None
    np.testing.assert_allclose(own.grid.affine, OBLIQUE, atol=1e-6)
    assert own.grid.shape == SHAPE
    assert own.dps_keys == ["connection_a", "connection_b", "afd_fixel", "seeds", "weight"]
    assert own.has_streamlines()
    found = own.read(OBLIQUE, own.dps_keys)
    np.testing.assert_allclose(found.points, POINTS, atol=1e-4)
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    np.testing.assert_array_equal(found.dps["connection_a"][:, 0], [1, 1, 1, 1, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(found.dps["connection_b"][:, 0], [12, 12, 12, 12, 3, 40, 40, 40, 40])
    np.testing.assert_array_equal(found.dps["seeds"], np.arange(27).reshape(9, 3))
    np.testing.assert_array_equal(found.dps["weight"][:, 0], np.arange(9))
    np.testing.assert_array_equal(found.dps["afd_fixel"][:, 0], [0, 0, 0, 0, 0.5, 1, 1, 1, 1])
    sample = own.sample(2, "connection_b")
    assert sample.values is not None
    assert sample.values[:, 0].tolist() == [12] * LENGTHS[0] + [3] * LENGTHS[4]
    with pytest.raises(ValueError, match="data per streamline 'id' not found in '.*lines.h5'; it has: 'connection_a'"):
        own.read(OBLIQUE, ["id"])


def test_a_h5_without_streamlines_or_of_other_groups(tmp_path: Path, h5: Path) -> None:
    with h5py.File(h5, "a") as file:
        file.move("3_3", "streamlines")
    own = open_tractogram(h5)
    assert own.dps_keys == ["afd_fixel", "seeds", "weight"]
    assert len(own.read(OBLIQUE).lengths) == 9
    with h5py.File(h5, "a") as file:
        for name in ("1_12", "3_40", "streamlines"):
            del file[name]
    own = open_tractogram(h5)
    assert (own.has_streamlines(), own.dps_keys, len(own.read(OBLIQUE, ["w"]).lengths)) == (False, [], 0)


def _replace(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return change


def _attribute(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file.attrs[name]
        if values is not None:
            file.attrs[name] = values

    return change


@pytest.mark.parametrize(
    ("suffix", "change", "sentence"),
    [
        (".dpy", _replace("streamlines/offsets", np.array([0, 5, 3])), "the offsets do not increase from 0 to the"),
        (".dpy", _replace("streamlines/offsets", np.array([0, 5])), "the offsets do not increase from 0 to the"),
        (".dpy", _replace("streamlines/offsets", np.zeros((2, 2))), r"it has the shape \(2, 2\); \(N,\) is expected"),
        (".dpy", _replace("streamlines/tracks", np.zeros((5, 4))), r"it has the shape \(5, 4\); \(N, 3\) is expected"),
        (".dpy", _replace("streamlines/tracks", ["a", "b"]), "shape|numbers"),
        (".dpy", _replace("streamlines/tracks", None), "tracks"),
        (".dpy", _replace("streamlines", h5py.ExternalLink("/etc/other.h5", "/a")), "another file"),
        (".h5", _attribute("affine", None), "has no root attribute 'affine', which scilpy's files of connections have"),
        (".h5", _attribute("affine", np.zeros((4, 4))), "The header of '.*lines.h5' is wrong"),
        (".h5", _attribute("dimensions", "many"), "its affine and dimensions are not numbers"),
        (
            ".h5",
            _replace("1_12/lengths", np.array([1, 2])),
            "offsets and lengths are not those of streamlines that fol",
        ),
        (".h5", _replace("1_12/lengths", None), "1_12/lengths"),
        (".h5", _replace("1_12/data", np.zeros((3, 2))), r"it has the shape \(3, 2\); \(N, 3\) is expected"),
        (
            ".h5",
            _replace("1_12/weight", np.zeros(3)),
            r"'1_12/weight' of .*: it has the shape \(3,\) for 4 streamlines",
        ),
        (".h5", _replace("1_12/seeds", np.zeros((4, 2))), "data per streamline 'seeds' of .* has 2 to 3 values in its"),
        (".h5", _replace("3_3", h5py.ExternalLink("/etc/other.h5", "/a")), "another file"),
    ],
)
def test_damaged_files(dpy: Path, h5: Path, suffix: str, change: Callable[[h5py.File], None], sentence: str) -> None:
    path = dpy.with_suffix(suffix)
    with h5py.File(path, "a") as file:
        change(file)
    keys = ["seeds", "weight"] if suffix == ".h5" else []
    with pytest.raises(ValueError, match=sentence) as caught:
        open_tractogram(path).read(OBLIQUE, keys)
    assert f"lines{suffix}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".dpy", ".h5"])
def test_cut_and_other_files(dpy: Path, h5: Path, suffix: str) -> None:
    path = dpy.with_suffix(suffix)
    content = path.read_bytes()
    for size in (0, 4, 100, len(content) - 100):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"lines{suffix}' is (damaged|truncated)"):
            read_streamlines(path, OBLIQUE)
