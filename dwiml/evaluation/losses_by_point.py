"""A model's loss at each point of a subject's true streamlines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import BatchIds
from dwiml.data.dataset import SubjectData
from dwiml.models.protocols import EvaluatedModel
from dwiml.ops import ragged
from dwiml.ops.directions import SHORTEST_STEP
from dwiml.ops.randomness import BatchKey
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SubjectReader:
    """Reads one subject's streamlines batch by batch, as the model sees them: resampled, never augmented.

    Attributes
    ----------
    batch_loader
        With the subject loaded.
    phase
        ``"training"``, ``"validation"`` or ``"testing"``: where the subject is.
    subject
        Its index there.
    batch_size
        Streamlines at a time.
    """

    batch_loader: DWIMLBatchLoaderOneInput
    phase: str
    subject: int
    batch_size: int = 1000

    @property
    def data(self) -> SubjectData:
        """The subject's groups."""
        found: SubjectData = self.batch_loader.dataset.subset(self.phase)[self.subject]
        return found

    @property
    def nb_streamlines(self) -> int:
        """The number of streamlines in the file."""
        return len(self.data.streamlines[self.batch_loader.streamline_group_name])

    def batches(self, ids: Integers | None = None) -> Iterator[tuple[TensorSequence, BatchSlices]]:
        """Give streamlines, voxel space, corner origin, and whose they are; ``ids`` of None is all, in their order."""
        ids = np.arange(self.nb_streamlines, dtype=np.int64) if ids is None else ids
        fetcher = self.batch_loader.fetcher(self.phase, augment=False)
        for index, start in enumerate(range(0, len(ids), self.batch_size)):
            key = BatchKey(self.phase, 0, index)
            yield fetcher.fetch(BatchIds([(self.subject, ids[start : start + self.batch_size])], key))


@dataclass(frozen=True)
class PointLosses:
    """The loss at each point of a subject's streamlines, one streamline after the other.

    Attributes
    ----------
    lengths
        Shape (S,), int64: the number of points of each streamline, as the model sees it.
    loss
        Shape (P,), float32: of the step that starts at the point. NaN where there is no step: at a last point, unless
        the model learns where streamlines end, and where a point is repeated.
    eos_probability
        Shape (P,), float32: the probability that the streamline ends at the point. None where the model does not say.
    """

    lengths: Integers
    loss: Floats
    eos_probability: Floats | None

    @property
    def offsets(self) -> Integers:
        """Shape (S,), int64: the first point of each streamline."""
        return ragged.offsets(self.lengths)

    def streamline_means(self) -> npt.NDArray[np.float64]:
        """Return each streamline's mean loss, (S,); NaN for one that has no step."""
        ids = ragged.sequence_ids(self.lengths)
        counted = ~np.isnan(self.loss)
        sums = np.bincount(ids[counted], weights=self.loss[counted], minlength=len(self.lengths))
        counts = np.bincount(ids[counted], minlength=len(self.lengths))
        means: npt.NDArray[np.float64] = np.full(len(sums), np.nan)
        return np.divide(sums, counts, out=means, where=counts > 0)

    def eos_by_place(self) -> tuple[Floats, Floats] | None:
        """Return the probabilities of an end at the streamlines' last points, and at all others; None without."""
        if self.eos_probability is None:
            return None
        is_last = np.zeros(len(self.loss), dtype=bool)
        is_last[ragged.last_rows(self.lengths)] = True
        return self.eos_probability[is_last], self.eos_probability[~is_last]

    def filled(self) -> Floats:
        """Return the loss with NaN replaced by the last loss before it in the streamline, (P,); NaN without one."""
        starts = np.repeat(self.offsets, self.lengths)
        known = np.where(np.isnan(self.loss), -1, np.arange(len(self.loss)))
        source = np.maximum.accumulate(known) if len(known) else known
        return np.where(source >= starts, self.loss[source], np.float32(np.nan))


def measure_losses(
    model: EvaluatedModel, reader: SubjectReader, *, on_progress: Callable[[int], None] = lambda count: None
) -> PointLosses:
    """Run a model along a subject's true streamlines and keep the loss of each step.

    Parameters
    ----------
    model
        A model with a direction getter; it stays on its device.
    reader
        The subject. One batch of it is in memory at a time, beside the losses: 4 bytes a point.
    on_progress
        Called after each batch with the number of its streamlines.

    Raises
    ------
    ValueError
        When the subject has no step at all.
    FloatingPointError
        When a loss is NaN or infinite.
    """
    was_training = model.training
    model.eval()
    parts: list[tuple[Integers, Floats, Floats | None]] = []
    try:
        with torch.no_grad():
            for targets, ids_per_subj in reader.batches():
                parts.append(_losses_of_batch(model, reader, targets.to(model.device), ids_per_subj))
                on_progress(len(targets))
    finally:
        model.train(was_training)
    name = reader.data.subject_id
    loss = np.concatenate([part for _, part, _ in parts]) if parts else np.zeros(0, dtype=np.float32)
    if np.isnan(loss).all():
        raise ValueError(f"Subject '{name}' has no streamline of two points or more: there is no loss to show.")
    eos = [part for _, _, part in parts if part is not None]
    return PointLosses(np.concatenate([part for part, _, _ in parts]), loss, np.concatenate(eos) if eos else None)


def _losses_of_batch(
    model: EvaluatedModel, reader: SubjectReader, targets: TensorSequence, ids_per_subj: BatchSlices
) -> tuple[Integers, Floats, Floats | None]:
    """Return the lengths (S,), the losses (P,) and the probabilities of an end (P,) or None."""
    is_last = targets.is_last()
    with_ends = bool(model.forward_uses_last_point)
    batch = reader.batch_loader.model_batch(targets, ids_per_subj)
    outputs = batch.run(model)
    losses, _ = batch.loss(model, outputs, average_results=False)
    has_row = torch.ones_like(is_last) if with_ends else ~is_last
    moves = torch.zeros_like(is_last)
    moves[~is_last] = torch.linalg.vector_norm(targets.diff().data, dim=-1) > SHORTEST_STEP
    counted = moves | (is_last & has_row)
    by_point = _on_points(losses, has_row)
    if not bool(by_point[counted].isfinite().all()):
        raise FloatingPointError(
            f"The model's loss is NaN or infinite at a streamline of subject '{reader.data.subject_id}': look at the "
            "weights and at the values of the input volume."
        )
    by_point[~counted] = torch.nan
    probability = model.eos_probability(outputs)
    eos = None if probability is None else _on_points(probability, has_row).cpu().numpy()
    return targets.lengths.numpy(), by_point.cpu().numpy(), eos


def _on_points(rows: torch.Tensor, has_row: torch.Tensor) -> torch.Tensor:
    """Put one value a row under the points that have a row, (P,) float32; NaN under the others."""
    by_point = torch.full(has_row.shape, torch.nan, device=rows.device)
    by_point[has_row] = rows.to(torch.float32)
    return by_point
