"""A file that cannot be opened is told with the true reason; nothing waits for a pipe."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dwiml.files import check_file, explained, open_regular, parse_json, read_json, reason_of, remove_unfinished


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for opened in (check_file, lambda path, what: open_regular(path, what).__enter__()):
        with pytest.raises(FileNotFoundError, match=r"The mask '.*none' was not found"):
            opened(tmp_path / "none", "The mask")
        with pytest.raises(IsADirectoryError, match="is a folder; give a file"):
            opened(tmp_path, "The mask")
        with pytest.raises(ValueError, match="not a regular file but a device, a pipe or a socket"):
            opened(tmp_path / "pipe", "The mask")


def test_a_link_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"x"
    with pytest.raises(OSError, match="symbolic link"), open_regular(tmp_path / "link", follow_links=False):
        pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "x"), "too many files are open"),
        (PermissionError(errno.EACCES, "x"), "permission denied"),
        (OSError("Unable to open file (unable to lock file, errno = 11, error message = '...')"), "it is locked by"),
        (RuntimeError("Can't read data (file read failed: errno = 13, error message = 'x')"), "permission denied"),
    ],
)
def test_a_refusal_is_not_called_damage(error: BaseException, reason: str) -> None:
    assert reason in reason_of(error)
    with pytest.raises(OSError, match=reason), explained("a.hdf5", "HDF5 file"):
        raise error


def test_damage_is_called_damage() -> None:
    sentence = r"HDF5 file 'a' is damaged \(bad b-tree\); copy it again or recreate it\."
    with pytest.raises(ValueError, match=sentence), explained("a", "HDF5 file"):
        raise RuntimeError("Bad b-tree.")
    with pytest.raises(ValueError, match="not enough memory for its announced content"), explained("a"):
        raise MemoryError


@pytest.mark.parametrize("raw", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}'])
def test_json_with_and_without_a_byte_order_mark(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"a": NaN}', "JSON has no NaN"),
        (b"\xff\xfe", "utf-8"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, raw: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(ValueError, match=f"The file '.*a.json' is not valid JSON .*{reason}"):
        read_json(tmp_path / "a.json")


def test_a_huge_json_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    with pytest.raises(ValueError, match="is larger than"):
        read_json(tmp_path / "a.json", max_bytes=5)
    assert parse_json("[1]") == [1]


def test_only_own_unfinished_files_are_removed(tmp_path: Path) -> None:
    for name in (".latest.pt.abc123.tmp", ".mine.tmp", ".other.pt.abc.tmp"):
        (tmp_path / name).write_text("x")
    remove_unfinished(tmp_path, ["latest.pt"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", ".other.pt.abc.tmp"]
