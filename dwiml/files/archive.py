"""Check a file of ``torch.save`` before it is loaded: its content must be plain, and its sizes must be true.

``torch.load(weights_only=True)`` does not run code from the file, but trusts its sizes: a compressed archive may expand
to any size, a tensor may claim more values than the file holds, a few bytes may request a ``bytearray`` of gigabytes.
Here, the archive (ZIP File Format Specification, PKWARE, version 6.3) and its pickle are read without creating any of
these objects.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

from dwiml.arguments import kind_shown

# Size of the archive comment written by dwiml: a label and a SHA-256.
COMMENT_SIZE = 24 + 64

_MAX_MEMBERS = 200_000
_MAX_PICKLE_BYTES = 16 * 2**20
# Number of values of an expanded tensor, which repeats values of the file.
_MAX_EXPANDED = 2**20
_MAX_DEPTH = 60
_MAX_BITS = 512

# The end of an archive of torch, before its comment: the zip64 record, its locator, and the end of the directory.
_END = "<4sQ2H2L4Q 4sLQL 4s4H2LH"

_ITEM_SIZES = {
    "FloatStorage": 4,
    "DoubleStorage": 8,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
# The opcodes that pickle (protocol 2) writes for plain values.
_OPCODE_NAMES = """
PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_LIST APPEND APPENDS
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS GLOBAL REDUCE BUILD BINPERSID BINGET LONG_BINGET
BINPUT LONG_BINPUT
"""
_OPCODES = frozenset(_OPCODE_NAMES.split())


class NotPlainError(ValueError):
    """The file is not an archive of plain values and tensors; the message is a few words that say why."""


def check_archive(stream: IO[bytes], size: int, *, comment_size: int) -> None:
    """Check that a file is an archive of plain values and tensors, as written by ``torch.save``.

    Parameters
    ----------
    stream
        The file, open for reading; its position afterwards is undefined.
    size
        Size of the file, in bytes.
    comment_size
        Size of the archive comment at the end of the file, in bytes.

    Raises
    ------
    NotPlainError
        If the check fails.
    """
    stream.seek(0)
    _check_directory(stream, size, comment_size)
    stream.seek(0)
    try:
        archive = zipfile.ZipFile(stream)
        members = {member.filename: member for member in archive.infolist()}
        root = _check_members(archive.infolist(), members, size)
        pickled = archive.read(f"{root}/data.pkl")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, KeyError, UnicodeError, struct.error) as error:
        raise NotPlainError("a damaged archive") from error
    sizes = {name.removeprefix(f"{root}/data/"): member.file_size for name, member in members.items()}
    _check_pickle(pickled, sizes)


def _check_directory(stream: IO[bytes], size: int, comment_size: int) -> None:
    """Check that the archive ends as torch ends it: readers differ in where else they look for the directory."""
    end_at = size - comment_size - struct.calcsize(_END)
    if stream.read(4) != b"PK\3\4" or end_at < 0:
        raise NotPlainError("not an archive")
    stream.seek(end_at)
    end = struct.unpack(_END, stream.read(struct.calcsize(_END)))
    nb_members, directory_size, directory_at, record_at = *end[7:10], end[12]
    same = zip(end[18:21], end[7:10], strict=True)
    if (
        (end[0], end[10], end[14], end[21]) != (b"PK\6\6", b"PK\6\7", b"PK\5\6", comment_size)
        or not record_at == directory_at + directory_size == end_at
        # The short fields of a large archive say that the long ones count.
        or any(short not in (0xFFFF, 0xFFFFFFFF, long) for short, long in same)
        or nb_members > _MAX_MEMBERS
    ):
        raise NotPlainError("a damaged archive")


def _check_members(listed: list[zipfile.ZipInfo], members: Mapping[str, zipfile.ZipInfo], size: int) -> str:
    """Check the members of the archive; return the name of the folder that contains all of them."""
    root = listed[0].filename.partition("/")[0] if listed else ""
    if f"{root}/data.pkl" not in members or f"{root}/constants.pkl" in members:
        raise NotPlainError("an archive of something else")
    if len(members) != len(listed) or not all(name.startswith(f"{root}/") for name in members):
        raise NotPlainError("an unexpected member of the archive")
    if any(member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size for member in listed):
        raise NotPlainError("a compressed member")
    if sum(member.file_size for member in listed) > size:
        raise NotPlainError("members that are larger than the file")
    if members[f"{root}/data.pkl"].file_size > _MAX_PICKLE_BYTES:
        raise NotPlainError(f"more than {_MAX_PICKLE_BYTES / 2**20:.0f} MiB besides the tensors")
    return root


def _check_pickle(pickled: bytes, sizes: Mapping[str, int]) -> None:
    """Check the objects described by a pickle, without creating them.

    Parameters
    ----------
    pickled
        The member ``data.pkl`` of the archive.
    sizes
        {key of a storage: its size in bytes}.
    """
    try:
        names = {code.name for code, _, _ in pickletools.genops(pickled)}
        if names <= _OPCODES:
            content = _Skeleton(io.BytesIO(pickled), sizes).load()
            _check_values(content, most=20 * len(pickled) + 10_000)
            return
    except NotPlainError:
        raise
    except Exception as error:
        # A malformed pickle may raise any error.
        raise NotPlainError("a damaged pickle") from error
    raise NotPlainError("an unusual pickle")


class _Tensor:
    """Stands for a tensor of the file."""

    __slots__ = ()


class _ItemSize(int):
    """Stands for a dtype of torch, that is, the class of a storage: the size of a value, in bytes."""


class _Skeleton(pickle._Unpickler):
    """Reads a pickle of ``torch.save`` in pure Python, without creating tensors."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        ord(code.code): pickle._Unpickler.dispatch[ord(code.code)]
        for code in pickletools.opcodes
        if code.name in _OPCODES
    }

    def __init__(self, stream: IO[bytes], sizes: Mapping[str, int]) -> None:
        super().__init__(stream)
        self._sizes = sizes

    def load_build(self) -> None:
        """Set the attribute that torch gives to a dictionary; any other state could modify this reader itself."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict or state.keys() != {"_metadata"}:
            raise NotPlainError("a dictionary of another kind")
        vars(self.stack[-1]).update(state)

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for one of the few functions and classes that plain values and tensors need."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("builtins", "__builtin__") and name in ("set", "complex"):
            return {"set": set, "complex": complex}[name]
        if module == "torch._utils" and name in _REBUILD:
            return _REBUILD[name]
        if module == "torch" and name in _ITEM_SIZES:
            return _ItemSize(_ITEM_SIZES[name])
        if module == "torch" and name == "Size":
            return tuple
        raise NotPlainError(f"it would use {' '.join(f'{module}.{name}'.split())[:60]}")

    def persistent_load(self, pid: Any) -> int:
        """Return the number of values of a storage, whose size must match that of its member in the archive."""
        kind, storage, key, device, nb = pid
        if kind != "storage" or type(storage) is not _ItemSize or type(device) is not str or type(nb) is not int:
            raise NotPlainError("a storage of another kind")
        if nb < 0 or self._sizes.get(key) != nb * storage:
            raise NotPlainError("a tensor that is larger than its file")
        return nb


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, more: Any = None) -> _Tensor:
    """Check the shape, the strides and the offset of a tensor against the size of its storage."""
    numbers = (storage, offset, *size, *stride)
    valid = all(type(number) is int and number >= 0 for number in numbers) and len(size) == len(stride)
    if not valid or type(grad) is not bool or type(hooks) is not OrderedDict or hooks or more:
        raise NotPlainError("a tensor of another kind")
    nb = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if nb and (last >= storage or (nb > storage and nb > _MAX_EXPANDED)):
        raise NotPlainError("a tensor that is larger than its file")
    return _Tensor()


def _parameter(tensor: Any, grad: Any, hooks: Any) -> _Tensor:
    if type(tensor) is not _Tensor or type(grad) is not bool or type(hooks) is not OrderedDict or hooks:
        raise NotPlainError("a tensor of another kind")
    return tensor


_REBUILD: dict[str, Callable[..., _Tensor]] = {"_rebuild_tensor_v2": _rebuilt, "_rebuild_parameter": _parameter}


def _check_values(content: Any, *, most: int) -> None:
    """Check all values; a repeated object counts each time, so that a few bytes cannot stand for many values."""
    waiting: list[tuple[Any, int]] = [(content, 0)]
    nb = 0
    while waiting:
        value, depth = waiting.pop()
        nb += 1
        kind = type(value)
        if kind is str:
            nb += len(value)
        elif kind is int and value.bit_length() > _MAX_BITS:
            raise NotPlainError("a number of many digits")
        elif kind in (dict, OrderedDict):
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
            if kind is OrderedDict:
                # torch stores the versions of the modules of a model there.
                waiting += [(item, depth + 1) for item in vars(value).values()]
        elif kind in (list, tuple, set):
            waiting += [(item, depth + 1) for item in value]
        elif kind not in (bool, int, float, complex, type(None), _Tensor):
            raise NotPlainError(kind_shown(value))
        if nb > most or len(waiting) > most or depth > _MAX_DEPTH:
            raise NotPlainError("more values than its size allows")
