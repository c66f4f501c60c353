"""Measure the loss of a model at each point of streamlines of a subject."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLBatchLoaderOneInput, DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import BatchIds
from dwiml.data.dataset import SubjectData
from dwiml.data.given_streamlines import GivenStreamlines
from dwiml.evaluation.evaluation_mode import evaluation_mode
from dwiml.evaluation.losses_by_element import check_has_losses_by_element, losses_by_element
from dwiml.models.protocols import LossModel
from dwiml.ops import ragged
from dwiml.ops.directions import SHORTEST_STEP
from dwiml.ops.randomness import BatchKey
from dwiml.ops.sequences import TensorSequence
from dwiml.tractograms.grid import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SubjectReader:
    """Read the streamlines of one subject in batches, resampled as for the model but never augmented.

    Attributes
    ----------
    batch_loader
        Loader with the data of the subject.
    phase
        Subset of the subject: ``"training"``, ``"validation"`` or ``"testing"``.
    subject
        Index of the subject in the subset.
    batch_size
        Number of streamlines per batch.
    """

    batch_loader: DWIMLStreamlinesBatchLoader
    phase: str
    subject: int
    batch_size: int = 1000

    @property
    def data(self) -> SubjectData:
        """The data of the subject."""
        return self.batch_loader.dataset.subset(self.phase).data_of(self.subject)

    @property
    def nb_streamlines(self) -> int:
        """Number of streamlines of the subject."""
        return len(self.data.streamlines[self.batch_loader.streamline_group_name])

    @property
    def has_true_streamlines(self) -> bool:
        """Whether the streamlines are those of the HDF5 file."""
        return not isinstance(self.data.streamlines[self.batch_loader.streamline_group_name], GivenStreamlines)

    def replace_streamlines(self, path: str | os.PathLike[str]) -> None:
        """Read the streamlines of a tractogram instead, in the dataset of the loader.

        Parameters
        ----------
        path
            A tractogram of any format, in the scanner space of the subject.

        Raises
        ------
        FileNotFoundError, ValueError
            If it does not exist, is damaged, has no streamline, or is far from the volume.
        """
        group = self.batch_loader.streamline_group_name
        self.data.streamlines[group] = GivenStreamlines(self.data.streamlines[group], path)

    def find_grid(self) -> Grid:
        """Return the voxel grid of the streamlines.

        Raises
        ------
        ValueError
            If the HDF5 file does not state its shape, and the model reads no volume.
        """
        streamlines = self.data.streamlines[self.batch_loader.streamline_group_name]
        if isinstance(self.batch_loader, DWIMLBatchLoaderOneInput):
            return streamlines.grid_of(self.data.volumes[self.batch_loader.input_group_name].grid.shape)
        if not streamlines.dimensions.any():
            raise ValueError(
                f"The {streamlines.label} does not state the shape of its volumes ('dimensions'), which a .trk file "
                "needs; recreate the HDF5 file."
            )
        return streamlines.grid_of((0, 0, 0))

    def batches(self, ids: Integers | None = None) -> Iterator[tuple[TensorSequence, BatchSlices]]:
        """Iterate over the streamlines in batches.

        Parameters
        ----------
        ids : (S,) int64, optional
            Indices of the streamlines; None for all, in order.

        Yields
        ------
        streamlines
            Points (P, 3) in voxel space, corner origin, in voxels.
        ids_per_subj
            The slice of the batch that belongs to the subject.
        """
        ids = np.arange(self.nb_streamlines, dtype=np.int64) if ids is None else ids
        fetcher = self.batch_loader.fetcher(self.phase, augment=False)
        for index, start in enumerate(range(0, len(ids), self.batch_size)):
            key = BatchKey(self.phase, 0, index)
            yield fetcher.fetch(BatchIds([(self.subject, ids[start : start + self.batch_size])], key))


@dataclass(frozen=True)
class PointLosses:
    """Losses at the P points of S streamlines, concatenated.

    Attributes
    ----------
    lengths : (S,) int64
        Number of points of each streamline, after resampling.
    loss : (P,) float32
        Loss of the step that starts at the point. NaN where there is no step: at repeated points, and at the last point
        of a streamline unless the model learns where streamlines end (EOS).
    eos_probability : (P,) float32, optional
        Probability that the streamline ends at the point; None if the model does not predict it.
    """

    lengths: Integers
    loss: Floats
    eos_probability: Floats | None

    @property
    def offsets(self) -> Integers:
        """Index of the first point of each streamline; shape (S,), int64."""
        return ragged.offsets(self.lengths)

    def streamline_means(self) -> npt.NDArray[np.float64]:
        """Return the mean loss of each streamline, shape (S,), float64; NaN for streamlines without a loss."""
        ids = ragged.sequence_ids(self.lengths)
        has_loss = ~np.isnan(self.loss)
        sums = np.bincount(ids[has_loss], weights=self.loss[has_loss], minlength=len(self.lengths))
        counts = np.bincount(ids[has_loss], minlength=len(self.lengths))
        means: npt.NDArray[np.float64] = np.full(len(sums), np.nan)
        return np.divide(sums, counts, out=means, where=counts > 0)

    def eos_probabilities_by_place(self) -> tuple[Floats, Floats] | None:
        """Return the EOS probabilities at the last points (S,) and at all other points; None if there are none."""
        if self.eos_probability is None:
            return None
        is_last = np.zeros(len(self.loss), dtype=bool)
        is_last[ragged.last_rows(self.lengths)] = True
        return self.eos_probability[is_last], self.eos_probability[~is_last]

    def filled(self) -> Floats:
        """Return the losses (P,), with NaN replaced by the previous loss in the streamline, if there is one."""
        starts = np.repeat(self.offsets, self.lengths)
        known = np.where(np.isnan(self.loss), -1, np.arange(len(self.loss)))
        source = np.maximum.accumulate(known) if len(known) else known
        return np.where(source >= starts, self.loss[source], np.float32(np.nan))


def measure_losses(
    model: LossModel, reader: SubjectReader, *, on_progress: Callable[[int], None] = lambda count: None
) -> PointLosses:
    """Measure the loss of a model at each point of the streamlines of a subject.

    Parameters
    ----------
    model
        A model with a direction getter, evaluated on its current device.
    reader
        Reader of the subject. One batch is in memory at a time, besides the losses (4 bytes per point).
    on_progress
        Called after each batch with its number of streamlines.

    Returns
    -------
    PointLosses
        Losses of all streamlines, in their order in the file.

    Raises
    ------
    ValueError
        If no streamline of the subject has a loss.
    FloatingPointError
        If a loss is NaN or infinite.
    TypeError, ValueError
        If ``compute_loss`` of the model does not return one loss per step (or point) with ``average_results=False``.
    """
    check_has_losses_by_element(model)
    parts: list[tuple[Integers, Floats, Floats | None]] = []
    with evaluation_mode(model):
        for targets, ids_per_subj in reader.batches():
            parts.append(_losses_of_batch(model, reader, targets.to(model.device), ids_per_subj))
            on_progress(len(targets))
    name = reader.data.subject_id
    loss = np.concatenate([part for _, part, _ in parts]) if parts else np.zeros(0, dtype=np.float32)
    if np.isnan(loss).all():
        raise ValueError(f"Subject '{name}' has no streamline with two points or more; choose another subject.")
    eos = [part for _, _, part in parts if part is not None]
    return PointLosses(np.concatenate([part for part, _, _ in parts]), loss, np.concatenate(eos) if eos else None)


def _losses_of_batch(
    model: LossModel, reader: SubjectReader, targets: TensorSequence, ids_per_subj: BatchSlices
) -> tuple[Integers, Floats, Floats | None]:
    """Return the lengths (S,), the losses (P,) and the EOS probabilities (P,) or None."""
    is_last = targets.is_last()
    batch = reader.batch_loader.model_batch(targets, ids_per_subj)
    outputs = batch.run(model)
    result = batch.loss(model, outputs, average_results=False)
    has_row = torch.ones_like(is_last) if model.forward_uses_last_point else ~is_last
    moves = torch.zeros_like(is_last)
    moves[~is_last] = torch.linalg.vector_norm(targets.diff().data, dim=-1) > SHORTEST_STEP
    has_loss = moves | (is_last & has_row)
    by_point = _on_points(losses_by_element(model, result, int(has_row.sum())), has_row)
    if not bool(by_point[has_loss].isfinite().all()):
        raise FloatingPointError(
            f"The loss of the model is NaN or infinite at a streamline of subject '{reader.data.subject_id}'; check "
            "the weights and the values of the input volume."
        )
    by_point[~has_loss] = torch.nan
    probability = model.eos_probability(outputs)
    eos = None if probability is None else _on_points(probability, has_row).cpu().numpy()
    return targets.lengths.numpy(), by_point.cpu().numpy(), eos


def _on_points(rows: torch.Tensor, has_row: torch.Tensor) -> torch.Tensor:
    """Return the values (P,), float32: one row for each point that has a row, and NaN for the others."""
    by_point = torch.full(has_row.shape, torch.nan, device=rows.device)
    by_point[has_row] = rows.to(torch.float32)
    return by_point
