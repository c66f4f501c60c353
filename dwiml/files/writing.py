"""Write files atomically: whatever happens, a file is either complete or unchanged."""

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
def atomic_write(
    path: str | os.PathLike[str],
    *,
    before_naming: Callable[[], None] | None = None,
    follow_links: bool = True,
) -> Iterator[IO[bytes]]:
    """Write a file atomically: open a temporary file next to ``path``, and rename it at the end of the block.

    Until then, an existing file at ``path`` is unchanged, whether an error occurs, the disk is full or the process is
    killed. If an error is raised, the temporary file is removed; if the process is killed, it remains, under a hidden
    name that ends in ``.tmp``.

    Parameters
    ----------
    path
        The final path; its folder is created if it is missing.
    before_naming
        Called just before the temporary file is renamed, once all data are on the disk; not called after an error.
    follow_links
        If ``path`` is a symbolic link, replace its target (True, for outputs named by the user) or the link itself
        (False, for the files of an experiment, which must stay in its folder).

    Yields
    ------
    binary stream
        The temporary file.

    Raises
    ------
    IsADirectoryError, ValueError
        If ``path`` is a folder, a device, a pipe or a socket.
    OSError
        If the file cannot be written (for instance, a full disk). The message names ``path``, even if the code in the
        block converted the error to another one, as torch does.
    """
    path = Path(path)
    refuse_irregular(path)
    if follow_links:
        path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    file = _ErrorKeepingFile(handle, "wb")
    try:
        with io.BufferedWriter(file) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp creates files that only their owner can read; results get the usual permissions.
        os.chmod(temporary, 0o666 & ~_umask())
        if before_naming is not None:
            before_naming()
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        failure = file.failure if isinstance(error, RuntimeError) else error
        if isinstance(failure, OSError) and failure.errno and failure.filename is None:
            # The error of a full disk does not name the file.
            raise OSError(failure.errno, os.strerror(failure.errno), str(path)) from error
        raise
    sync_folder(path.parent)


def write_json(path: str | os.PathLike[str], content: Any, *, follow_links: bool = True) -> None:
    """Write an indented JSON file atomically; see :func:`atomic_write`.

    Raises
    ------
    ValueError
        If the content holds NaN or infinity, which are not JSON.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path, follow_links=follow_links) as stream:
        stream.write(text.encode())


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files that :func:`atomic_write` left for files of these names in a killed process."""
    for name in names:
        for unfinished in folder.glob(f".{glob.escape(name)}.*.tmp"):
            if not unfinished.is_symlink() and unfinished.is_file():
                unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that a new file name survives a power failure."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _ErrorKeepingFile(io.FileIO):
    """A file that keeps the error of a write, because torch.save reports a full disk as an unrelated RuntimeError."""

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
