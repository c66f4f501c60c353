"""Write the sidecar of a tractogram: a JSON file beside it that says how it was created.

The keys are those of the BIDS extension proposal for tractography (BEP046, a draft), and ``GeneratedBy`` and
``Sources`` of BIDS derivatives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml import __version__
from dwiml.files import write_json

EXTENSION = ".json"
ACCEPTANCE = "StreamlineAcceptanceCriteria"


def tractogram_sidecar(tractogram: str | os.PathLike[str]) -> Path:
    """Return the path of the sidecar of a tractogram: ``out.json`` for ``out.trk``."""
    return Path(tractogram).with_suffix(EXTENSION)


def add_sidecars(
    outputs: Mapping[str, str | os.PathLike[str] | None], *, of: Sequence[str]
) -> dict[str, str | os.PathLike[str] | None]:
    """Add sidecars to the outputs that :func:`dwiml.files.check_outputs` checks.

    Parameters
    ----------
    outputs
        {name of the output for the user: its path, or None}.
    of
        Names of the tractograms in `outputs`.
    """
    paths = {name: outputs[name] for name in of}
    return {**outputs, **{f"The sidecar of {name}": tractogram_sidecar(path) for name, path in paths.items() if path}}


def describe(
    description: str, sources: Sequence[str | os.PathLike[str] | None], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of a sidecar.

    Parameters
    ----------
    description
        What the tractogram holds.
    sources
        The files from which it was created; None is ignored.
    more
        Other keys. A path must be a :class:`~pathlib.Path`; see :func:`write_sidecar`.
    """
    return {
        "Description": description,
        "GeneratedBy": [{"Name": "dwiml", "Version": __version__}],
        "Sources": [Path(path) for path in sources if path is not None],
        **(more or {}),
    }


def write_sidecar(tractogram: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write the sidecar of a tractogram; an existing one is replaced.

    Parameters
    ----------
    tractogram
        The tractogram.
    content
        Value of :func:`describe`. Each :class:`~pathlib.Path` in it is written relative to the folder of the sidecar.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = tractogram_sidecar(tractogram)
    write_json(path, _with_relative_paths(content, path.parent))


def _with_relative_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return Path(os.path.relpath(value, folder)).as_posix()
    if isinstance(value, Mapping):
        return {name: _with_relative_paths(each, folder) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_relative_paths(each, folder) for each in value]
    return value
