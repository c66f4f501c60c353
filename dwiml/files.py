"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def written_whole(path: str | Path, *, before_naming: Callable[[], None] | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; at the end of the block it takes that name, at once and for good.

    A kill, an error or a full disk in between leaves what was at ``path`` as it was. An error removes the temporary
    file; a kill leaves it, under a hidden name that ends in ``.tmp``.

    Parameters
    ----------
    path
        The final name; its folder is made when it is missing.
    before_naming
        Called when all is on the disk, just before the temporary file takes its name. Not called after an error.

    Raises
    ------
    OSError
        When it cannot be written (a full disk), naming ``path``; also where the code in the block made another error
        of it, as torch does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    file = _RemembersFailure(handle, "wb")
    try:
        with io.BufferedWriter(file) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files that only their owner reads; a result is for the whole group.
        os.chmod(temporary, 0o666 & ~_umask())
        if before_naming is not None:
            before_naming()
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        failure = file.failure if isinstance(error, RuntimeError) else error
        if isinstance(failure, OSError) and failure.errno and failure.filename is None:
            # A full disk is told without a name.
            raise OSError(failure.errno, os.strerror(failure.errno), str(path)) from error
        raise
    sync_folder(path.parent)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, indented, whole or not at all; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with written_whole(path) as stream:
        stream.write(text.encode())


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises
    ------
    ValueError
        When the file is not JSON, or has a key twice; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(), object_pairs_hook=without_repeats)
    except ValueError as error:
        raise ValueError(f"'{path}' is not valid JSON ({error}).") from error


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; refuse a key written twice, of which JSON would silently keep the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(map(repr, repeated))} appears twice")
    return content


def sync_folder(folder: Path) -> None:
    """Have the folder's own entries written to the disk, so that a new name survives a power cut."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _RemembersFailure(io.FileIO):
    """A file that keeps the error of a write: torch.save tells a full disk as a RuntimeError about positions."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
