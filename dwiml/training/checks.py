"""What must hold before a training begins: one sentence each where it does not."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.hdf5.schema import quoted


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise the sentence that lists what is allowed, when ``value`` is not."""
    if value not in set(allowed):
        raise ValueError(f"{name} must be one of {quoted(allowed)}, got {value!r}.")


def choose_device(use_gpu: bool | None) -> torch.device:
    """Return the device to train on; raise ValueError when a GPU is asked for and there is none."""
    available = torch.cuda.is_available()
    if use_gpu and not available:
        raise ValueError("use_gpu was asked for, but torch finds no GPU here.")
    return torch.device("cuda" if available and use_gpu is not False else "cpu")


def check_counts(**counts: int | None) -> None:
    """Raise ValueError for a count that is no whole number of at least 1 (None is allowed, but for max_epochs)."""
    for name, count in counts.items():
        if count is None and name != "max_epochs":
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count}.")


def check_not_negative(**values: float) -> None:
    """Raise ValueError for a value that is negative or not finite."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be 0 or more, got {value}.")


def check_clipping(clip_grad: float | None) -> None:
    """Raise ValueError for a limit on gradients that is not positive (None is allowed)."""
    if clip_grad is not None and not 0 < clip_grad < float("inf"):
        raise ValueError(f"clip_grad must be positive, or None to leave gradients as they are, got {clip_grad}.")


def check_comet(workspace: str | None, project: str | None) -> None:
    """Raise ValueError when only one of Comet's two names is given."""
    if (workspace is None) != (project is None):
        raise ValueError("Comet needs both comet_workspace and comet_project (or neither, for no Comet).")


def check_experiment_name(name: str) -> None:
    """Raise ValueError for a name that would not be a folder of its own in experiments_path."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise ValueError(f"experiment_name must be the name of a folder, without slashes, got {name!r}.")


def check_data(sampler: DWIMLBatchIDSampler, loader: DWIMLStreamlinesBatchLoader) -> None:
    """Raise ValueError when sampler and loader do not match, or there is nothing to train on."""
    if sampler.dataset is not loader.dataset or sampler.streamline_group_name != loader.streamline_group_name:
        raise ValueError("The batch sampler and the batch loader must have the same dataset and streamlines group.")
    training = sampler.dataset.training_set
    if not training.loaded:
        raise ValueError("The training set is not loaded: call dataset.load_data() first.")
    if not training.total_nb_streamlines.get(sampler.streamline_group_name, 0):
        raise ValueError(
            f"There is no training streamline in '{sampler.dataset.hdf5_file}' "
            f"(training subjects: {', '.join(training.subjects) or 'none'})."
        )


def has_validation_set(sampler: DWIMLBatchIDSampler) -> bool:
    """Tell whether there is a streamline to validate with; warn when there is none."""
    if sampler.dataset.validation_set.total_nb_streamlines.get(sampler.streamline_group_name, 0):
        return True
    warnings.warn(
        "There is no validation streamline: the best model and early stopping go by the training loss.", stacklevel=4
    )
    return False
