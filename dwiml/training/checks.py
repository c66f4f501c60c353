"""What must hold before a training begins: one sentence each where it does not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dwiml.arguments import check_number, check_whole, quoted, shown
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultisubjectSubset
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import STATE_FILE, read_state

# Bytes, on all disks in use.
_LONGEST_NAME = 255


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise the sentence that lists what is allowed, when ``value`` is not."""
    if value not in list(allowed):
        raise ValueError(f"{name} must be one of {quoted(allowed)}, got {value!r}.")


def choose_device(use_gpu: bool | None, local_rank: int = 0) -> torch.device:
    """Return the device to train on, on several GPUs the one of that rank; ValueError when there is none and should."""
    if use_gpu not in (None, True, False):
        raise ValueError(f"use_gpu must be True, False, or None for whichever there is, got {use_gpu!r}.")
    available = torch.cuda.is_available()
    if use_gpu and not available:
        raise ValueError("use_gpu was asked for, but torch finds no GPU here.")
    if not available or use_gpu is False:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"Process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start "
            "as many processes as there are GPUs (torchrun --nproc_per_node)."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def check_counts(**counts: int | None) -> None:
    """Raise ValueError for a count that is not a whole number of at least 1 (None is allowed, but for max_epochs)."""
    for name, count in counts.items():
        if count is not None or name == "max_epochs":
            check_whole(name, count, low=1, high=10**9)


def check_options(
    *,
    nb_cpu_processes: int,
    weight_decay: float,
    patience_delta: float,
    clip_grad: float | None,
    checkpoint_minutes: float | None,
) -> None:
    """Raise ValueError for a trainer's number that is out of range: one that makes no sense, or no training."""
    check_whole("nb_cpu_processes", nb_cpu_processes, low=0, high=max(64, 4 * (os.cpu_count() or 1)))
    check_number("weight_decay", weight_decay, low=0, high=100)
    check_number("patience_delta", patience_delta, low=0, high=1e6)
    if clip_grad is not None:
        check_number("clip_grad", clip_grad, low=0, high=1e9, low_included=False)
    if checkpoint_minutes is not None:
        check_number("checkpoint_minutes", checkpoint_minutes, low=0, high=1e6, low_included=False)


def check_comet(workspace: str | None, project: str | None) -> None:
    """Raise ValueError when only one of Comet's two names is given."""
    if (workspace is None) != (project is None):
        raise ValueError("Comet needs both comet_workspace and comet_project (or neither, for no Comet).")


def check_place(experiments_path: str | Path, name: str) -> None:
    """Raise ValueError when a name would not be a folder of its own in experiments_path."""
    is_name = isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
    if not is_name or not name.isprintable() or len(os.fsencode(name)) > _LONGEST_NAME:
        raise ValueError(
            "experiment_name must be the name of a folder, without slashes, line breaks or too many letters, got "
            f"{shown(name)}."
        )
    if not isinstance(experiments_path, (str, Path)):
        raise ValueError(f"experiments_path must be the path of a folder, got {experiments_path!r}.")
    folder = Path(experiments_path) / name
    first = next(path for path in (folder, *folder.parents) if path.exists())
    if not first.is_dir():
        raise NotADirectoryError(f"The experiment's folder cannot be '{folder}': '{first}' is a file.")


def check_objects(model: Any, sampler: DWIMLBatchIDSampler, loader: DWIMLStreamlinesBatchLoader) -> None:
    """Raise TypeError or ValueError when model, sampler and loader do not go together, or have no data."""
    if not isinstance(model, MainModelAbstract):
        received = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise TypeError(f"The model must be an instance of a subclass of MainModelAbstract, got {received}.")
    if loader.model is not model:
        raise ValueError("The batch loader was made with another model than the trainer's; make it with this one.")
    if sampler.dataset is not loader.dataset or sampler.streamline_group_name != loader.streamline_group_name:
        raise ValueError("The batch sampler and the batch loader must have the same dataset and streamlines group.")
    _check_data(sampler)


def _check_data(sampler: DWIMLBatchIDSampler) -> None:
    """Raise ValueError when there is nothing to train on."""
    training = sampler.dataset.training_set
    if not training.loaded:
        raise ValueError("The training set is not loaded: call dataset.load_data() first.")
    if not _has_streamlines(training, sampler.streamline_group_name):
        raise ValueError(
            f"There is no training streamline of two points or more, and longer than 0 mm, in "
            f"'{sampler.dataset.hdf5_file}' (training subjects: {', '.join(training.subjects) or 'none'})."
        )


def has_validation_set(sampler: DWIMLBatchIDSampler) -> bool:
    """Tell whether there is a streamline to validate with; warn when there is none."""
    if _has_streamlines(sampler.dataset.validation_set, sampler.streamline_group_name):
        return True
    warnings.warn(
        "There is no validation streamline: the best model and early stopping go by the training loss.", stacklevel=4
    )
    return False


def warn_of_lost_model(best_model: Path) -> None:
    """Warn when a run that is resumed has lost its best model, or the weights in it are damaged."""
    problem = None
    try:
        read_state(best_model / STATE_FILE)
    except FileNotFoundError:
        problem = f"'{best_model}' is gone"
    except ValueError as error:
        problem = str(error).rstrip(".")
    if problem:
        warnings.warn(f"{problem}; the next epoch that is better writes it again.", stacklevel=4)


def check_batch_result(result: Any) -> tuple[torch.Tensor, int]:
    """Return what ``run_one_batch`` returned; raise TypeError when it is not (0-d tensor, n)."""
    if isinstance(result, (tuple, list)) and len(result) == 2:
        mean_loss, n = result
        if isinstance(mean_loss, torch.Tensor) and mean_loss.ndim == 0:
            return mean_loss, int(n)
    raise TypeError("run_one_batch must return (mean_loss, n): a 0-d tensor and the number of points that it is over.")


def _has_streamlines(subset: MultisubjectSubset, group: str) -> bool:
    streamlines = (subject.streamlines[group] for subject in subset if group in subject.streamlines)
    # Without a length there is no direction, and the loss is 0 whatever the model does.
    return any(((each.lengths >= 2) & (each.lengths_mm > 0)).any() for each in streamlines)
