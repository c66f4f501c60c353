"""Saving a batch that gave a NaN or infinite value, for inspection."""

from __future__ import annotations

from pathlib import Path

import torch

from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.files import atomic_write
from dwiml.training.experiment.checkpoint import has_checkpoint
from dwiml.training.experiment.folder import ExperimentFolder
from dwiml.training.reporting.monitors import NonFiniteValueError


def save_bad_batch(
    folder: Path, sampler: DWIMLBatchIDSampler, loader: DWIMLStreamlinesBatchLoader, *, epoch: int, batch: int
) -> tuple[Path | None, list[str]]:
    """Load a batch again and write it to a file, to be read by ``torch.load(path, weights_only=True)``.

    Parameters
    ----------
    folder
        Folder of the file.
    sampler, loader
        The sampler (in the phase of the batch) and the loader of the training.
    epoch, batch
        Epoch and index of the batch.

    Returns
    -------
    path
        The file: a dict with ``points`` (N, 3), float32, voxel space, corner origin; ``lengths`` (S,), the number of
        points of each streamline; and ``ids``, the indices of the streamlines in the HDF5 file, by subject. None if it
        could not be written.
    subjects
        Names of the subjects in the batch.
    """
    phase = sampler.phase
    # The whole batch, whichever process had the bad part.
    batch_ids = sampler.whole_batch(phase, sampler.epoch, batch)
    subset = loader.dataset.subset(phase)
    names = [subset.subjects[subject] for subject, _ in batch_ids]
    streamlines, _ = loader.load_batch_streamlines(batch_ids)
    content = {
        "phase": phase,
        "epoch": epoch,
        "batch": batch,
        "points": streamlines.data,
        "lengths": streamlines.lengths,
        "ids": {name: torch.from_numpy(ids) for name, (_, ids) in zip(names, batch_ids, strict=True)},
    }
    path = folder / f"{phase}_epoch_{epoch}_batch_{batch}.pt"
    try:
        with atomic_write(path, follow_links=False) as stream:
            torch.save(content, stream)
    except OSError:
        return None, names
    return path, names


def explain_bad_batch(
    error: NonFiniteValueError,
    folder: ExperimentFolder,
    sampler: DWIMLBatchIDSampler,
    loader: DWIMLStreamlinesBatchLoader,
    *,
    epoch: int,
) -> str:
    """Save a bad batch with :func:`save_bad_batch`; return the message for the user."""
    path, subjects = save_bad_batch(folder.bad_batches, sampler, loader, epoch=epoch, batch=error.batch)
    saved = "It could not be saved" if path is None else f"Its streamlines are saved in '{path}'"
    checkpoint = "the last checkpoint was written before it"
    if not has_checkpoint(folder.checkpoint):
        again = "" if folder.is_used() else ", and experiment_name can be used again"
        checkpoint = f"no checkpoint was written yet{again}"
    advice = "Look for extreme values in the data, lower the learning rate, clip the gradient"
    if error.is_user_metric:
        advice = "Check the value that you give to self.log"
    return (
        f"{error} The batch has streamlines of {', '.join(subjects)}. {saved}; {checkpoint}. {advice}, or set "
        "nan_policy='skip'."
    )
