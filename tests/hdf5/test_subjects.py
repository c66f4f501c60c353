from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from dwiml.hdf5.inputs.subjects import check_folders, find_files, read_subject_lists


def test_lists_from_files_and_from_names(tmp_path):
    (tmp_path / "training.txt").write_text("# the first site\nsub-01\n\n  sub-02  # moved a little\n")
    (tmp_path / "testing.txt").write_text("")
    lists = read_subject_lists(
        {"training": tmp_path / "training.txt", "validation": ("sub-03",), "testing": str(tmp_path / "testing.txt")}
    )
    assert lists == {"training": ["sub-01", "sub-02"], "validation": ["sub-03"], "testing": []}


@pytest.mark.parametrize(
    ("training", "validation", "sentence"),
    [
        ([], ["a"], "There is no training subject"),
        (["a", "b", "a"], [], r"Subject 'a' is listed 2 times \(training and training\)"),
        (["a"], ["a"], r"Subject 'a' is listed 2 times \(training and validation\)"),
        (["site/a"], [], "A training subject 'site/a' cannot be used as a file name"),
        ([".."], [], r"A training subject '\.\.' cannot be used as a file name"),
    ],
)
def test_bad_lists(training, validation, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_subject_lists({"training": training, "validation": validation, "testing": []})


def test_a_list_that_is_no_text_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="list of training subjects '.*none.txt' was not found"):
        read_subject_lists({"training": tmp_path / "none.txt"})
    (tmp_path / "data.bin").write_bytes(b"\x89HDF\xff")
    with pytest.raises(ValueError, match="'.*data.bin', is not a text file"):
        read_subject_lists({"training": tmp_path / "data.bin"})


def test_a_list_may_be_dev_null_and_no_other_device(tmp_path):
    lists = {"training": ["a"], "validation": "/dev/null", "testing": tmp_path / "null"}
    (tmp_path / "null").symlink_to("/dev/null")
    assert read_subject_lists(lists) == {"training": ["a"], "validation": [], "testing": []}
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises((ValueError, IsADirectoryError), match="The list of testing subjects '.*' is "):
            read_subject_lists({**lists, "testing": tmp_path / name})


@pytest.mark.parametrize("name", ["../../outside", "a/b", "..", "", "a\nb", "x" * 300])
def test_a_name_that_leads_elsewhere_is_no_subject(name):
    with pytest.raises(ValueError, match="A training subject .* cannot be used as a file name"):
        read_subject_lists({"training": [name], "validation": [], "testing": []})


def test_missing_folders_are_told_with_those_that_exist(tmp_path):
    for k in range(8):
        (tmp_path / f"sub-{k}").mkdir()
    check_folders(tmp_path, ["sub-0", "sub-7"])
    with pytest.raises(FileNotFoundError, match="has no folder for 'x', 'y'; it has: 'sub-0', .*'sub-4' and 3 more"):
        check_folders(tmp_path, ["x", "sub-1", "y"])
    with pytest.raises(FileNotFoundError, match="subjects_folder '.*none' was not found"):
        check_folders(tmp_path / "none", ["x"])


def test_files_of_patterns(tmp_path):
    (tmp_path / "bundles").mkdir()
    for name in ("bundles/b.trk", "bundles/a.trk", "bundles/[x].trk", "bundles/x.trk", "fa.nii"):
        (tmp_path / name).touch()

    def names(*patterns, **options):
        return [str(path.relative_to(tmp_path)) for path in find_files(tmp_path, patterns, "Group 'g'", **options)]

    assert names("fa.nii", "bundles/?.trk", "bundles/*.trk", allow_missing=True) == [
        "fa.nii",
        "bundles/[x].trk",
        "bundles/a.trk",
        "bundles/b.trk",
        "bundles/x.trk",
    ]
    assert names("bundles/[x].trk") == ["bundles/[x].trk"]
    assert names("bundles/[x*") == ["bundles/[x].trk"]
    with pytest.raises(FileNotFoundError, match="Group 'g': '.*md.nii' was not found; '.*' has: 'bundles', 'fa.nii'"):
        names("md.nii")
    with pytest.raises(FileNotFoundError, match="bundles' has: '"):
        names("bundles/*.tck")
    with pytest.raises(FileNotFoundError, match="has: 'bundles', 'fa.nii'"):
        names("no/such/folder/*.tck")
    with pytest.raises(ValueError, match="a.trk' is matched by two entries"):
        names("bundles/a.trk", "bundles/*.trk")


@pytest.mark.parametrize("pattern", ["odd.trk", "*.trk", "o*"])
@pytest.mark.parametrize("allow_missing", [False, True])
def test_what_is_found_and_is_not_a_file_is_reported(tmp_path, pattern, allow_missing):
    odd = tmp_path / "odd.trk"
    odd.mkdir()
    with pytest.raises(IsADirectoryError, match="^Group 'g': '.*odd.trk' is a folder; give a file.$"):
        find_files(tmp_path, [pattern], "Group 'g'", allow_missing=allow_missing)
    odd.rmdir()
    odd.symlink_to("gone.trk")
    with pytest.raises(FileNotFoundError, match="^Group 'g': '.*odd.trk' is a link to 'gone.trk', which was not"):
        find_files(tmp_path, [pattern], "Group 'g'", allow_missing=allow_missing)
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(ValueError, match="^Group 'g': '.*odd.trk' is not a regular file"):
        find_files(tmp_path, [pattern], "Group 'g'", allow_missing=allow_missing)
    odd.unlink()
    odd.with_suffix(".trx").mkdir()
    pattern = pattern.replace("trk", "trx")
    assert find_files(tmp_path, [pattern], "Group 'g'", allow_missing=allow_missing) == [odd.with_suffix(".trx")]


def test_a_file_with_several_names_is_found_once_under_its_own(tmp_path, caplog):
    (tmp_path / "b.trk").touch()
    (tmp_path / "c.trk").write_text("another")
    (tmp_path / "a.trk").symlink_to("b.trk")
    os.link(tmp_path / "b.trk", tmp_path / "d.trk")
    (tmp_path / "way").symlink_to(".")
    assert [path.name for path in find_files(tmp_path, ["*.trk"], "Group 'g'")] == ["b.trk", "c.trk"]
    assert len(caplog.messages) == 1
    assert re.fullmatch(
        "Group 'g': '.*/a.trk', '.*/d.trk' are the same file as '.*/b.trk', which is read once.", caplog.messages[0]
    )
    for other in ("a.trk", "way/b.trk", "d.*"):
        with pytest.raises(ValueError, match=r"^Group 'g': '.*' and '.*/b.trk', matched by two entries of the list, "):
            find_files(tmp_path, ["b.trk", other], "Group 'g'")
    assert len(find_files(tmp_path, ["a.trk", "c.trk"], "Group 'g'")) == 2


def test_a_trx_folder_and_a_link_to_it_are_one_tractogram(tmp_path, caplog):
    (tmp_path / "b.trx").mkdir()
    (tmp_path / "a.trx").symlink_to("b.trx")
    assert find_files(tmp_path, ["*.trx"], "Group 'g'") == [tmp_path / "b.trx"]
    assert "a.trx' is the same file as" in caplog.text


def test_the_header_and_the_voxels_of_an_image_are_one_image(tmp_path, caplog):
    for name in ("fa.hdr", "fa.img", "md.hdr"):
        (tmp_path / name).touch()
    assert [path.name for path in find_files(tmp_path, ["*"], "Group 'g'")] == ["fa.hdr", "md.hdr"]
    assert "fa.img' is the same image as" in caplog.text
    with pytest.raises(ValueError, match="fa.img' and '.*fa.hdr', matched by two entries"):
        find_files(tmp_path, ["fa.hdr", "*.img"], "Group 'g'")


def test_an_absolute_path_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path / "here")
    assert find_files(Path(), [str(tmp_path / "a.txt")], "image") == [tmp_path / "a.txt"]
    assert find_files(Path(), [str(tmp_path / "*.txt")], "image") == [tmp_path / "a.txt"]
    assert find_files(Path(), ["../*.txt"], "image") == [Path("../a.txt")]
