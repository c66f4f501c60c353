"""A .trk.gz or .tck.gz file reads as the file in it, with the same checks."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scoring_support import OBLIQUE, SHAPE, joined, random_lines, save_lines

from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import open_tractogram, read_streamlines
from dwiml.tractograms.writing.writer import TractogramWriter
from dwiml.viz.pieces import DrawnTractogram

LINES = random_lines(np.random.default_rng(0), 6, reach=0)
POINTS, LENGTHS = joined(LINES)


@pytest.fixture(params=[".trk", ".tck"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"lines{request.param}"
    if request.param == ".tck":
        save_lines(path, LINES, OBLIQUE)
        return path
    with TractogramWriter(path, grid=Grid(OBLIQUE, SHAPE), data_per_streamline={"id": 1}) as writer:
        writer.append(POINTS, LENGTHS, {"id": np.arange(6.0, dtype=np.float32)[:, None]})
    return path


def gzipped(path: Path, content: bytes | None = None, suffix: str = ".gz") -> Path:
    packed = path.with_name(f"packed_{path.name}{suffix}")
    packed.write_bytes(gzip.compress(path.read_bytes() if content is None else content))
    return packed


@pytest.mark.parametrize("suffix", [".gz", ".GZ"])
def test_it_reads_as_the_file_in_it(plain: Path, suffix: str) -> None:
    packed = gzipped(plain, suffix=suffix)
    own, other = open_tractogram(packed), open_tractogram(plain)
    assert own.dps_keys == other.dps_keys
    assert own.has_streamlines()
    assert (own.grid is None) == (plain.suffix == ".tck")
    if own.grid is not None and other.grid is not None:
        assert own.grid.difference(other.grid) == ""
    found, expected = own.read(OBLIQUE, own.dps_keys), other.read(OBLIQUE, other.dps_keys)
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    for key, values in expected.dps.items():
        np.testing.assert_array_equal(found.dps[key], values)
    # nibabel opens .gz files itself.
    by_nibabel = np.concatenate(list(nib.streamlines.load(packed).streamlines))
    np.testing.assert_allclose(
        found.points, (by_nibabel - OBLIQUE[:3, 3]) @ np.linalg.inv(OBLIQUE[:3, :3]).T + 0.5, atol=1e-4
    )
    sample = own.sample(3)
    np.testing.assert_array_equal(sample.points, other.sample(3).points)
    assert sample.nb_in_file == 6
    assert [each.name for each in plain.parent.iterdir() if each not in (plain, packed)] == []


def test_no_streamlines_in_it(plain: Path) -> None:
    with TractogramWriter(plain, grid=Grid(OBLIQUE, SHAPE), overwrite=True):
        pass
    tractogram = open_tractogram(gzipped(plain))
    assert not tractogram.has_streamlines()
    assert len(tractogram.read(OBLIQUE).lengths) == 0


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_cut_file(plain: Path, cut: int) -> None:
    packed = gzipped(plain)
    packed.write_bytes(packed.read_bytes()[:-cut])
    with pytest.raises(
        ValueError, match=r"^The tractogram: the file '.*\.gz' is damaged \(compressed file ended"
    ) as caught:
        read_streamlines(packed, OBLIQUE)
    assert "\n" not in str(caught.value)


def test_a_cut_file_in_a_whole_gz(plain: Path) -> None:
    """The checks against the header see inside."""
    packed = gzipped(plain, plain.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"'.*\.gz' is (damaged|truncated)"):
        read_streamlines(packed, OBLIQUE)


def test_more_or_fewer_streamlines_than_announced(tmp_path: Path) -> None:
    plain = tmp_path / "lines.tck"
    save_lines(plain, LINES, OBLIQUE)
    packed = gzipped(plain, plain.read_bytes().replace(b"count: 0000000006", b"count: 0000000600"))
    with pytest.raises(ValueError, match="600 streamlines are announced .* but it holds 6"):
        read_streamlines(packed, OBLIQUE)
    with pytest.raises(ValueError, match="600 streamlines are announced .* but it holds 6"):
        DrawnTractogram.from_file(packed, color="uniform", max_streamlines=3)


def test_a_wrong_checksum(plain: Path) -> None:
    packed = gzipped(plain)
    content = bytearray(packed.read_bytes())
    content[-8] ^= 1
    packed.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"is damaged \(CRC check failed"):
        read_streamlines(packed, OBLIQUE)


def test_what_is_not_gzip_or_not_a_tractogram(plain: Path) -> None:
    packed = gzipped(plain)
    packed.write_bytes(plain.read_bytes())
    with pytest.raises(ValueError, match=r"is damaged \(not a gzipped file"):
        read_streamlines(packed, OBLIQUE)
    with pytest.raises(ValueError, match="lines.*gz'"):
        read_streamlines(gzipped(plain, b"no tractogram" * 100), OBLIQUE)
    with pytest.raises(ValueError, match="lines.*gz'"):
        read_streamlines(gzipped(plain, b""), OBLIQUE)


def test_a_content_larger_than_the_memory(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzipped(plain, plain.read_bytes() + bytes(10**6))
    monkeypatch.setattr("dwiml.files.sizes.machine_memory", lambda: 10**5)
    with pytest.raises(
        ValueError, match=r"cannot be read: .* \(its content, uncompressed, would need 0.0 GB of memory"
    ):
        read_streamlines(packed, OBLIQUE)
