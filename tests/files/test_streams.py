"""Standard streams that cannot be written: no message stops work."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from dwiml.files.streams import SafeStream, guarded_streams, safe_stderr

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a disk that is always full")


def run(code: str, redirect: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -c '{code}' {redirect}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)


@needs_full
def test_the_first_failure_is_kept_and_nothing_is_raised() -> None:
    raw = FULL.open("w", buffering=1)
    stream = SafeStream(lambda: raw)
    for _ in range(3):
        assert stream.write("a line\n") == 7
    stream.flush()
    assert isinstance(stream.error, OSError)
    assert "No space left" in str(stream.error)
    with pytest.raises(OSError, match="No space left"):
        raw.close()


def test_a_stream_that_is_closed_or_missing() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (SafeStream(lambda: closed), SafeStream(lambda: None)):
        assert not stream.isatty()
        assert stream.error is None
        stream.write("lost")
        stream.flush()
        assert stream.error is not None


def test_characters_that_the_encoding_lacks_are_escaped() -> None:
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="ascii")
    stream = SafeStream(lambda: text)
    stream.write("sub-é done\n")
    stream.flush()
    assert raw.getvalue() == b"sub-\\xe9 done\n"
    assert stream.error is None
    assert stream.encoding == "ascii"


def test_a_guard_in_a_guard_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with guarded_streams() as outer, guarded_streams() as inner:
        assert inner == outer
        sys.stdout.write("told\n")
        sys.stderr.write("warned\n")
        safe_stderr.write("safely\n")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("told\n", "warned\nsafely\n")


@needs_full
@pytest.mark.parametrize("redirect", ["> /dev/full", "2> /dev/full", "> /dev/full 2>&1", ">&-", "2>&-", ">&- 2>&-"])
def test_python_ends_as_if_nothing_had_happened(redirect: str) -> None:
    code = (
        "import sys; from dwiml.files.streams import guarded_streams\n"
        "with guarded_streams():\n"
        '    print("x" * 10); print("y" * 10, file=sys.stderr)\n'
        "sys.exit(7)"
    )
    done = run(code, redirect)
    assert done.returncode == 7
    assert "Exception" not in done.stdout + done.stderr


def test_a_file_does_not_take_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import sys; from dwiml.files.streams import guarded_streams\n"
        "with guarded_streams():\n"
        f'    opened = open("{tmp_path}/mine", "w").fileno()\n'
        "sys.exit(opened)"
    )
    assert run(code, "<&- >&- 2>&-").returncode > 2
