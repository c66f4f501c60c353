"""The files that a command reads without being given their names: no output may be one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any


def data_of(experiment: str, hdf5_file: str | None = None) -> str | None:
    """Return the HDF5 file of an experiment: the one given, or the one recorded; None where that is damaged.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is not an experiment.
    """
    from dwiml.training.loading import recorded_parameters

    path = hdf5_file or recorded_parameters(experiment)["data"]["hdf5_file"]
    return path if isinstance(path, str) else None


def truth_files(folder: str, config: str | None) -> list[str]:
    """Return the folder of a ground truth, its config, and every file that the config names, there or elsewhere.

    Raises
    ------
    FileNotFoundError, ValueError
        When the config is missing or damaged.
    """
    from dwiml.files import read_json
    from dwiml.scoring.reading import CONFIG_NAME

    path = config or os.path.join(folder, CONFIG_NAME)
    # Without one, a folder of masks; a file of this name would be read the next time.
    named = list(_texts(read_json(path, "The config of the ground truth"))) if config or os.path.isfile(path) else []
    return [folder, path, *(os.path.join(folder, name) for name in named)]


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value that is not a key: a text that is not a file matches no output."""
    if isinstance(value, str):
        yield value.replace("\0", "")
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
