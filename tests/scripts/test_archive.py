"""What is taken from the archive of the real brain."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from real_brain import archive  # noqa: E402


def make_tar(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    """Write a .tar.gz; a member whose content is a text is a symbolic link to it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_unpack_takes_what_is_needed_and_nothing_else(tmp_path):
    tar = make_tar(
        tmp_path / "a.tar.gz", [("pkg/x/data.bin", b"wanted"), ("pkg/other", b"no"), ("../escaped", b"evil")]
    )
    target = tmp_path / "below" / "out"
    target.mkdir(parents=True)
    paths = archive.unpack(tar, target, folder="pkg", needed={"mine": "x/data.bin"})
    assert paths == {"mine": target / "mine"}
    assert paths["mine"].read_bytes() == b"wanted"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.tar.gz", "mine"]


@pytest.mark.parametrize("content", ["/etc/hostname", None], ids=["symbolic link", "missing"])
def test_unpack_refuses_a_member_that_is_no_regular_file(tmp_path, content):
    tar = make_tar(tmp_path / "a.tar.gz", [("pkg/other", b"")] + ([("pkg/data", content)] if content else []))
    with pytest.raises(ValueError, match="has no regular file pkg/data"):
        archive.unpack(tar, tmp_path, folder="pkg", needed={"mine": "data"})
    assert not (tmp_path / "mine").exists()


def test_unpack_names_a_truncated_archive(tmp_path):
    tar = make_tar(tmp_path / "a.tar.gz", [("pkg/data", bytes(1000))])
    tar.write_bytes(tar.read_bytes()[:60])
    with pytest.raises(ValueError, match="cannot be read as a tar archive"):
        archive.unpack(tar, tmp_path, folder="pkg", needed={"mine": "data"})


def test_sha256_is_checked(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    archive.check_sha256(path, hashlib.sha256(b"content").hexdigest())
    with pytest.raises(ValueError, match="damaged or another file"):
        archive.check_sha256(path, hashlib.sha256(b"Content").hexdigest())
    with pytest.raises(FileNotFoundError, match="absent not found"):
        archive.check_sha256(tmp_path / "absent")
