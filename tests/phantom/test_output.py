"""The output folder is created atomically, and files of the user are never deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dwiml.phantom.output import new_folder


def make(out_dir: Path, text: str = "new", *, overwrite: bool = False) -> None:
    with new_folder(out_dir, overwrite=overwrite, description={"seed": 3}) as folder:
        assert folder.parent == out_dir.resolve().parent
        (folder / "subjects").mkdir()
        (folder / "subjects/a.txt").write_text(text)


def test_new_folder_holds_its_files_and_a_manifest(tmp_path: Path) -> None:
    make(tmp_path / "not" / "yet" / "ph")
    assert (tmp_path / "not/yet/ph/subjects/a.txt").read_text() == "new"
    assert json.loads((tmp_path / "not/yet/ph/phantom.json").read_text()) == {"seed": 3, "files": ["subjects/a.txt"]}
    assert [path.name for path in (tmp_path / "not/yet").iterdir()] == ["ph"]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "ph").mkdir()
    make(tmp_path / "ph")
    assert (tmp_path / "ph/subjects/a.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["ph"]


def test_existing_phantom_is_replaced_only_when_asked(tmp_path: Path) -> None:
    make(tmp_path / "ph", "old")
    (tmp_path / "ph/subjects/a.txt").write_text("edited")
    with pytest.raises(FileExistsError, match=r"is not empty; choose another one, or replace it with overwrite=True"):
        make(tmp_path / "ph")
    assert (tmp_path / "ph/subjects/a.txt").read_text() == "edited"
    make(tmp_path / "ph", overwrite=True)
    assert (tmp_path / "ph/subjects/a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["ph"]


@pytest.mark.parametrize("user_file", ["notes.txt", "subjects/model.pt", ".hidden", "experiments/run/log.txt"])
def test_users_files_are_never_replaced(tmp_path: Path, user_file: str) -> None:
    make(tmp_path / "ph", "old")
    (tmp_path / "ph" / user_file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "ph" / user_file).write_text("mine")
    with pytest.raises(
        FileExistsError, match=rf"did not create \(for example '{user_file}'\), so it cannot be replaced"
    ):
        make(tmp_path / "ph", overwrite=True)
    assert (tmp_path / "ph" / user_file).read_text() == "mine"
    assert (tmp_path / "ph/subjects/a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["ph"]


@pytest.mark.parametrize("manifest", [None, "not json", "[]", '{"files": 3}'])
def test_folder_without_a_valid_manifest_is_not_replaced(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "ph").mkdir()
    (tmp_path / "ph/thesis.tex").write_text("mine")
    if manifest is not None:
        (tmp_path / "ph/phantom.json").write_text(manifest)
    with pytest.raises(FileExistsError, match="did not create"):
        make(tmp_path / "ph", overwrite=True)
    assert (tmp_path / "ph/thesis.tex").read_text() == "mine"


def test_file_added_in_the_meantime_is_kept(tmp_path: Path) -> None:
    def run() -> None:
        with new_folder(tmp_path / "ph", overwrite=True, description={}):
            (tmp_path / "ph").mkdir()
            (tmp_path / "ph/mine.txt").write_text("mine")

    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        run()
    assert (tmp_path / "ph/mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["ph"]


def test_an_interruption_keeps_the_old_folder(tmp_path: Path) -> None:
    make(tmp_path / "ph", "old")

    def run() -> None:
        with new_folder(tmp_path / "ph", overwrite=True, description={}) as folder:
            (folder / "half.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (tmp_path / "ph/subjects/a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["ph"]


def test_a_file_and_the_current_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ph").write_text("a file")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        make(tmp_path / "ph", overwrite=True)
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for name in (".", ".."):
        with pytest.raises(ValueError, match="is the current folder or contains it"):
            make(Path(name), overwrite=True)


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    make(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk/subjects/a.txt").exists()
