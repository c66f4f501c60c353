from __future__ import annotations

from pathlib import Path

import pytest

from dwiml.hdf5.layouts.patterns import filled, find_folders, placeholders, required_placeholders


@pytest.mark.parametrize(
    ("pattern", "values", "expected"),
    [
        ("{subject}__fa.nii.gz", {"subject": "a"}, "a__fa.nii.gz"),
        ("sub-{subject}[_ses-{session}]_fa.nii", {"subject": "01"}, "sub-01_fa.nii"),
        ("sub-{subject}[_ses-{session}]_fa.nii", {"subject": "01", "session": "2"}, "sub-01_ses-2_fa.nii"),
        ("[x]_{session}_*", {"subject": "01"}, "[x]_{session}_*"),
        ("{subject}", {"subject": "{session}", "session": "2"}, "{session}"),
        ("{root}/{set}/{subject}", {"subject": "1", "set": "trainset"}, "{root}/trainset/1"),
    ],
)
def test_placeholders_are_replaced_once(pattern: str, values: dict[str, str], expected: str) -> None:
    assert filled(pattern, values) == expected


def test_placeholders_of_a_pattern() -> None:
    assert placeholders("sub-{subject}[/ses-{session}]/{other}") == ["subject", "session"]
    assert required_placeholders("sub-{subject}[/ses-{session}]") == ["subject"]


def test_folders_with_and_without_sessions(tmp_path: Path) -> None:
    for name in ("sub-02/dwi", "sub-01/ses-b/dwi", "sub-01/ses-a/dwi", "sub-01/dwi", "sub-03/anat", "other/dwi"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".sub-04/dwi").mkdir(parents=True)
    (tmp_path / "sub-05").write_text("a file")
    found = find_folders(tmp_path, "sub-{subject}[/ses-{session}]/dwi")
    assert found == [
        (tmp_path / "sub-01/ses-a/dwi", {"subject": "01", "session": "a"}),
        (tmp_path / "sub-01/ses-b/dwi", {"subject": "01", "session": "b"}),
        (tmp_path / "sub-02/dwi", {"subject": "02"}),
    ]
    assert [values["subject"] for _, values in find_folders(tmp_path, "sub-{subject}")] == ["01", "02", "03"]
    assert find_folders(tmp_path, "nowhere/{subject}") == []


def test_a_placeholder_stands_for_the_same_everywhere(tmp_path: Path) -> None:
    for name in ("train/01/01_01", "train/01/02_02", "train/02/02_02", "valid/01/01_01", "valid/01/01_02"):
        (tmp_path / name).mkdir(parents=True)
    assert [(str(path.relative_to(tmp_path)), values) for path, values in find_folders(tmp_path, "{set}/{subject}/*")][
        :2
    ] == [
        ("train/01/01_01", {"set": "train", "subject": "01"}),
        ("train/01/02_02", {"set": "train", "subject": "01"}),
    ]
    same = [str(path.relative_to(tmp_path)) for path, _ in find_folders(tmp_path, "*/{subject}/{subject}_{subject}")]
    assert same == ["train/01/01_01", "valid/01/01_01", "train/02/02_02"]
    assert [values["subject"] for _, values in find_folders(tmp_path / "valid/01", "{subject}_{subject}")] == ["01"]


def test_other_braces_and_special_characters_are_ordinary(tmp_path: Path) -> None:
    for name in ("{a}.b+01", "{a}xb+02", "sub-[{03}]"):
        (tmp_path / name).mkdir()
    for pattern, name in (("{a}.b+{subject}", "01"), ("sub-[{{subject}}]", "03"), ("{a}*+{subject}", "01")):
        assert find_folders(tmp_path, pattern)[0][1] == {"subject": name}
