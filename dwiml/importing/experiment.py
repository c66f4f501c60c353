"""Import an experiment of dwi_ml: its model and its logs become an experiment folder of dwiml."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dwiml.arguments import quoted
from dwiml.files import atomic_write, check_output_folder, read_json
from dwiml.importing.autoencoder import CLASS as AUTOENCODER
from dwiml.importing.autoencoder import translate_autoencoder
from dwiml.importing.given import Given, Translated, Weights
from dwiml.importing.learn2track import CLASS as LEARN2TRACK
from dwiml.importing.learn2track import translate_learn2track
from dwiml.importing.logs import read_logs
from dwiml.importing.recorded import IMPORTED, STREAMLINES, VOLUME, sections_of
from dwiml.importing.stored_experiment import PARAMETERS, TRAINING, WEIGHTS, Source, read_source
from dwiml.importing.transformers import CLASSES as TRANSFORMERS
from dwiml.importing.transformers import translate_transformer
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE, STATE_FILE, build_like
from dwiml.params import checks_arguments
from dwiml.tractograms.grid import Grid, read_image_grid
from dwiml.training.experiment.checkpoint import has_checkpoint
from dwiml.training.experiment.folder import BEST_MODEL, ExperimentFolder, check_experiment_path
from dwiml.training.experiment.parameters import optional_methods, write_parameters
from dwiml.training.recorded_classes import dwiml_class
from dwiml.training.reporting.loggers.local import METRICS_FILE
from dwiml.user_classes.finding import class_path


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes
    ----------
    folder
        The experiment folder of dwiml.
    model
        The model, on the CPU.
    model_type
        Name of its class in dwi_ml.
    source
        The folder of the model that was read.
    nb_epochs
        Number of epochs of the logs.
    notes
        Sentences for the user: what differs from dwi_ml, and what is missing.
    """

    folder: Path
    model: MainModelAbstract
    model_type: str
    source: Path
    nb_epochs: int
    notes: tuple[str, ...]


@checks_arguments
def import_dwi_ml(
    experiment: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str = "best",
    volume_shift: bool = True,
    grid: str | os.PathLike[str] | None = None,
    hdf5_file: str | os.PathLike[str] | None = None,
    input_group_name: str | None = None,
    streamline_group_name: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Import an experiment of dwi_ml 1.0 (https://github.com/scil-vital/dwi_ml) as an experiment folder of dwiml.

    The model computes the same outputs from the same inputs. Nothing in the files can run code.

    Parameters
    ----------
    experiment
        The experiment folder of dwi_ml, or the folder of one model (with ``model_state.pkl``).
    out
        The experiment folder to create.
    weights
        ``"best"``: those of the best model, or of the checkpoint if there is none; ``"latest"``: those of the last
        epoch, of the checkpoint.
    volume_shift
        Read volumes where dwi_ml read them, half a voxel off, so that the model receives the inputs that it was trained
        on. False: where they are.
    grid
        For an autoencoder: an image with the voxel grid of the subjects that it was trained on.
    hdf5_file
        The HDF5 file of the data; None: the recorded one.
    input_group_name, streamline_group_name
        Groups of the HDF5 file; None: the recorded ones.
    overwrite
        Whether an imported experiment in ``out`` may be replaced.

    Returns
    -------
    Imported
        What was imported.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, FileExistsError, OSError
        If a file is missing, or the experiment cannot be written.
    ValueError
        If a file is damaged, dwiml does not have this model, or `weights` is another value.
    """
    source = read_source(experiment, weights=weights)
    folder = _checked_folder(source, Path(out), hdf5_file, grid, overwrite=overwrite)
    if grid is not None and source.model_type != AUTOENCODER:
        raise ValueError(f"grid is for an autoencoder; the model is of class {source.model_type}.")
    voxel_grid = None if grid is None else read_image_grid(Path(grid))
    translated = translate(source, shift=volume_shift, grid=voxel_grid)
    frequency = source.section("Trainer params").get("tracking_phase_frequency")
    lines = read_logs(source.logs, tracking_frequency=frequency if type(frequency) is int and frequency > 0 else None)
    model_class = dwiml_class("model", translated.class_name)
    model = build_like(
        lambda: model_class(**translated.params),
        translated.state,
        parameters=source.model / PARAMETERS,
        weights=source.model / WEIGHTS,
    )
    sections, config, more = sections_of(
        source,
        model,
        hdf5_file=hdf5_file,
        groups={VOLUME: input_group_name, STREAMLINES: streamline_group_name},
    )
    notes = [*translated.notes, *more, *([] if lines else ["It has no logs."])]
    with _removed_unless_whole(folder):
        model.save(folder.best_model)
        (folder.path / METRICS_FILE).unlink(missing_ok=True)
        if lines:
            text = "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines)
            with atomic_write(folder.path / METRICS_FILE, follow_links=False) as stream:
                stream.write(text.encode())
        classes = {"model": class_path(model_class)}
        write_parameters(folder, sections, classes, config, methods=optional_methods(model_class))
    return Imported(folder.path, model, source.model_type, source.model, len(lines), tuple(notes))


def translate(source: Source, *, shift: bool, grid: Grid | None = None) -> Translated:
    """Return the model of an experiment of dwi_ml in terms of dwiml.

    Parameters
    ----------
    source
        The experiment.
    shift
        Whether to read the volume where dwi_ml read it.
    grid
        For an autoencoder: the voxel grid of the subjects that it was trained on.

    Raises
    ------
    ValueError
        If dwiml does not have this model.
    """
    given = Given(source.parameters, source.model / PARAMETERS)
    weights = Weights(source.weights, source.model / WEIGHTS)
    if source.model_type == LEARN2TRACK:
        return translate_learn2track(given, weights, shift=shift)
    if source.model_type in TRANSFORMERS:
        return translate_transformer(source.model_type, given, weights, shift=shift)
    if source.model_type == AUTOENCODER:
        return translate_autoencoder(given, weights, grid=grid)
    known = quoted([LEARN2TRACK, *TRANSFORMERS, AUTOENCODER])
    raise ValueError(
        f"'{source.model}' holds a model of class {source.model_type}; models of dwi_ml that can be imported: {known}."
    )


def _checked_folder(
    source: Source, out: Path, *more: str | os.PathLike[str] | None, overwrite: bool
) -> ExperimentFolder:
    check_experiment_path(out.parent, out.name)
    folder = ExperimentFolder(out)
    read = [*(source.model / name for name in (PARAMETERS, WEIGHTS)), source.path / TRAINING, *more]
    files = (PARAMETERS_FILE, f"{BEST_MODEL}/{PARAMETERS_FILE}", f"{BEST_MODEL}/{STATE_FILE}", str(METRICS_FILE))
    check_output_folder(out, files, "OUT", inputs=read, experiments=[source.path], overwrite=overwrite)
    folder.refuse_foreign()
    if folder.is_used() and (has_checkpoint(folder.checkpoint) or not _is_imported(folder)):
        raise FileExistsError(f"OUT: '{out}' is an experiment that was not imported: it is not replaced.")
    return folder


@contextmanager
def _removed_unless_whole(folder: ExperimentFolder) -> Iterator[None]:
    """Create the folder for the block; if the block is interrupted, remove the folder if it is new.

    Without its parameters, it could be neither used nor replaced.
    """
    is_new = not folder.path.exists()
    folder.make()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _is_imported(folder: ExperimentFolder) -> bool:
    try:
        return IMPORTED in read_json(folder.parameters)
    except (OSError, ValueError, TypeError):
        return False
