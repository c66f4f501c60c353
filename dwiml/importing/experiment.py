"""Import an experiment of dwi_ml: its model and its logs become an experiment folder of dwiml."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwiml.arguments import quoted
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.files import atomic_write, check_output_folder, read_json
from dwiml.finding.classes import class_path
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import groups_config
from dwiml.importing.given import Given, Translated, Weights
from dwiml.importing.learn2track import CLASS as LEARN2TRACK
from dwiml.importing.learn2track import translate_learn2track
from dwiml.importing.logs import read_logs
from dwiml.importing.source import PARAMETERS, TRAINING, WEIGHTS, Source, read_source
from dwiml.importing.transformers import CLASSES as TRANSFORMERS
from dwiml.importing.transformers import translate_transformer
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE, STATE_FILE, build_like
from dwiml.params import checks_arguments
from dwiml.training.classes import MODELS
from dwiml.training.experiment.checkpoint import has_checkpoint
from dwiml.training.experiment.folder import BEST_MODEL, ExperimentFolder, check_experiment_path
from dwiml.training.experiment.parameters import write_parameters
from dwiml.training.reporting.loggers.local import METRICS_FILE

IMPORTED = "imported_from_dwi_ml"
"""Section of ``parameters.json`` with the origin of an imported experiment."""

_GROUPS = {"input_group_name": "input", "streamline_group_name": "streamlines"}


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
    latest: bool = False,
    volume_shift: bool = True,
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
    latest
        Import the model of the last epoch, of the checkpoint, instead of the best model.
    volume_shift
        Read volumes where dwi_ml read them, half a voxel off, so that the model receives the inputs that it was trained
        on. False: where they are.
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
        If a file is damaged, or dwiml does not have this model.
    """
    source = read_source(experiment, latest=latest)
    folder = _checked_folder(source, Path(out), overwrite=overwrite)
    translated = translate(source, shift=volume_shift)
    frequency = source.section("Trainer params").get("tracking_phase_frequency")
    lines = read_logs(source.logs, tracking_frequency=frequency if type(frequency) is int and frequency > 0 else None)
    model_class = MODELS[translated.class_name]
    model = build_like(
        lambda: model_class(**translated.params),
        translated.state,
        parameters=source.model / PARAMETERS,
        weights=source.model / WEIGHTS,
    )
    sections, config, more = _sections(
        source,
        model,
        hdf5_file=hdf5_file,
        groups={"input_group_name": input_group_name, "streamline_group_name": streamline_group_name},
    )
    notes = [*translated.notes, *more, *([] if lines else ["It has no logs."])]
    folder.make()
    model.save(folder.best_model)
    (folder.path / METRICS_FILE).unlink(missing_ok=True)
    if lines:
        text = "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines)
        with atomic_write(folder.path / METRICS_FILE, follow_links=False) as stream:
            stream.write(text.encode())
    write_parameters(folder, sections, {"model": class_path(model_class)}, config)
    return Imported(folder.path, model, source.model_type, source.model, len(lines), tuple(notes))


def translate(source: Source, *, shift: bool) -> Translated:
    """Return the model of an experiment of dwi_ml in terms of dwiml.

    Parameters
    ----------
    source
        The experiment.
    shift
        Whether to read the volume where dwi_ml read it.

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
    known = quoted([LEARN2TRACK, *TRANSFORMERS])
    raise ValueError(f"'{source.model}' holds a {source.model_type}; models of dwi_ml that can be imported: {known}.")


def _checked_folder(source: Source, out: Path, *, overwrite: bool) -> ExperimentFolder:
    check_experiment_path(out.parent, out.name)
    folder = ExperimentFolder(out)
    read = [source.model / name for name in (PARAMETERS, WEIGHTS)] + [source.path / TRAINING]
    files = (PARAMETERS_FILE, f"{BEST_MODEL}/{PARAMETERS_FILE}", f"{BEST_MODEL}/{STATE_FILE}", str(METRICS_FILE))
    check_output_folder(out, files, "OUT", inputs=read, experiments=[source.path], overwrite=overwrite)
    folder.refuse_foreign()
    if folder.is_used() and (has_checkpoint(folder.checkpoint) or not _is_imported(folder)):
        raise FileExistsError(f"OUT: '{out}' is an experiment that was not imported: it is not replaced.")
    return folder


def _is_imported(folder: ExperimentFolder) -> bool:
    try:
        return IMPORTED in read_json(folder.parameters)
    except (OSError, ValueError, TypeError):
        return False


def _sections(
    source: Source,
    model: MainModelAbstract,
    *,
    hdf5_file: str | os.PathLike[str] | None,
    groups: Mapping[str, str | None],
) -> tuple[dict[str, Any], Mapping[str, Any], list[str]]:
    """Return the sections of ``parameters.json``, the groups config of the data, and notes."""
    recorded, loader = source.training.get("hdf5 file"), source.section("Loader params")
    data = os.fspath(hdf5_file) if hdf5_file is not None else recorded if isinstance(recorded, str) else ""
    named = {name: groups[name] or loader.get(name) for name in _GROUPS}
    notes = []
    unknown = [name for name, value in named.items() if not isinstance(value, str)]
    if unknown:
        assumed = " and ".join(f"{name} '{_GROUPS[name]}'" for name in unknown)
        notes.append(f"Group names are not recorded; assumed: {assumed}.")
    chosen = {name: value if isinstance(value, str) else _GROUPS[name] for name, value in named.items()}
    config: Mapping[str, Any] = {}
    if hdf5_file is not None or (data and os.path.isfile(data)):
        config = _checked_config(data, chosen, model)
        data = os.path.abspath(data)
    else:
        notes.append(
            f"The HDF5 file ('{data}') was not found: 'dwiml evaluate' and 'dwiml show_loss' need --hdf5_file, and "
            "'dwiml track --input' needs --standardization."
            if data
            else "No HDF5 file is recorded: 'dwiml evaluate' and 'dwiml show_loss' need --hdf5_file, and 'dwiml track "
            "--input' needs --standardization."
        )
    notes += _order_notes(config, chosen["input_group_name"])
    sections = {
        "trainer": {"class": "DWIMLTrainerOneInput"},
        "sampler": {
            "class": "DWIMLBatchIDSampler",
            "streamline_group_name": chosen["streamline_group_name"],
            "seed": 0,
        },
        "loader": {"class": "DWIMLBatchLoaderOneInput", **chosen, "seed": 0},
        "model": {"class": type(model).__name__, **model.params},
        "data": {"hdf5_file": data, "lazy": False, "cache_size": 1},
        IMPORTED: {
            "model": str(source.model.resolve()),
            "model_type": source.model_type,
            "parameters": _finite(source.parameters),
            "training": _finite(source.training),
        },
    }
    return sections, config, notes


def _checked_config(data: str, groups: Mapping[str, str], model: MainModelAbstract) -> Mapping[str, Any]:
    """Check that the data are those of the model; return the groups config."""
    dataset = MultiSubjectDataset(data, lazy=True)
    dataset.load_data(volume_groups=[groups["input_group_name"]], streamline_groups=[groups["streamline_group_name"]])
    found, expected = dataset.nb_features[groups["input_group_name"]], getattr(model, "nb_features", None)
    if found != expected:
        raise ValueError(
            f"Volume group '{groups['input_group_name']}' of '{data}' has {found} features, but the model has "
            f"{expected}: give the data of this model, or another input_group_name."
        )
    with open_hdf5(Path(data)) as file:
        return groups_config(file)


def _order_notes(config: Mapping[str, Any], group: str) -> list[str]:
    entry = config.get(group)
    files = entry.get("files") if isinstance(entry, Mapping) else None
    listed = [files] if isinstance(files, str) else files if isinstance(files, list) else []
    if not any(isinstance(name, str) and "*" in name for name in listed):
        return []
    return [
        f"The files of group '{group}' were given as {quoted(listed)}, which dwi_ml reads in the order of the disk and "
        "dwiml in alphabetical order: give 'dwiml track --input' the order of the training."
    ]


def _finite(value: Any) -> Any:
    """Return JSON values with NaN and infinity, which are not JSON, as text."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
