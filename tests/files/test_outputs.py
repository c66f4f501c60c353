"""Outputs are checked before the work: nothing is lost, and nothing refused at the end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dwiml.files import atomic_write, check_outputs, write_json


def test_new_files_and_files_to_replace(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    check_outputs({"--json": tmp_path / "new", "--figure": None}, inputs=[tmp_path / "old", None], overwrite=False)
    check_outputs({"--json": tmp_path / "old"}, overwrite=True)
    with pytest.raises(FileExistsError):
        check_outputs({"--json": tmp_path / "old"}, overwrite=False)


@pytest.mark.parametrize(
    ("outputs", "error", "sentence"),
    [
        ({"--json": "in.trk"}, ValueError, "--json: 'in.trk' is an input"),
        ({"--json": "./link.trk"}, ValueError, "--json: 'link.trk' is an input"),
        ({"OUT": "a.trk", "--report": "./a.trk"}, ValueError, "--report: 'a.trk' is also the file of OUT"),
        ({"OUT": "gone/a.trk"}, FileNotFoundError, "OUT: the folder 'gone' does not exist"),
        ({"OUT": "folder"}, IsADirectoryError, "OUT: 'folder' is a folder"),
        ({"OUT": "old"}, FileExistsError, "OUT: 'old' exists; replace it with overwrite=True"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str], error: type[Exception], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.trk", "old"):
        Path(name).write_text("x")
    Path("folder").mkdir()
    Path("link.trk").symlink_to("in.trk")
    with pytest.raises(error, match=sentence):
        check_outputs(outputs, inputs=["in.trk"], overwrite=False)


def test_inputs_are_seen_through_links_and_folders(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "bundle.trk").write_text("x")
    (tmp_path / "hard.trk").hardlink_to(truth / "bundle.trk")
    with pytest.raises(ValueError, match="hard.trk' is a file of '.*truth', which is an input"):
        check_outputs({"--json": tmp_path / "hard.trk"}, inputs=[truth], overwrite=True)
    with pytest.raises(ValueError, match="bundle.trk' is a file of"):
        check_outputs({"--json": truth / "bundle.trk"}, inputs=[truth], overwrite=True)
    check_outputs({"--json": truth / "new.json"}, inputs=[truth], overwrite=True)


def test_nothing_is_written_into_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "way").symlink_to("exp")
    for place in (tmp_path / "exp" / "report.json", tmp_path / "way" / "report.json"):
        with pytest.raises(ValueError, match="is inside the experiment"):
            check_outputs({"--report": place}, experiments=[tmp_path / "exp"], overwrite=True)


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "way").symlink_to("pipe")
    for name in ("pipe", "way"):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="is not a regular file but a device, a pipe or a socket"):
                check_outputs({"--json": tmp_path / name}, overwrite=overwrite)
        with pytest.raises(ValueError, match="is not a regular file"), atomic_write(tmp_path / name):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_is_followed_or_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to("target")
    write_json(link, 1)
    assert link.is_symlink()
    assert target.read_text() == "1\n"
    write_json(link, 2, follow_links=False)
    assert not link.is_symlink()
    assert (link.read_text(), target.read_text()) == ("2\n", "1\n")
