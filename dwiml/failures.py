"""Report exhausted resources in one sentence: memory, GPU memory, open files, or a lost process."""

from __future__ import annotations

import errno
import re
import traceback

from dwiml.user_classes.from_file import is_dwiml_module

_ALLOCATOR = re.compile(r"can't allocate memory|not enough memory: you tried to allocate|Cannot allocate memory", re.I)
_BYTES = re.compile(r"tried to allocate (\d+) bytes")
_GPU_SIZE = re.compile(r"Tried to allocate ([\d.]+ [KMGT]?i?B)")
_OPEN_FILES = re.compile(r"too many open files|received 0 items of ancdata", re.I)
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_WORKER_SIGNAL = re.compile(r"killed by signal: ([A-Za-z ]+)")
_RANKS = re.compile(r"gloo/transport|ProcessGroup(NCCL|Gloo)|NCCL (error|communicator)|Connection closed by peer")
_SHARED_MEMORY = re.compile(r"</torch_|/dev/shm|shared memory|shm_open", re.I)

MEMORY, GPU, FILES, WORKER, SHARED, RANKS = "memory", "gpu", "files", "worker", "shared memory", "ranks"

ADVICE = {
    MEMORY: "process less data at a time, or use a machine with more memory",
    GPU: "process less data at a time, or use a GPU with more memory",
    FILES: "raise the limit with 'ulimit -n 4096', or use fewer workers",
    WORKER: "use fewer workers, or ask the cluster for more memory",
    SHARED: "use fewer workers, or give the container more shared memory (docker run --shm-size)",
    RANKS: "its own messages are above; run the same command again to continue from the checkpoint",
}
"""Default advice for each kind of resource."""
TRAINING_ADVICE = {
    MEMORY: "lower the batch size, leave the data on the disk (lazy), or use fewer workers (nb_cpu_processes)",
    GPU: "lower the batch size or cache_size, keep volumes in float16 (volume_dtype), or train in bf16 (precision)",
    FILES: "raise the limit with 'ulimit -n 4096', or use fewer workers (nb_cpu_processes)",
    WORKER: "use fewer workers (nb_cpu_processes) or a smaller batch, or ask the cluster for more memory",
    SHARED: "use fewer workers (nb_cpu_processes), or give the container more shared memory (docker run --shm-size)",
}
"""The same, of a training: by the names of its parameters."""


class ResourceError(RuntimeError):
    """The machine ran out of a resource; the message says which one, and what to do.

    Attributes
    ----------
    kind
        The missing resource, a key of :data:`ADVICE`.
    """

    def __init__(self, sentence: str, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def resource_error(error: BaseException, advice: dict[str, str] | None = None) -> ResourceError | None:
    """Convert an error to a :class:`ResourceError` if it reports an exhausted resource; otherwise return None.

    Parameters
    ----------
    error
        Any error, raised by Python, NumPy, torch or the system.
    advice
        {kind of resource: what to do}; the default is :data:`ADVICE`.
    """
    if isinstance(error, ResourceError):
        return error
    kind = _kind(error)
    if kind is None:
        return None
    action = {**ADVICE, **(advice or {})}[kind]
    return ResourceError(f"{_what(error, kind)}; {action}.", kind)


def _kind(error: BaseException) -> str | None:
    text, name = str(error), type(error).__name__
    # An OSError raised by dwiml itself has no strerror; its message already names the file.
    number = error.errno if isinstance(error, OSError) and error.strerror is not None else None
    if _WORKER.search(text) and isinstance(error, RuntimeError):
        return WORKER
    if name == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "CUDA error: out of memory" in text):
        return GPU
    if number in (errno.EMFILE, errno.ENFILE) or (isinstance(error, RuntimeError) and _OPEN_FILES.search(text)):
        return FILES
    no_space = number == errno.ENOSPC or "No space left on device" in text
    if isinstance(error, (OSError, RuntimeError)) and no_space and _SHARED_MEMORY.search(text):
        return SHARED
    if isinstance(error, RuntimeError) and _RANKS.search(text):
        return RANKS
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return MEMORY
    if isinstance(error, RuntimeError) and _ALLOCATOR.search(text):
        return MEMORY
    return None


def _what(error: BaseException, kind: str) -> str:
    text = " ".join(str(error).split())
    if kind == GPU:
        size = _GPU_SIZE.search(text)
        return f"The GPU memory is full{f' ({size.group(1)} more were requested)' if size else ''}{_where(error)}"
    if kind == MEMORY:
        size = _BYTES.search(text)
        requested = f"{int(size.group(1)) / 1e9:.3g} GB more were requested" if size else text.rstrip(".")
        return f"There is not enough memory{f' ({requested})' if requested else ''}{_where(error)}"
    if kind == RANKS:
        return "Another process of this training ended or does not respond"
    if kind == FILES:
        return "Too many files are open in this process"
    if kind == SHARED:
        return "The shared memory (/dev/shm), through which workers send their batches, is full"
    return _worker_sentence(text)


def _worker_sentence(text: str) -> str:
    found = _WORKER_SIGNAL.search(text)
    ended = found.group(1).strip() if found else ""
    if ended == "Killed":
        how = "was killed (SIGKILL), usually by the system because the memory is full"
    elif ended == "Bus error":
        how = "ended by SIGBUS: the shared memory (/dev/shm) is full, or the HDF5 file was truncated while it was read"
    elif ended:
        how = f"was ended by a signal ({ended})"
    else:
        how = "ended for an unknown reason; its own messages are above"
    return f"A process that loads data (nb_cpu_processes) {how}"


def _where(error: BaseException) -> str:
    """Name the module of dwiml in which the error was raised."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    dwiml = [name for name in names if is_dwiml_module(name) and not name.startswith(("dwiml.cli", "dwiml.files"))]
    return f", in {dwiml[-1]}" if dwiml else ""
