"""What a .trk file says of itself against what is in it."""

from __future__ import annotations

import struct

import nibabel as nib
import numpy as np
import pytest
from nibabel.streamlines.trk import header_2_dtype

from dwiml.tractograms.reading import open_tractogram

LINES_ONLY = {"streamlines": {"type": "streamlines", "files": ["wb.trk"]}}
HEADER_BYTES = 1000


def with_header(path, **values):
    """Write other values into a file's header."""
    content = path.read_bytes()
    header = np.frombuffer(content, dtype=header_2_dtype, count=1).copy()
    for name, value in values.items():
        header[name] = value
    path.write_bytes(header.tobytes() + content[HEADER_BYTES:])


@pytest.fixture
def trk(subjects, grid):
    """A tractogram of six streamlines with data per point and per streamline."""
    lines = grid["arcs"](6)
    tractogram = nib.streamlines.Tractogram(
        grid["to_rasmm"](lines),
        {"id": np.arange(12.0).reshape(6, 2)},
        {"fa": [np.ones((len(line), 1)) for line in lines]},
        affine_to_rasmm=np.eye(4),
    )
    path = subjects.tractogram("a", "wb.trk", lines)
    header = nib.streamlines.load(path, lazy_load=True).header
    nib.streamlines.save(tractogram, str(path), header=header)
    subjects.sizes = [4 + 16 * len(line) + 8 for line in lines]
    assert path.stat().st_size == HEADER_BYTES + sum(subjects.sizes)
    return path


def refused(subjects, sentence, **options):
    with pytest.raises(ValueError, match=f"Group 'streamlines' of subject 'a': .*wb.trk' {sentence}") as caught:
        subjects.create(LINES_ONLY, **options)
    assert "\n" not in str(caught.value)
    subjects.assert_nothing_written()


def test_a_whole_file_is_read_in_either_byte_order(subjects, trk):
    assert subjects.create(LINES_ONLY).streamlines["streamlines"].nb_streamlines == 6
    content = trk.read_bytes()
    header = np.frombuffer(content, dtype=header_2_dtype, count=1)
    body = np.frombuffer(content[HEADER_BYTES:], dtype="<i4").astype(">i4")
    trk.write_bytes(header.astype(header_2_dtype.newbyteorder(">")).tobytes() + body.tobytes())
    assert subjects.create(LINES_ONLY, overwrite=True).streamlines["streamlines"].nb_streamlines == 6


@pytest.mark.parametrize("lost", [1, 3])
def test_a_file_cut_off_between_streamlines(subjects, trk, lost):
    trk.write_bytes(trk.read_bytes()[: HEADER_BYTES + sum(subjects.sizes[:-lost])])
    refused(subjects, f"is truncated, or .*: 6 streamlines are announced, but it holds {6 - lost}", remove_invalid=True)


@pytest.mark.parametrize("kept", [2, 4, 50])
def test_a_file_cut_off_in_a_streamline(subjects, trk, kept):
    trk.write_bytes(trk.read_bytes()[: HEADER_BYTES + sum(subjects.sizes[:3]) + kept])
    refused(subjects, "is damaged or truncated: 3 streamlines can be read, but 6 are announced", remove_invalid=True)
    with_header(trk, nb_streamlines=0)
    refused(subjects, "is damaged or truncated: 3 streamlines can be read, but the file ends within the next")


def test_a_file_cut_off_after_its_header_is_not_an_empty_one(subjects, trk):
    trk.write_bytes(trk.read_bytes()[:HEADER_BYTES])
    refused(subjects, "is truncated after its header: 6 streamlines are announced", allow_missing=True)


def test_more_streamlines_than_announced(subjects, trk):
    with_header(trk, nb_streamlines=4)
    refused(subjects, f"holds {sum(subjects.sizes[4:])} bytes after the 4 streamlines that its header announces")
    with_header(trk, nb_streamlines=6)
    trk.write_bytes(trk.read_bytes() + b"\0")
    refused(subjects, "holds 1 bytes after the 6 streamlines")


def test_an_unknown_count_is_what_is_there(subjects, trk):
    with_header(trk, nb_streamlines=0)
    assert subjects.create(LINES_ONLY).streamlines["streamlines"].nb_streamlines == 6


@pytest.mark.parametrize("name", ["nb_streamlines", "nb_scalars_per_point", "nb_properties_per_streamline"])
def test_a_negative_count(subjects, trk, name):
    with_header(trk, **{name: -1})
    refused(subjects, f"is damaged, its {name} is -1")


@pytest.mark.parametrize("length", [0x7FFFFFFF, -3])
def test_a_length_that_cannot_be(subjects, trk, length):
    content = bytearray(trk.read_bytes())
    for nb_before in (2, 0):
        start = HEADER_BYTES + sum(subjects.sizes[:nb_before])
        content[start : start + 4] = struct.pack("<i", length)
        trk.write_bytes(content)
        # nibabel tries to read the first one as soon as it opens the file.
        refused(
            subjects,
            "is damaged or truncated: 2 streamlines can be read" if nb_before else "(is damaged|cannot be read)",
        )


def test_more_memory_than_there_is(subjects, trk, monkeypatch):
    def load(*_, **__):
        raise MemoryError

    monkeypatch.setattr(nib.streamlines, "load", load)
    refused(subjects, "cannot be read: there is not enough memory for its announced content")


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1.5, 2, 2.6), (0, 2, 2.5), (np.nan, 2, 2.5)])
def test_voxel_sizes_unlike_the_affine(subjects, trk, sizes):
    with_header(trk, voxel_sizes=sizes)
    refused(subjects, "contradicts itself: its voxel_sizes are .* mm, but those of its affine are 1.5, 2, 2.5 mm")


def test_rounded_voxel_sizes_are_taken(subjects, trk):
    with_header(trk, voxel_sizes=(1.501, 2, 2.499))
    subjects.create(LINES_ONLY)


def test_a_voxel_order_unlike_the_affine(subjects, trk):
    with_header(trk, voxel_order=b"RAS")
    refused(subjects, "contradicts itself: its voxel_order is 'RAS', but that of its affine is 'L")


@pytest.mark.filterwarnings("ignore:Voxel order is not specified")
def test_no_voxel_order_is_taken_where_the_guess_is_right(subjects, grid):
    for signs, right in (([-1, -1, 1], True), ([1, 1, 1], False)):
        affine = np.diag([*(grid["voxel_sizes"] * signs), 1])
        trk = subjects.tractogram("a", "wb.trk", grid["arcs"](3), affine=affine)
        with_header(trk, voxel_order=b"")
        if right:
            subjects.create(LINES_ONLY)
            subjects.out.unlink()
        else:
            refused(subjects, "contradicts itself: its voxel_order is 'LPS', but that of its affine is 'RAS'")


def test_the_default_header_of_nibabel_tells_no_grid(subjects, grid):
    subjects.plain("a")
    tractogram = nib.streamlines.Tractogram(grid["to_rasmm"](grid["arcs"](3)), affine_to_rasmm=np.eye(4))
    nib.streamlines.save(tractogram, str(subjects.folder / "a/wb.trk"))
    refused(subjects, "does not give its voxel grid .its header is nibabel's default.*the image that it belongs to")
    with pytest.raises(ValueError, match="wb.trk' does not give its voxel grid .*save it with the header"):
        subjects.create()


def test_a_message_of_several_lines_becomes_one(subjects, trk):
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    with_header(trk, voxel_to_rasmm=affine)
    refused(subjects, "is damaged .the 'vox_to_ras' affine is invalid")


@pytest.mark.parametrize("header", [{"version": 1}, {"voxel_to_rasmm": np.zeros((4, 4))}], ids=["version 1", "zeros"])
def test_a_header_without_an_affine_is_not_taken_as_the_identity(subjects, trk, header):
    with_header(trk, **header)
    with pytest.raises(ValueError, match=r"header of '.*wb.trk' does not record its affine .*save it again"):
        subjects.create(LINES_ONLY)
    with pytest.raises(ValueError, match=r"The tractogram: the header of .* does not record its affine"):
        open_tractogram(trk).read(np.eye(4))
