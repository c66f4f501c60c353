"""From ids to a batch's streamlines: what a loader worker does, without the model and without the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from torch.utils.data import Dataset

from dwiml.batching.sampler import BatchIds
from dwiml.data.dataset import MultisubjectSubset
from dwiml.ops import augmentation
from dwiml.ops.randomness import BatchKey, keyed_generator
from dwiml.ops.resampling import Resampling
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    import numpy.typing as npt


class BatchSlices(dict[int, slice]):
    """For each subject index, the slice of the batch's streamlines that are its own; and which batch it is."""

    def __init__(self, slices: dict[int, slice], key: BatchKey) -> None:
        super().__init__(slices)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchSlices, (dict(self), self.key))


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
    reverse_ratio, split_ratio
        Share of a batch's streamlines that are reversed, or cut in two; 0 outside of training.
    seed
        Of the augmentation.
    """

    def __init__(
        self,
        subset: MultisubjectSubset,
        streamline_group_name: str,
        *,
        resampling: Resampling,
        reverse_ratio: float,
        split_ratio: float,
        seed: int,
    ) -> None:
        self.subset = subset
        self.streamline_group_name = streamline_group_name
        self.resampling = resampling
        self.reverse_ratio = reverse_ratio
        self.split_ratio = split_ratio
        self.seed = seed

    def __getitem__(self, batch_ids: BatchIds) -> tuple[TensorSequence, BatchSlices]:
        """Return a batch's streamlines (voxel space, corner origin) and whose they are.

        Raises
        ------
        ValueError
            When a coordinate is not finite, which a lazy dataset has not seen before; it names the subjects.
        """
        points, lengths, counts = self._gather(batch_ids)
        if not np.isfinite(points).all():
            self._name_not_finite(batch_ids)
        voxel_sizes = np.repeat(
            np.stack([self._streamlines(subject).voxel_sizes for subject, _ in batch_ids]), counts, axis=0
        )
        points, lengths = self.resampling.apply(points, lengths, voxel_sizes)
        points, lengths, counts = self._augment(points, lengths, counts, batch_ids.key)
        ends = np.cumsum(counts)
        slices = {
            subject: slice(int(end - count), int(end))
            for (subject, _), count, end in zip(batch_ids, counts, ends, strict=True)
        }
        return TensorSequence.from_numpy(points, lengths), BatchSlices(slices, batch_ids.key)

    def _name_not_finite(self, batch_ids: BatchIds) -> NoReturn:
        found = []
        for subject, ids in batch_ids:
            points, lengths = self._streamlines(subject).gather(ids)
            of_point = np.repeat(ids, lengths)
            bad = np.unique(of_point[~np.isfinite(points).all(axis=1)])
            if len(bad):
                found.append(f"'{self.subset[subject].subject_id}' (streamline {bad[0]})")
        raise ValueError(
            f"Streamlines group '{self.streamline_group_name}' holds NaN or infinite coordinates for subject "
            f"{', '.join(found)}; make the HDF5 again without them."
        )

    def _streamlines(self, subject: int) -> Any:
        return self.subset[subject].streamlines[self.streamline_group_name]

    def _gather(
        self, batch_ids: BatchIds
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        parts = [self._streamlines(subject).gather(ids) for subject, ids in batch_ids]
        counts = np.array([len(ids) for _, ids in batch_ids], dtype=np.int64)
        if len(parts) == 1:
            return (*parts[0], counts)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), counts

    def _augment(
        self,
        points: npt.NDArray[np.float32],
        lengths: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        key: BatchKey,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if self.reverse_ratio > 0:
            rng = keyed_generator(self.seed, key.epoch, key.batch_index, "reverse")
            points = augmentation.reverse(
                points, lengths, augmentation.draw_reverse(len(lengths), self.reverse_ratio, rng)
            )
        if self.split_ratio > 0:
            rng = keyed_generator(self.seed, key.epoch, key.batch_index, "split")
            cuts = augmentation.draw_split(lengths, self.split_ratio, rng)
            lengths, pieces = augmentation.split(lengths, cuts)
            owners = np.repeat(np.arange(len(counts)), counts)
            counts = np.bincount(owners, weights=pieces, minlength=len(counts)).astype(np.int64)
        return points, lengths, counts
