"""VTK files: those that VTK writes, those written by hand after the specification, and damaged ones."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from vtk_files import LINES, LPS

from dwiml.tractograms.reading import open_tractogram, read_streamlines
from dwiml.viz.pieces import DrawnTractogram

ARCHIVE = Path(__file__).with_name("written_by_vtk.zip")
with zipfile.ZipFile(ARCHIVE) as _archive:
    CONTENT = {name: _archive.read(name) for name in _archive.namelist()}
WHOLE = [name for name in CONTENT if not name.startswith(("empty", "lz4"))]
POINTS = np.concatenate(LINES)

BY_HAND = """# vtk DataFile Version 3.0
A title
ASCII
DATASET POLYDATA

POINTS 4 float
0 0 0 1 0
0
2.5 1e0 -1 3 2 1
VERTICES 1 2
1 0
LINES 3 9
3 0 1 2
2 3 2
1 1
CELL_DATA 4
SCALARS w float 1
"""


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rasmm(path: Path, **options: str) -> tuple[np.ndarray, list[int]]:
    found = open_tractogram(path, **options).read(np.eye(4))
    return found.points - 0.5, found.lengths.tolist()


@pytest.mark.parametrize("name", WHOLE)
def test_all_that_vtk_writes(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    tractogram = open_tractogram(written(tmp_path, name, CONTENT[name]))
    assert (tractogram.grid, tractogram.dps_keys, tractogram.has_streamlines()) == (None, [], True)
    found = tractogram.read(np.eye(4))
    flips = [-1, -1, 1] if name.startswith(LPS) else [1, 1, 1]
    np.testing.assert_allclose(found.points - 0.5, POINTS * flips, atol=1e-6)
    np.testing.assert_array_equal(found.lengths, [3, 2, 4])
    assert ("does not state the space of its points; rasmm is assumed" in caplog.text) != name.startswith(LPS)
    sample = tractogram.sample(2)
    np.testing.assert_allclose(sample.points, np.concatenate(LINES[:2]) * flips, atol=1e-6)
    assert (sample.lengths.tolist(), sample.nb_in_file, sample.values) == ([3, 2], 3, None)


def test_a_fib_is_a_vtk(tmp_path: Path) -> None:
    """MITK Diffusion calls its legacy VTK files .fib."""
    points, lengths = rasmm(written(tmp_path, "a.fib", CONTENT["Binary_42.vtk"]))
    np.testing.assert_allclose(points, POINTS, atol=1e-6)
    assert lengths == [3, 2, 4]


@pytest.mark.parametrize("name", ["empty.vtk", "empty.vtp"])
def test_without_lines(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    tractogram = open_tractogram(written(tmp_path, name, CONTENT[name]))
    assert not tractogram.has_streamlines()
    assert len(tractogram.read(np.eye(4), ["w"]).lengths) == 0
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_by_hand_with_points_that_lines_share(tmp_path: Path) -> None:
    points, lengths = rasmm(written(tmp_path, "a.vtk", BY_HAND))
    corners = np.array([[0, 0, 0], [1, 0, 0], [2.5, 1, -1], [3, 2, 1]])
    np.testing.assert_array_equal(points, corners[[0, 1, 2, 3, 2, 1]])
    assert lengths == [3, 2, 1]


def test_lines_without_points_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "a.vtk", BY_HAND.replace("LINES 3 9", "LINES 4 10").replace("2 3 2\n", "0\n2 3 2\n"))
    found = open_tractogram(path).read(np.eye(4))
    assert (found.lengths.tolist(), found.nb_removed) == ([3, 2, 1], 1)


def test_a_text_of_many_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that a slab cuts are read whole."""
    path = written(tmp_path, "a.vtk", CONTENT["lps_ASCII_51.vtk"])
    expected = rasmm(path)
    for nb_bytes in (16, 17, 23, 40):
        monkeypatch.setattr("dwiml.tractograms.vtk.legacy._SLAB", nb_bytes)
        found = rasmm(path)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]


def test_the_space_is_that_of_the_file_or_the_given_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, "a.vtk", BY_HAND)
    points, _ = rasmm(path, space="rasmm")
    np.testing.assert_array_equal(rasmm(path, space="lpsmm")[0], points * [-1, -1, 1])
    assert "is assumed" not in caplog.text
    stating = written(tmp_path, "b.vtk", BY_HAND.replace("A title", "Made by 3D Slicer. SPACE=RAS"))
    np.testing.assert_array_equal(rasmm(stating, space="rasmm")[0], points)
    sentence = r"'.*b.vtk' states that its points are in rasmm, but the space given for it is lpsmm; correct one"
    with pytest.raises(ValueError, match=sentence):
        rasmm(stating, space="lpsmm")
    for space in ("XYZ", "LPS SPACE=RAS"):
        other = written(tmp_path, "c.vtk", BY_HAND.replace("A title", f"SPACE={space}"))
        with pytest.raises(ValueError, match="its space is stated as '.*'; RAS or LPS is expected"):
            rasmm(other)
    with pytest.raises(ValueError, match=r"^space must be one of rasmm, lpsmm, got 'ras'\.$"):
        open_tractogram(path, space="ras")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("# vtk DataFile", "# DataFile", "it does not begin with '# vtk DataFile Version'"),
        ("ASCII", "TEXT", "its third line is neither ASCII nor BINARY"),
        ("DATASET POLYDATA", "DATASET STRUCTURED_POINTS", "it holds 'DATASET STRUCTURED_POINTS' instead of lines"),
        ("POINTS 4 float", "POINTS 5 float", "could not convert|invalid literal"),
        ("POINTS 4 float", "POINTS 999999999999 float", "it is truncated: 2999999999997 numbers are announced"),
        ("POINTS 4 float", "POINTS -4 float", "'POINTS -4 float' does not give a number"),
        ("POINTS 4 float", "POINTS 4 object", "numbers of the unknown type 'object'"),
        ("POINTS 4 float", "POINTS", "'POINTS' is incomplete"),
        ("1e0", "nothing", "could not convert"),
        ("LINES 3 9", "LINES 3 8", "do not have the number of points|unknown section"),
        ("LINES 3 9", "LINES 2 9", "its lines do not have the number of points that it announces"),
        ("3 0 1 2", "3 0 1 4", "its lines use points 0 to 4, but it has 4"),
        ("3 0 1 2", "3 0 1 -1", "its lines use points -1 to 3, but it has 4"),
        ("3 0 1 2", "-3 0 1 2", "its lines do not have the number of points that it announces"),
        ("VERTICES 1 2", "NOTHING 1 2", "it has the unknown section 'NOTHING'"),
        ("Version 3.0", "Version 5.1", "'OFFSETS' is missing after 'VERTICES'"),
    ],
)
def test_damaged_legacy_files(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in BY_HAND
    path = written(tmp_path, "a.vtk", BY_HAND.replace(old, new, 1))
    for read in (
        lambda: read_streamlines(path, np.eye(4)),
        lambda: DrawnTractogram.from_file(path, color="uniform", max_streamlines=2),
    ):
        with pytest.raises(
            ValueError, match=rf"^The tractogram: the file '.*a.vtk' is damaged \(.*({reason})"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Binary_51.vtk", "Binary_42.vtk", "ASCII_51.vtk"])
def test_a_legacy_file_that_is_cut(tmp_path: Path, name: str) -> None:
    content = CONTENT[name]
    end = content.index(b"POINT_DATA")
    outcomes = []
    for size in range(5, end - 40, 7):
        path = written(tmp_path, "a.vtk", content[:size])
        try:
            outcomes.append(str(read_streamlines(path, np.eye(4))[1].tolist()))
        except ValueError as error:
            outcomes.append(str(error))
    # Cut between the points and the lines, it is a file of points.
    assert all("a.vtk' is damaged (" in outcome or outcome == "[]" for outcome in outcomes)
    assert outcomes.count("[]") <= 2


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("Ascii_None_True_32.vtp", b'type="PolyData"', b'type="ImageData"', "it holds ImageData, not lines"),
        ("Ascii_None_True_32.vtp", b'NumberOfPoints="9"', b'NumberOfPoints="8"', "an array of 24 numbers has 27"),
        ("Ascii_None_True_32.vtp", b'NumberOfLines="3"', b'NumberOfLines="4"', "an array of 4 numbers has 3"),
        ("Ascii_None_True_32.vtp", b'NumberOfLines="3"', b'NumberOfLines="-3"', "its NumberOfLines is '-3'"),
        ("Ascii_None_True_32.vtp", b'Name="connectivity"', b'Name="other"', "an array of 9 numbers|are missing|has 0"),
        ("Ascii_None_True_32.vtp", b"<PolyData>", b"<PolyData", "its XML: "),
        ("Ascii_None_True_32.vtp", b"<PolyData>", b'<!DOCTYPE a [<!ENTITY b "c">]><PolyData>', "entities of XML"),
        ("Ascii_None_True_32.vtp", b'type="Int64"', b'type="Float64"', "it has an array of the type 'Float64'"),
        ("Binary_ZLib_True_64.vtp", b'NumberOfPoints="9"', b'NumberOfPoints="8"', "would unpack to 108"),
        ("Appended_ZLib_False_32.vtp", b"UInt32", b"UInt64", "truncated in an array|would unpack|cannot unpack"),
        ("Appended_None_False_64.vtp", b'offset="', b'offset="999', "an array begins after the end of the file"),
        ("Appended_None_False_64.vtp", b">\n   _", b">\n    ", "truncated in its appended data|array"),
        ("lz4.vtp", b"", b"", "its arrays are compressed by vtkLZ4DataCompressor; save it with vtkZLib"),
    ],
)
def test_damaged_xml_files(tmp_path: Path, name: str, old: bytes, new: bytes, reason: str) -> None:
    assert old in CONTENT[name]
    path = written(tmp_path, "a.vtp", CONTENT[name].replace(old, new))
    with pytest.raises(ValueError, match=rf"^The tractogram: the file '.*a.vtp' is damaged \(.*({reason})") as caught:
        read_streamlines(path, np.eye(4))
    assert "\n" not in str(caught.value)


def test_points_that_would_not_fit_in_memory(tmp_path: Path) -> None:
    content = CONTENT["Binary_ZLib_True_64.vtp"].replace(b'NumberOfPoints="9"', b'NumberOfPoints="99999999999999"')
    with pytest.raises(ValueError, match="cannot be read: there is not enough memory"):
        read_streamlines(written(tmp_path, "a.vtp", content), np.eye(4))


@pytest.mark.parametrize("name", ["a.vtk", "a.fib", "a.vtp"])
def test_other_files_of_these_names(tmp_path: Path, name: str) -> None:
    """For instance the .fib of DSI Studio, which holds orientations."""
    for content in (b"", b"MATLAB" * 100, bytes(range(256)) * 50, b"<", b"<a/>"):
        path = written(tmp_path, name, content)
        with pytest.raises(ValueError, match=f"{name}' is damaged"):
            open_tractogram(path).has_streamlines()
        with pytest.raises(ValueError, match=f"{name}' is damaged"):
            read_streamlines(path, np.eye(4))
