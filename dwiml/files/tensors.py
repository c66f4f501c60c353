"""Write files of tensors with a digest, and read them so that an untrusted file can do no harm."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from dwiml.arguments import kind_shown, quoted, shown
from dwiml.files.archive import COMMENT_SIZE, NotPlainError, check_archive
from dwiml.files.opening import explained, open_regular

# The file is a zip archive written by torch.save, and its SHA-256 (FIPS 180-4) is the archive comment, at its
# end. It can therefore be read by torch.load and unzip. torch itself does not verify any checksum.
KINDS = ("checkpoint", "weights")
_LABEL = re.compile(rb"dwiml (checkpoint|weights)\s+sha256:")
_SIZE_FIELD = COMMENT_SIZE.to_bytes(2, "little")
_NO_COMMENT = bytes(2)
_CHUNK = 1 << 22
# Dtypes that read_tensors accepts; the storages in dwiml.files.archive have the same.
_DTYPES = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)
_PLAIN = frozenset({bool, int, float, complex, str, type(None), dict, OrderedDict, list, tuple, set})


def write_tensors(content: Any, stream: IO[bytes], *, kind: str) -> None:
    """Write a file with ``torch.save``, with its SHA-256 as the archive comment.

    Parameters
    ----------
    content
        Plain values and tensors, which are not checked; see :func:`as_plain`.
    stream
        An empty seekable file.
    kind
        One of :data:`KINDS`, recorded in the comment.
    """
    hashed = _Hashed(stream)
    torch.save(content, cast("IO[bytes]", hashed))
    # The last field of an archive is the size of its comment.
    stream.seek(-len(_SIZE_FIELD), io.SEEK_CUR)
    label = f"dwiml {kind:<10} sha256:".encode()
    stream.write(_SIZE_FIELD + label + hashed.digest())


def read_tensors(
    path: str | os.PathLike[str],
    what: str,
    *,
    advice: str = "",
    max_bytes: int | None = None,
    of_dwiml: bool = True,
) -> tuple[Any, bool]:
    """Read a file of plain values and tensors to the CPU. It cannot run code or use more memory than its size.

    Parameters
    ----------
    path
        The file; links are followed, devices and pipes are refused.
    what
        Beginning of error messages, for instance ``"Checkpoint"``.
    advice
        What to do about a damaged file; empty if the caller adds it.
    max_bytes
        Maximum size of the file, in bytes; None for any size.
    of_dwiml
        Whether dwiml should have written the file, for error messages.

    Returns
    -------
    content
        The saved object.
    has_digest
        Whether the file has a digest, which was verified. Files written by ``torch.save`` alone have none.

    Raises
    ------
    FileNotFoundError, OSError
        If the file is missing or cannot be opened.
    ValueError
        If it is not a regular file, is damaged or too large, or holds anything other than plain values and tensors.
    """
    path = Path(path)
    then = f"; {advice}" if advice else ""
    with open_regular(path, what) as stream:
        size = stream.seek(0, io.SEEK_END)
        if max_bytes is not None and size > max_bytes:
            raise ValueError(
                f"{what} '{path}' has {_megabytes(size)}, but this model needs {_megabytes(max_bytes)} at most; give "
                "the file of this model."
            )
        has_digest = _check_digest(stream, size, what=f"{what} '{path}'", then=then, of_dwiml=of_dwiml)
        try:
            check_archive(stream, size, comment_size=COMMENT_SIZE if has_digest else 0)
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True), has_digest
        except OSError as error:
            with explained(path, what):
                raise error
        except MemoryError as error:
            raise ValueError(f"{what} '{path}' does not fit in the memory of this machine.") from error
        except Exception as error:
            # torch's own message suggests loading the file in a way that runs code.
            reason = str(error) if isinstance(error, NotPlainError) else type(error).__name__
            raise ValueError(
                f"{what} '{path}' was not loaded: it holds other objects than plain values and tensors, or was not "
                f"written by torch.save ({reason})."
            ) from error
    raise AssertionError("open_regular does not suppress errors")


def as_plain(content: Any, *, max_bytes: int | None = None) -> Any:
    """Return an object as it is written by :func:`write_tensors`, after checking that it could be read again.

    Tensors that are views are replaced by copies of their own values on the CPU, so that the file does not hold the
    tensors that they are views of. So is a tensor that shares the memory of one of another dtype, which torch would
    refuse to save. Other tensors are the same objects.

    Parameters
    ----------
    content
        Plain values (None, booleans, numbers, strings), tensors, and lists, tuples and dictionaries of them.
    max_bytes
        Maximum size of the file, in bytes; None for any size.

    Raises
    ------
    NotPlainError
        If it holds anything else, or is too large. The message is a few words, with the keys that lead to the value.
    """
    try:
        dtypes: dict[int, torch.dtype] = {}
        plain = _map_tensors(content, lambda tensor: _compact(tensor, dtypes))
        skeleton, sizes = io.BytesIO(), dict[int, int]()

        def emptied(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
            return torch.empty(0, dtype=tensor.dtype)

        # The same file, but with empty tensors.
        torch.save(_map_tensors(plain, emptied), skeleton)
        check_archive(skeleton, skeleton.tell(), comment_size=0)
        skeleton.seek(0)
        torch.load(skeleton, weights_only=True)
    except Exception as error:
        raise NotPlainError(_reason(content, error)) from error
    size = sum(sizes.values()) + skeleton.tell()
    if max_bytes is not None and size > max_bytes:
        raise NotPlainError(f"it has {_megabytes(size)}, more than the {_megabytes(max_bytes)} that can be read again")
    return plain


def ends_in_digest(path: Path) -> bool:
    """Return whether a file ends with a digest of dwiml, without verifying it."""
    try:
        with open_regular(path) as stream:
            stream.seek(-COMMENT_SIZE, io.SEEK_END)
            return _LABEL.match(stream.read()) is not None
    except (OSError, ValueError):
        return False


def _check_digest(stream: IO[bytes], size: int, *, what: str, then: str, of_dwiml: bool) -> bool:
    """Verify the digest at the end of the file, if there is one; return whether there is one."""
    if not size:
        raise ValueError(f"{what} is damaged: it is empty{then}.")
    left = size - COMMENT_SIZE - len(_SIZE_FIELD)
    stream.seek(max(left, 0))
    end = stream.read(COMMENT_SIZE + len(_SIZE_FIELD))
    found = _LABEL.match(end[len(_SIZE_FIELD) :])
    if left < 0 or found is None or not end.startswith(_SIZE_FIELD):
        # torch.save itself writes no comment; any other comment is a modified digest.
        if end.endswith(_NO_COMMENT):
            return False
        if not of_dwiml:
            raise ValueError(f"{what} is damaged or incomplete, or is not in the zip format of torch.save{then}.")
        raise ValueError(f"{what} is damaged, or was not written by dwiml: it does not end with a digest{then}.")
    digest = hashlib.sha256()
    stream.seek(0)
    # If the file shrinks in the meantime, the digest differs.
    while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(_NO_COMMENT)
    if end[len(_SIZE_FIELD) + found.end() :] != digest.hexdigest().encode():
        raise ValueError(f"{what} is damaged: its content does not match its digest{then}.")
    return True


def _map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a copy of lists, tuples, sets and dictionaries in which each tensor is replaced by that of a function."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if type(value) in (dict, OrderedDict):
        mapped = type(value)((_map_tensors(key, function), _map_tensors(item, function)) for key, item in value.items())
        if type(value) is OrderedDict:
            # torch keeps the versions of the modules of a model there.
            vars(mapped).update(vars(value))
        return mapped
    if type(value) in (list, tuple, set):
        return type(value)(_map_tensors(item, function) for item in value)
    return value


def _compact(tensor: torch.Tensor, dtypes: dict[int, torch.dtype]) -> torch.Tensor:
    """Return a tensor that holds its own values only; raise NotPlainError if it cannot be read again.

    Parameters
    ----------
    tensor
        The tensor.
    dtypes
        {address of the memory of a tensor: its dtype} for the previous tensors; this one is added.
    """
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise NotPlainError(f"{kind_shown(tensor)}, which is a subclass of torch.Tensor")
    if tensor.dtype not in _DTYPES:
        raise NotPlainError(f"a tensor of {tensor.dtype}")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise NotPlainError("a sparse or nested tensor")
    if tensor.is_meta:
        raise NotPlainError("a tensor of the meta device, which has no values")
    if vars(tensor):
        raise NotPlainError(f"a tensor with the attributes {quoted(vars(tensor), limit=5)} (save its detach())")
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    if is_whole and not tensor.is_conj() and not tensor.is_neg():
        address = tensor.untyped_storage().data_ptr()
        # An empty tensor has no address.
        if not address or dtypes.setdefault(address, tensor.dtype) == tensor.dtype:
            return tensor
    copied = tensor.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
    if type(tensor) is torch.nn.Parameter:
        return torch.nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def _reason(content: Any, error: Exception) -> str:
    """Return why an object cannot be saved, after the keys that lead to the first such value in it."""
    if isinstance(error, RecursionError):
        return "it contains itself, or has too many levels"
    items = content.items() if isinstance(content, dict) else ()
    for key, item in enumerate(content) if isinstance(content, (list, tuple)) else items:
        try:
            for each in (key, item):
                # A list may have millions of these.
                if type(each) not in (bool, float, str, type(None)) and not (type(each) is int and abs(each) < 2**63):
                    as_plain(each)
        except NotPlainError as found:
            return f"{' '.join(shown(key).split())} -> {found}"
    if type(content) in _PLAIN or isinstance(content, torch.Tensor):
        return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return kind_shown(content)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


class _Hashed:
    """A stream for torch.save that computes the digest of the bytes written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> bytes:
        return self._digest.hexdigest().encode()
