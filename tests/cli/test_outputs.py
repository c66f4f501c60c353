"""Outputs are checked before the work: nothing is lost, and nothing refused at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwiml.cli.outputs import check_outputs


def test_new_files_and_files_to_replace(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    check_outputs({"--json": tmp_path / "new", "--figure": None}, inputs=[tmp_path / "old", None], overwrite=False)
    check_outputs({"--json": tmp_path / "old"}, overwrite=True)
    with pytest.raises(FileExistsError):
        check_outputs({"--json": tmp_path / "old"}, overwrite=False)


@pytest.mark.parametrize(
    ("outputs", "error", "sentence"),
    [
        ({"--json": "in.trk"}, ValueError, "--json: 'in.trk' is an input of the command"),
        ({"--json": "./link.trk"}, ValueError, "--json: 'link.trk' is an input of the command"),
        ({"OUT": "a.trk", "--report": "./a.trk"}, ValueError, "--report: 'a.trk' is what OUT writes too"),
        ({"OUT": "gone/a.trk"}, FileNotFoundError, "OUT: the folder 'gone' does not exist"),
        ({"OUT": "folder"}, IsADirectoryError, "OUT: 'folder' is a folder"),
        ({"OUT": "old"}, FileExistsError, "OUT: 'old' exists already; use -f"),
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
