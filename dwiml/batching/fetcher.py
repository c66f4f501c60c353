"""The CPU half of a batch loader: from ids to a batch's streamlines; what a worker does, without model or GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dwiml.arguments import kind_shown
from dwiml.batching.sampler import BatchIds
from dwiml.data.dataset import MultisubjectSubset
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.ops import augmentation
from dwiml.ops.augmentation import DrawnAugmentation
from dwiml.ops.randomness import BatchKey, keyed_generator
from dwiml.ops.resampling import Resampling
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    import numpy.typing as npt


class BatchSlices(dict[int, slice]):
    """For each subject index, the slice of the batch's streamlines that are its own; and what else is known of them.

    Attributes
    ----------
    key : BatchKey
        Which batch it is.
    data_per_streamline : dict of Tensor
        For each key that all subjects have, a row for each streamline, shape (S, K), float32. Both halves of a
        streamline that was split have its row.
    drawn : DrawnAugmentation or None
        How the streamlines were reversed and split: given to ``load_batch_streamlines``, it is done again. None where
        nothing was drawn.
    augment : bool
        Whether noise is added to what the model is given. By default for training batches only.

    Raises
    ------
    TypeError
        Without a BatchKey.
    """

    def __init__(
        self,
        slices: dict[int, slice],
        key: BatchKey,
        data_per_streamline: dict[str, torch.Tensor] | None = None,
        drawn: DrawnAugmentation | None = None,
        augment: bool | None = None,
    ) -> None:
        super().__init__(slices)
        if not isinstance(key, BatchKey):
            raise TypeError(f"The slices of a batch need the batch's BatchKey, got {kind_shown(key)}.")
        self.key = key
        self.data_per_streamline = data_per_streamline or {}
        self.drawn = drawn
        self.augment = key.phase == "training" if augment is None else augment

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> BatchSlices:
        """Return the same with the data per streamline on another device."""
        moved = {key: rows.to(device, non_blocking=non_blocking) for key, rows in self.data_per_streamline.items()}
        return BatchSlices(dict(self), self.key, moved, self.drawn, self.augment)

    def pin_memory(self) -> BatchSlices:
        """Return the same with the data per streamline in page-locked memory."""
        pinned = {key: rows.pin_memory() for key, rows in self.data_per_streamline.items()}
        return BatchSlices(dict(self), self.key, pinned, self.drawn, self.augment)

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchSlices, (dict(self), self.key, self.data_per_streamline, self.drawn, self.augment))


def check_ids(batch_ids: Any) -> BatchIds:
    """Return a batch's ids; raise a TypeError for anything else, such as the plain list of a sampler of one's own."""
    if not isinstance(batch_ids, BatchIds):
        raise TypeError(
            f"A sampler must yield BatchIds, which say which batch it is, got {kind_shown(batch_ids)}: "
            "BatchIds(list of (subject, ids), BatchKey(phase, epoch, batch_index))."
        )
    return batch_ids


def check_slices(ids_per_subj: Any) -> BatchSlices:
    """Return a batch's slices, which say which batch it is.

    Raises
    ------
    TypeError
        For anything else: a plain dict does not say whether noise is to be added, nor which.
    """
    if not isinstance(ids_per_subj, BatchSlices):
        raise TypeError(
            "ids_per_subj must be the BatchSlices that a batch's streamlines come with, which say which batch it is, "
            f"got {kind_shown(ids_per_subj)}."
        )
    return ids_per_subj


class StreamlineFetcher(Dataset[tuple[TensorSequence, BatchSlices]]):
    """Fetches one batch of streamlines: gather, resample, then reverse and split as asked.

    It holds no open file and no random state: what it returns is a function of the batch's ids and key, so that any
    number of workers returns the same batches.

    Parameters
    ----------
    subset
        The phase's subjects.
    streamline_group_name
        The group to read.
    resampling
        How the model wants its streamlines.
    augment
        Whether to reverse and split; what the batches' noise depends on too.
    reverse_ratio, split_ratio
        Share of a batch's streamlines that are reversed, or cut in two.
    seed
        Of the augmentation.
    """

    def __init__(
        self,
        subset: MultisubjectSubset,
        streamline_group_name: str,
        *,
        resampling: Resampling,
        augment: bool,
        reverse_ratio: float,
        split_ratio: float,
        seed: int,
    ) -> None:
        self.phase = subset.name
        self.streamline_group_name = streamline_group_name
        # Not the subset itself: workers that are spawned receive a copy, and volumes are large.
        self._subjects = [(subject.subject_id, subject.streamlines[streamline_group_name]) for subject in subset]
        self.resampling = resampling
        self.augment = augment
        self.reverse_ratio = reverse_ratio
        self.split_ratio = split_ratio
        self.seed = seed
        self._dps_sizes = self._shared_dps_sizes()

    def __getitem__(self, batch_ids: BatchIds) -> tuple[TensorSequence, BatchSlices]:
        """Return a batch's streamlines, augmented as its key says: see :meth:`fetch`."""
        return self.fetch(batch_ids, self.draw(batch_ids))

    def draw(self, batch_ids: BatchIds) -> DrawnAugmentation | None:
        """Draw what is done to a batch's streamlines; None when nothing is to be done.

        It is drawn for the whole batch, of which this process may have a share only: together, several processes do
        what one alone would do.
        """
        if not self.augment or (self.reverse_ratio == 0 and self.split_ratio == 0):
            return None
        key, here = check_ids(batch_ids).key, sum(len(ids) for _, ids in batch_ids)
        total = here if key.total is None else key.total
        drawn = DrawnAugmentation(
            reversed=augmentation.draw_reverse(total, self.reverse_ratio, self._generator(key, "reverse")),
            split_places=augmentation.draw_split(total, self.split_ratio, self._generator(key, "split")),
        )
        return drawn[key.first : key.first + here]

    def fetch(self, batch_ids: BatchIds, drawn: DrawnAugmentation | None = None) -> tuple[TensorSequence, BatchSlices]:
        """Return a batch's streamlines (voxel space, corner origin) and whose they are.

        Parameters
        ----------
        batch_ids
            From the sampler.
        drawn
            How to reverse and split them; None to leave them as they are.

        Raises
        ------
        TypeError
            When ``batch_ids`` is a plain list, which does not say which batch it is.
        ValueError
            When a lazy dataset finds a coordinate that makes no sense, or that its file is no longer the one that was
            loaded (see :meth:`~dwiml.data.streamlines.SubjectStreamlines.gather`). When `drawn` is not for as many
            streamlines.
        """
        check_ids(batch_ids)
        if batch_ids.key.phase != self.phase:
            raise ValueError(
                f"A batch of the {batch_ids.key.phase} set was asked of the {self.phase} set: call the sampler's "
                f"set_position('{self.phase}', epoch) first."
            )
        counts = np.array([len(ids) for _, ids in batch_ids], dtype=np.int64)
        points, lengths = self._gather(batch_ids)
        data_per_streamline = self._gather_data_per_streamline(batch_ids)
        points, lengths = self.resampling.apply(points, lengths, self._voxel_sizes(batch_ids, counts))
        if drawn is not None:
            points, lengths, pieces = drawn.apply(points, lengths)
            data_per_streamline = {key: rows.repeat(pieces, axis=0) for key, rows in data_per_streamline.items()}
            ends_of_pieces = np.concatenate([[0], np.cumsum(pieces)])
            counts = np.diff(ends_of_pieces[np.cumsum(counts)], prepend=0)
        ends = np.cumsum(counts)
        slices = {
            subject: slice(int(end - count), int(end))
            for (subject, _), count, end in zip(batch_ids, counts, ends, strict=True)
        }
        tensors = {key: torch.from_numpy(rows) for key, rows in data_per_streamline.items()}
        own = BatchSlices(slices, batch_ids.key, tensors, drawn, self.augment)
        return TensorSequence.from_numpy(points, lengths), own

    def _generator(self, key: BatchKey, purpose: str) -> np.random.Generator:
        return keyed_generator(self.seed, key.epoch, key.batch_index, purpose)

    def _streamlines(self, subject: int) -> SubjectStreamlines:
        return self._subjects[subject][1]

    def _gather(self, batch_ids: BatchIds) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        parts = [self._streamlines(subject).gather(ids) for subject, ids in batch_ids]
        if not parts:
            # The share of a process in a batch of fewer streamlines than processes.
            return np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64)
        return joined([points for points, _ in parts]), joined([lengths for _, lengths in parts])

    def _gather_data_per_streamline(self, batch_ids: BatchIds) -> dict[str, npt.NDArray[np.float32]]:
        return {
            key: joined([self._streamlines(s).gather_data_per_streamline(key, ids) for s, ids in batch_ids])
            if batch_ids
            else np.zeros((0, size), dtype=np.float32)
            for key, size in self._dps_sizes.items()
        }

    def _shared_dps_sizes(self) -> dict[str, int]:
        """Return the keys of data_per_streamline that all subjects have, with rows of the same size, and that size."""
        # A subject without a streamline has nothing to say.
        sizes = [
            {key: streamlines.data_per_streamline_size(key) for key in streamlines.data_per_streamline}
            for _, streamlines in self._subjects
            if len(streamlines)
        ]
        if not sizes:
            return {}
        return {key: size for key, size in sizes[0].items() if all(other.get(key) == size for other in sizes)}

    def _voxel_sizes(self, batch_ids: BatchIds, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the voxel sizes of each streamline, shape (S, 3), in mm."""
        sizes = np.array([self._streamlines(subject).voxel_sizes for subject, _ in batch_ids], dtype=np.float32)
        return np.repeat(sizes.reshape(-1, 3), counts, axis=0)


def joined(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate, without a copy where there is one array only."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def whole_batch(batch: Any) -> Any:
    """Keep torch from taking a batch apart (a function of the module, so that workers can be spawned)."""
    return batch
