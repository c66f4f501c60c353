"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import glob
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dwiml.files.outputs import refuse_irregular


@contextmanager
def written_whole(
    path: str | os.PathLike[str],
    *,
    before_naming: Callable[[], None] | None = None,
    follow_links: bool = True,
) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; at the end of the block it takes that name, at once and for good.

    A kill, an error or a full disk in between leaves what was at ``path`` as it was. An error removes the temporary
    file; a kill leaves it, under a hidden name that ends in ``.tmp``.

    Parameters
    ----------
    path
        The final name; its folder is made when it is missing.
    before_naming
        Called when all is on the disk, just before the temporary file takes its name. Not called after an error.
    follow_links
        Where ``path`` is a symbolic link: replace what it points to (True, for outputs that a user names) or the link
        itself (False, for the files of an experiment, which never reach outside its folder).

    Raises
    ------
    IsADirectoryError, ValueError
        When a folder, a device, a pipe or a socket stands there.
    OSError
        When it cannot be written (a full disk), naming ``path``; also where the code in the block made another error
        of it, as torch does.
    """
    path = Path(path)
    refuse_irregular(path)
    if follow_links:
        path = Path(os.path.realpath(path))
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
            # The error of a full disk names no file.
            raise OSError(failure.errno, os.strerror(failure.errno), str(path)) from error
        raise
    sync_folder(path.parent)


def write_json(path: str | os.PathLike[str], content: Any, *, follow_links: bool = True) -> None:
    """Write JSON, indented, whole or not at all; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with written_whole(path, follow_links=follow_links) as stream:
        stream.write(text.encode())


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed process left half-written of files of these names; other hidden files stay."""
    for name in names:
        for unfinished in folder.glob(f".{glob.escape(name)}.*.tmp"):
            if not unfinished.is_symlink() and unfinished.is_file():
                unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the folder's own entries written to the disk, so that a new name survives a power cut."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _RemembersFailure(io.FileIO):
    """A file that keeps the error of a write: torch.save reports a full disk as a RuntimeError about positions."""

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
