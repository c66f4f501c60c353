"""The logs of dwi_ml, one ``.npy`` file a quantity, as the lines of dwiml's own log."""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dwiml.files import open_regular
from dwiml.files.reasons import reason_of

MONITORS = {
    "train_loss_monitor_per_epoch": ("train_loss", 1.0),
    "valid_local_loss_monitor_per_epoch": ("valid_loss", 1.0),
    "unclipped_grad_norm_monitor_per_epoch": ("grad_norm", 1.0),
    "grad_norm_monitor_per_epoch": ("grad_norm_clipped", 1.0),
    # In minutes.
    "training_time_monitor_duration": ("train_duration_s", 60.0),
    "validation_time_monitor_duration": ("valid_duration_s", 60.0),
}
"""{name of dwi_ml's file: name of the metric in dwiml, and factor}"""

_MOST_BYTES = 2**24
_MOST_FILES = 1000
_MOST_EPOCHS = 100_000
# Of all logs together; a number needs up to 100 bytes in memory, but may need a single one in a file.
_MOST_NUMBERS = 2**20
_TRACKING = "tracking_"
_ENDINGS = ("_per_epoch", "_duration", "_monitor")


def read_logs(folder: Path, *, tracking_frequency: int | None = None) -> list[dict[str, Any]]:
    """Read the logs of dwi_ml.

    A quantity that is not one of :data:`MONITORS` keeps its name, after ``valid_`` if it does not say the phase, and
    before ``_2``, ``_3``, ... if another one has that name already. NaN
    and infinite values, which dwi_ml writes where it computed nothing, are left out. So are the results of the
    generation-validation phase in other epochs than its own, where dwi_ml repeats the last ones, or writes 100.

    Parameters
    ----------
    folder
        The folder of the logs; it may be missing.
    tracking_frequency
        Number of epochs from one generation-validation phase to the next; None if it is not known, and its results are
        left out.

    Returns
    -------
    list of dict
        A line for each epoch: ``epoch``, from 0, and the metrics by name.

    Raises
    ------
    ValueError, OSError
        If a file is damaged or holds anything other than numbers by epoch, or if there are too many numbers.
    """
    if not folder.is_dir():
        return []
    found = (name for name in os.listdir(folder) if name.endswith(".npy"))
    # The names of MONITORS are fixed: others give way to them.
    files = sorted(found, key=lambda name: (name.removesuffix(".npy") not in MONITORS, name))
    if len(files) > _MOST_FILES:
        raise ValueError(f"'{folder}' has {len(files)} logs; an experiment of dwi_ml has a few.")
    series: dict[str, list[float]] = {}
    nb_numbers = 0
    for file in files:
        name, factor = _metric(file.removesuffix(".npy"), taken=series)
        values = [factor * value for value in _read_series(folder / file)]
        if file.startswith(_TRACKING):
            values = [
                value if _has_tracking(epoch, tracking_frequency) else math.nan for epoch, value in enumerate(values)
            ]
        nb_numbers += len(values)
        if nb_numbers > _MOST_NUMBERS:
            raise ValueError(f"The logs of '{folder}' hold more than {_MOST_NUMBERS} numbers, the most that are read.")
        series[name] = values
    nb_epochs = max((len(values) for values in series.values()), default=0)
    return [{"epoch": epoch, **_at(series, epoch)} for epoch in range(nb_epochs)]


def _at(series: Mapping[str, list[float]], epoch: int) -> dict[str, float]:
    there = {name: values[epoch] for name, values in series.items() if epoch < len(values)}
    return {name: value for name, value in there.items() if math.isfinite(value)}


def _has_tracking(epoch: int, frequency: int | None) -> bool:
    return frequency is not None and (epoch + 1) % frequency == 0


def _metric(stem: str, *, taken: Collection[str]) -> tuple[str, float]:
    if stem in MONITORS:
        return MONITORS[stem]
    for ending in _ENDINGS:
        stem = stem.removesuffix(ending)
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII)[:50].strip("_").lower() or "unnamed"
    first = name if name.startswith(("train_", "valid_")) else f"valid_{name}"
    numbered = (f"{first}_{number}" for number in itertools.count(2))
    return (next(each for each in numbered if each not in taken) if first in taken else first), 1.0


def _read_series(path: Path) -> list[float]:
    """Read an array of numbers; nothing is unpickled, and the file's size limits the memory that is used."""
    with open_regular(path, "The log") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > _MOST_BYTES:
            raise ValueError(f"The log '{path}' has {size / 1e6:.1f} MB; a log of dwi_ml is far smaller.")
        try:
            shape, dtype = _read_header(stream)
            raw = stream.read()
        except OSError:
            raise
        except Exception as error:
            # numpy parses the header as Python: a crafted one may raise any error.
            raise ValueError(f"The log '{path}' is not an array of numpy ({reason_of(error)[:200]}).") from error
    if dtype.kind not in "fiu" or len(shape) > 1 or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(
            f"The log '{path}' should hold one number for each epoch, got an array of shape {shape} and dtype {dtype}, "
            f"with {len(raw)} bytes."
        )
    if math.prod(shape) > _MOST_EPOCHS:
        raise ValueError(f"The log '{path}' has {math.prod(shape)} epochs; at most {_MOST_EPOCHS} are read.")
    with np.errstate(all="ignore"):
        # A longdouble may be too large.
        values: list[float] = np.frombuffer(raw, dtype=dtype).astype(np.float64).tolist()
    return values


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        # numpy warns about headers of Python 2, which did not write logs of dwi_ml.
        warnings.simplefilter("error")
        shape, _, dtype = read_header(stream)
    if not all(type(length) is int for length in shape):
        raise ValueError(f"invalid shape {shape}")
    return shape, dtype
