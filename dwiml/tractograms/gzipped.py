"""Read .trk.gz and .tck.gz files as streams, so that they need not be unpacked on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dwiml.files import check_memory, open_regular
from dwiml.files.images import readable
from dwiml.files.opening import open_gzip
from dwiml.tractograms.kinds import is_gzipped

# Bytes read at once.
_SLAB = 2**20


@contextmanager
def open_content(path: Path, what: str = "The file") -> Iterator[IO[bytes]]:
    """Open a file, or the content of a .gz file, for reading; see :func:`dwiml.files.open_regular`.

    Reading a damaged .gz file raises an OSError, an EOFError or an isal.isal_zlib.error.
    """
    with open_regular(path, what) as stream:
        if not is_gzipped(path):
            yield stream
            return
        with open_gzip(stream) as content:
            yield content


def content_size(path: Path, label: str) -> int:
    """Return the size of the content of a .gz file, in bytes.

    The file is read to its end, where gzip stores a checksum (RFC 1952).

    Raises
    ------
    ValueError
        If the file is damaged, or its content does not fit in the memory of this machine.
    """
    size = 0
    with readable(path, label), open_content(path) as stream:
        while nb := len(stream.read(_SLAB)):
            size += nb
            check_memory(size, "its content, uncompressed,")
    return size
