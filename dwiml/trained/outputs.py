"""Check the outputs of tracking with an experiment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dwiml.files import check_outputs, refuse_inputs
from dwiml.tracking.sources import is_image
from dwiml.tractograms.writing.partial import partial_of
from dwiml.tractograms.writing.sidecar import add_sidecars
from dwiml.training.experiment.parameters import recorded_files
from dwiml.training.loading import recorded_parameters

PathLike = str | os.PathLike[str]


def check_tracking_outputs(
    outputs: Mapping[str, PathLike | None],
    *,
    inputs: Iterable[Any] = (),
    experiments: Iterable[PathLike | None] = (),
    overwrite: bool,
    sidecar: bool = False,
) -> None:
    """Check that outputs can be written, and that nothing which is read would be replaced.

    Parameters
    ----------
    outputs
        {name of the output for the user: its path, or None if it is not requested}. The first one is the tractogram,
        which is written through a partial file.
    inputs
        Images, masks and HDF5 files. What is not a file, such as the name of a volume group, is ignored.
    experiments
        The experiments that are used: of the model, and of the standardization. None is ignored. Nothing may be written
        inside them, and their recorded HDF5 files are inputs.
    overwrite
        Whether existing files may be replaced. Inputs are never replaced.
    sidecar
        Whether the sidecar of the tractogram is an output too.

    Raises
    ------
    FileNotFoundError
        If a folder is not an experiment, or the folder of an output does not exist.
    ValueError, OSError
        As in :func:`dwiml.files.check_outputs`.
    """
    folders = [os.fspath(each) for each in experiments if each is not None]
    given = [os.fspath(each) for each in inputs if isinstance(each, (str, os.PathLike))]
    read = [each for each in given if is_image(each) or os.path.isfile(each)]
    read += [os.fspath(path) for folder in folders for path in recorded_files(recorded_parameters(folder))]
    name, tractogram = next(iter(outputs.items()))
    if sidecar:
        outputs = add_sidecars(outputs, of=[name])
    check_outputs(outputs, inputs=read, experiments=folders, overwrite=overwrite)
    if tractogram is not None:
        others = [path for path in outputs.values() if path is not None and path != tractogram]
        partial = partial_of(Path(os.path.realpath(tractogram)))
        refuse_inputs(partial, f"{name}, until it is whole", inputs=[*read, *others])
