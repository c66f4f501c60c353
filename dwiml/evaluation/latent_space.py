"""Streamlines in the latent space of an autoencoder, and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dwiml.arguments import grouped
from dwiml.evaluation.evaluation_mode import evaluation_mode
from dwiml.evaluation.losses_by_element import check_has_losses_by_element, losses_by_element
from dwiml.files import read_json
from dwiml.models.saving import PARAMETERS_FILE, read_params
from dwiml.models.whole_streamlines.autoencoder import AutoencoderModel
from dwiml.ops.ragged import check_finite_points, offsets, slabs
from dwiml.ops.resampling import resample_nb_points
from dwiml.ops.sequences import TensorSequence
from dwiml.training.experiment.folder import BEST_MODEL
from dwiml.training.loading import device_of, load_best_model, recorded_parameters
from dwiml.training.recorded_classes import model_class_of

# Points of the files that are resampled at once.
_MAX_ROWS = 2**22
# Largest coordinate. Beyond a kilometer, float32 is not precise to 0.1 mm, and models may overflow.
_MAX_MM = 1e6

Points = NDArray[np.float32]
Lengths = NDArray[np.int64]


def load_autoencoder(
    path: str | os.PathLike[str],
    model_class: str | type[Any] | None = None,
    *,
    device: torch.device | str | None = None,
) -> AutoencoderModel:
    """Return an autoencoder, with its weights, on the device on which to use it.

    Parameters
    ----------
    path
        An experiment folder, whose best model is loaded, or the folder of a saved model (``model.save``).
    model_class
        The class of the model, if it is a subclass that is not part of dwiml or of an installed package, as in
        :func:`dwiml.load_experiment`.
    device
        Device of the model; None for a GPU if there is one, unless the training had ``use_gpu=False``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no model in it.
    ValueError
        If the files are damaged or hold another model, or the class is unknown and not given.
    """
    folder = Path(path)
    described = read_json(folder / PARAMETERS_FILE) if (folder / PARAMETERS_FILE).is_file() else None
    if isinstance(described, dict) and "class" in described:
        # It is read again with the weights.
        saved = read_params(folder / PARAMETERS_FILE, warn=False)
        what = f"The model of '{folder}'"
        found = model_class_of(saved.class_name, saved.class_path, model_class, what, digest=saved.class_digest)
        if issubclass(found, AutoencoderModel):
            return found.load(folder, device=device or _device_of_saved(folder))
        name = saved.class_name
    else:
        model = load_best_model(folder, model_class=model_class, device=device)
        if isinstance(model, AutoencoderModel):
            return model
        name = type(model).__name__
    raise ValueError(
        f"The model of '{folder}' is of class {' '.join(name.split())[:80]}; an autoencoder is needed, as trained with "
        "'dwiml train autoencoder'."
    )


def _device_of_saved(folder: Path) -> str:
    """Return the device for a saved model. The best model of an experiment is used where the experiment is."""
    real = Path(os.path.realpath(folder))
    if real.name == BEST_MODEL and (real.parent / PARAMETERS_FILE).is_file():
        return device_of(recorded_parameters(real.parent))
    return "cuda" if torch.cuda.is_available() else "cpu"


def encode_streamlines(
    model: AutoencoderModel,
    points: Points,
    lengths: Lengths,
    *,
    reverse: bool = False,
    batch_size: int = 1000,
    on_progress: Callable[[int], None] = lambda count: None,
) -> torch.Tensor:
    """Return the vector of each streamline in the latent space.

    Parameters
    ----------
    model
        The autoencoder, used on its current device.
    points : (N, 3) float32
        Points of all streamlines, concatenated; rasmm, center origin, in mm. They are resampled for the model.
    lengths : (S,) int64
        Number of points of each streamline, at least 1.
    reverse
        Whether to encode the streamlines from their last point to their first.
    batch_size
        Number of streamlines that are encoded at once.
    on_progress
        Called after each batch with its number of streamlines.

    Returns
    -------
    Tensor
        Shape (S, latent_size), float32, on the CPU.

    Raises
    ------
    ValueError
        If a shape is wrong, a streamline has no points, or a coordinate is NaN or beyond a kilometer (1e6 mm).
    FloatingPointError
        If the vector of a streamline is NaN or infinite.
    """
    parts = [torch.zeros(0, model.latent_size)]
    with evaluation_mode(model):
        for batch in _batches(model, points, lengths, batch_size):
            latent = model.encode(batch.reversed() if reverse else batch).float().cpu()
            _check_finite(latent, sum(map(len, parts)))
            parts.append(latent)
            on_progress(len(batch))
    return torch.cat(parts)


def reconstruct_streamlines(
    model: AutoencoderModel,
    points: Points,
    lengths: Lengths,
    *,
    batch_size: int = 1000,
) -> Iterator[tuple[Points, NDArray[np.float64]]]:
    """Encode and decode streamlines, one batch at a time.

    Parameters
    ----------
    model, points, lengths, batch_size
        As in :func:`encode_streamlines`.

    Yields
    ------
    points : (B * nb_points, 3) float32
        The reconstructions of a batch of B streamlines, ``model.nb_points`` points each; rasmm, center origin, in mm.
    errors : (B,) float64
        Root mean square distance, in mm, between the points of each streamline, resampled, and its reconstruction.

    Raises
    ------
    ValueError
        If a shape is wrong, a streamline has no points, or a coordinate is NaN or beyond a kilometer (1e6 mm).
    FloatingPointError
        If a reconstruction is NaN or infinite.
    """
    start = 0
    check_has_losses_by_element(model)
    for batch in _batches(model, points, lengths, batch_size):
        with evaluation_mode(model):
            outputs = model(batch)
            result = model.compute_loss(outputs, batch, average_results=False)
        losses = losses_by_element(model, result, batch.total_points)
        rebuilt = outputs.flatten(end_dim=1).cpu().numpy()
        squared = losses.double().cpu().numpy()
        means = np.add.reduceat(squared, offsets(batch.lengths.numpy())) / batch.lengths.numpy()
        _check_finite(torch.from_numpy(means)[:, None], start)
        start += len(batch)
        yield rebuilt, np.sqrt(means)


def _check_finite(values: torch.Tensor, start: int) -> None:
    """Raise an error if a number that was computed from a streamline is NaN or infinite.

    Parameters
    ----------
    values
        Shape (B, F), on the CPU: numbers computed from each of B streamlines.
    start
        Number of the first streamline.
    """
    wrong = (~values.isfinite()).any(dim=1).nonzero()
    if len(wrong):
        raise FloatingPointError(
            f"The model's result for streamline {start + int(wrong[0])} is NaN or infinite; check its weights."
        )


def _batches(model: AutoencoderModel, points: Points, lengths: Lengths, batch_size: int) -> Iterator[TensorSequence]:
    """Yield the streamlines of each batch, resampled, on the model's device."""
    if len(lengths) and lengths.min() < 1:
        raise ValueError(f"Streamline {int(lengths.argmin())} of {len(lengths)} has no points; leave it out.")
    check_finite_points(points, lengths)
    for some, rows in slabs(lengths, _MAX_ROWS, max_sequences=batch_size):
        far = np.flatnonzero(np.abs(points[rows]).max(axis=-1, initial=0) > _MAX_MM)
        if len(far):
            index = some.start + int(np.searchsorted(np.cumsum(lengths[some]), far[0], side="right"))
            raise ValueError(
                f"Streamline {index} of {len(lengths)} has coordinates beyond {grouped(_MAX_MM)} mm; check the units "
                "and the affine of the file, or remove it."
            )
        # Scanner space is in mm along all axes.
        resampled = resample_nb_points(points[rows], lengths[some], model.nb_points, np.ones(3))
        yield TensorSequence.from_numpy(*resampled).to(model.device)
