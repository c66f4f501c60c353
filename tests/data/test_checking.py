"""A check of a file tells faults, which make it unusable, from remarks."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests_support import AFFINE, SHAPE, edited, write_hdf5

from dwiml.cli.main import main
from dwiml.data.checking import FileReport, check_hdf5_file


@pytest.fixture
def path(tmp_path: Path, tiny_hdf5: Path) -> Path:
    return Path(shutil.copy(tiny_hdf5, tmp_path / "data.hdf5"))


def remarks_of(report: FileReport, subject: str, group: str) -> list[str]:
    return next(place.remarks for place in report.groups if (place.subject, place.group) == (subject, group))


def change_points(path: Path, subject: str) -> int:
    """Repeat a point in streamlines 1 and 2 (twice), and move one point of streamline 0 outside; return their total."""
    with edited(path) as handle:
        group = handle[subject]["streamlines"]
        points, offsets = group["data"][()], group["offsets"][()]
        points[offsets[0], 0] = SHAPE[0] + 0.5
        points[offsets[1] + 3] = points[offsets[1] + 2]
        points[offsets[2] + 1 : offsets[2] + 3] = points[offsets[2]]
        # The last point of a streamline and the first of the next one are not a step.
        points[offsets[4]] = points[offsets[4] - 1]
        group["data"][...] = points
        del group["euclidean_lengths"]
        return len(offsets)


def test_a_file_without_faults_has_no_remarks(path: Path) -> None:
    # The mask covers everything.
    with edited(path) as handle:
        for name in "abcde":
            handle[f"sub-{name}/wm_mask/data"][0] = 0
    report = check_hdf5_file(path)
    assert report.all_faults == []
    assert report.all_remarks == []


def test_remarks_on_streamlines(path: Path) -> None:
    nb = change_points(path, "sub-b")
    report = check_hdf5_file(path, quick=True)
    assert report.all_faults == []
    assert remarks_of(report, "sub-b", "streamlines") == [
        f"1 of {nb} streamlines have points outside the volume",
        f"2 of {nb} streamlines have repeated points (3 steps of length zero)",
    ]
    assert len(report.all_remarks) == 2
    assert report.all_remarks[0] == f"sub-b/streamlines: 1 of {nb} streamlines have points outside the volume"


def test_remarks_on_lengths(path: Path) -> None:
    with edited(path) as handle:
        group = handle["sub-e/streamlines"]
        points, offsets, lengths = (group[name][()] for name in ("data", "offsets", "lengths"))
        # Streamline 0 stays where it begins; streamline 1 runs to and fro, 6 voxels of 9 mm at each step.
        points[: lengths[0]] = points[0]
        points[offsets[1] : offsets[2]] = np.where(np.arange(lengths[1])[:, None] % 2, (3, 3, 3), (9, 3, 3))
        group["data"][...] = points
        for name in ("sub-e/streamlines", "sub-e/input", "sub-e/wm_mask"):
            handle[name].attrs["affine"] = np.diag([9.0, 9.0, 9.0, 1.0])
        group.attrs["voxel_sizes"] = np.full(3, 9, dtype=np.float32)
        del group["euclidean_lengths"]
        expected = 54 * (lengths[1] - 1)
    assert expected > 500
    found = remarks_of(check_hdf5_file(path), "sub-e", "streamlines")
    assert "1 of 5 streamlines have a length of zero; models cannot learn from them" in found
    assert any(f"are longer than 500 mm, up to {expected} mm" in remark for remark in found)


def test_no_streamlines_is_a_remark(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3, "sub-b": 0})
    report = check_hdf5_file(path)
    assert remarks_of(report, "sub-b", "streamlines") == ["no streamlines"]
    assert report.all_faults == []


def test_constant_features_are_remarked_when_values_are_read(path: Path) -> None:
    with edited(path) as handle:
        for feature in (1, 3):
            handle["sub-c/input/data"][..., feature] = 2.5
    assert check_hdf5_file(path, quick=True).all_remarks == []
    report = check_hdf5_file(path)
    assert remarks_of(report, "sub-c", "input") == ["2 of 4 features are constant (number 1, 3, from 0)"]
    assert remarks_of(report, "sub-c", "wm_mask") == ["all values are 1"]
    with edited(path) as handle:
        handle["sub-c/input/data"][...] = 1
    assert remarks_of(check_hdf5_file(path), "sub-c", "input") == ["all features are constant"]


def test_other_features_are_a_fault(path: Path) -> None:
    with edited(path) as handle:
        group = handle["sub-d/input"]
        values = group["data"][..., :3]
        del group["data"]
        group["data"] = values
        group.attrs["nb_features"] = 3
    assert check_hdf5_file(path).all_faults == [
        "Volume group 'input' has 3 features for subject 'sub-d' and 4 for 'sub-a'; all subjects must have the same "
        "number."
    ]


def test_other_grids_of_a_subject_are_a_fault(path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1.5
    with edited(path) as handle:
        handle["sub-d/streamlines"].attrs["affine"] = moved
    assert check_hdf5_file(path).all_faults == [
        "The groups 'input' and 'streamlines' of subject 'sub-d' have different affines, up to 1.5 mm apart; all "
        "groups of a subject must be on one grid."
    ]


def test_remarks_do_not_change_the_exit_code(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_points(path, "sub-b")
    assert main(["check_hdf5", str(path), "--quick"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in printed if "  sub-b    streamlines" in line] == [["2", "remarks"]]
    assert sum(line.startswith("remark: sub-b/streamlines: ") for line in printed) == 2
    assert printed[-1].endswith("Faults: 0. Remarks: 2.")
    with h5py.File(path, "r+") as handle:
        handle["sub-b/streamlines/data"][5, 1] = np.nan
    assert main(["check_hdf5", str(path)]) == 2
    assert "NaN or infinite coordinates" in capsys.readouterr().err
