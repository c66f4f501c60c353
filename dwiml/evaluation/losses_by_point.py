"""Measure the loss of a model, and its other errors, at each point of streamlines of a subject."""

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
from dwiml.evaluation.direction_error import displacements_mm, has_directions
from dwiml.evaluation.evaluation_mode import evaluation_mode
from dwiml.evaluation.losses_by_element import check_has_losses_by_element, losses_by_element
from dwiml.evaluation.point_losses import PointLosses
from dwiml.models.protocols import LossModel
from dwiml.ops.directions import SHORTEST_STEP
from dwiml.ops.randomness import BatchKey
from dwiml.ops.sequences import TensorSequence
from dwiml.tractograms.grid import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

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
        replaced = self.data.streamlines[group]
        self.data.streamlines[group] = GivenStreamlines(path, replaced.grid_of((0, 0, 0)), in_place_of=replaced)

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


def measure_losses(
    model: LossModel,
    reader: SubjectReader,
    *,
    required: str = "loss",
    on_progress: Callable[[int], None] = lambda count: None,
) -> PointLosses:
    """Measure the loss of a model at each point of the streamlines of a subject.

    Parameters
    ----------
    model
        A model with a loss at each step or point, evaluated on its current device. If it has
        ``get_tracking_directions``, the displacements are measured too.
    reader
        Reader of the subject. One batch is in memory at a time, besides the losses, the displacements and the EOS
        probabilities (4 bytes each per point).
    required
        Values that the model must have, one of :data:`dwiml.evaluation.point_losses.COLOR_BY`; otherwise, an error is
        raised after the first batch.
    on_progress
        Called after each batch with its number of streamlines.

    Returns
    -------
    PointLosses
        Losses of all streamlines, in their order in the file.

    Raises
    ------
    ValueError
        If no streamline of the subject has a loss, or the model does not have the `required` values.
    FloatingPointError
        If a loss is NaN or infinite.
    TypeError, ValueError
        If ``compute_loss`` of the model does not return one loss per step (or point) with ``average_results=False``, or
        ``get_tracking_directions`` one direction per row.
    """
    check_has_losses_by_element(model)
    parts: list[PointLosses] = []
    has_steps = False
    with evaluation_mode(model):
        for targets, ids_per_subj in reader.batches():
            parts.append(_losses_of_batch(model, reader, targets.to(model.device), ids_per_subj))
            has_steps = has_steps or parts[-1].has_steps
            if has_steps:
                parts[-1].values_for_color(required)
            on_progress(len(targets))
    if not has_steps:
        name = reader.data.subject_id
        raise ValueError(f"Subject '{name}' has no streamline with two different points; choose other streamlines.")
    columns = (np.concatenate([part.lengths for part in parts]), np.concatenate([part.loss for part in parts]))
    eos = [part.eos_probability for part in parts if part.eos_probability is not None]
    displacement = [part.displacement_mm for part in parts if part.displacement_mm is not None]
    return PointLosses(*columns, _joined(eos), _joined(displacement))


def _joined(parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32] | None:
    """Return the values of all batches, or None if there are none."""
    joined = np.concatenate(parts) if parts else None
    return None if joined is None or np.isnan(joined).all() else joined


def _losses_of_batch(
    model: LossModel, reader: SubjectReader, targets: TensorSequence, ids_per_subj: BatchSlices
) -> PointLosses:
    """Return the losses of a batch; its displacements may all be NaN."""
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
    displacement = None
    if has_directions(model):
        voxel_sizes = torch.from_numpy(reader.data.streamlines[reader.batch_loader.streamline_group_name].voxel_sizes)
        found = _on_points(displacements_mm(model, batch, outputs, voxel_sizes), ~is_last)
        displacement = found.masked_fill(~moves, torch.nan).cpu().numpy()
    return PointLosses(targets.lengths.numpy(), by_point.cpu().numpy(), eos, displacement)


def _on_points(rows: torch.Tensor, has_row: torch.Tensor) -> torch.Tensor:
    """Return the values (P,), float32: one row for each point that has a row, and NaN for the others."""
    by_point = torch.full(has_row.shape, torch.nan, device=rows.device)
    by_point[has_row] = rows.to(torch.float32)
    return by_point
