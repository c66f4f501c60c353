"""From ids to the streamlines of a batch, on the CPU, in workers; and from the workers to the device of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from dwiml.arguments import counted, kind_shown, shown
from dwiml.batching.sampler import BatchIds, check_ids
from dwiml.batching.workers import WorkerFailures
from dwiml.data.dataset import MultisubjectSubset, check_subject
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.ops import augmentation
from dwiml.ops.augmentation import DrawnAugmentation
from dwiml.ops.randomness import BatchKey, keyed_generator
from dwiml.ops.resampling import Resampling
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    import numpy.typing as npt

Batch = TypeVar("Batch")

_END: Any = object()


class BatchSlices(dict[int, slice]):
    """The streamlines of each subject in a batch: {subject index: slice of the batch's streamlines}.

    Attributes
    ----------
    key : BatchKey
        Identifies the batch.
    data_per_streamline : dict of Tensor
        {key: values of shape (S, K), float32} for S streamlines, with the keys that all subjects have. The two halves
        of a split streamline have the same values.
    drawn : DrawnAugmentation or None
        How the streamlines were reversed and split; ``load_batch_streamlines`` can apply it again. None if nothing was
        drawn.
    augment : bool
        Whether noise is added to the inputs and targets of the model. Default: in training batches only.

    Raises
    ------
    TypeError
        If `key` is not a BatchKey.
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
        """Return a copy with the data per streamline on another device."""
        moved = {key: rows.to(device, non_blocking=non_blocking) for key, rows in self.data_per_streamline.items()}
        return BatchSlices(dict(self), self.key, moved, self.drawn, self.augment)

    def pin_memory(self) -> BatchSlices:
        """Return a copy with the data per streamline in page-locked memory."""
        pinned = {key: rows.pin_memory() for key, rows in self.data_per_streamline.items()}
        return BatchSlices(dict(self), self.key, pinned, self.drawn, self.augment)

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchSlices, (dict(self), self.key, self.data_per_streamline, self.drawn, self.augment))


def check_slices(ids_per_subj: Any) -> BatchSlices:
    """Check that an object is the BatchSlices of a batch, and return it.

    Raises
    ------
    TypeError
        If it is anything else: a plain dict does not identify the batch, on which the noise depends.
    """
    if not isinstance(ids_per_subj, BatchSlices):
        raise TypeError(
            "ids_per_subj must be the BatchSlices returned with the streamlines of a batch, "
            f"got {kind_shown(ids_per_subj)}."
        )
    return ids_per_subj


def check_covers(ids_per_subj: Any, nb_streamlines: int) -> BatchSlices:
    """Check that the slices of a batch cover its streamlines, in order and without gap, and return them.

    Parameters
    ----------
    ids_per_subj
        Slices of the batch.
    nb_streamlines
        Number of streamlines that come with them.

    Raises
    ------
    TypeError
        If ``ids_per_subj`` is a plain dict (see :func:`check_slices`).
    ValueError
        If the slices do not cover the streamlines: some would be assigned to another subject.
    """
    slices = check_slices(ids_per_subj)
    end = 0
    for own in slices.values():
        bounds = (own.start, own.stop, own.step or 1) if isinstance(own, slice) else (None,)
        are_whole = all(isinstance(bound, (int, np.integer)) for bound in bounds)
        if not are_whole or own.step not in (None, 1) or own.start != end or own.stop < end:
            raise ValueError(
                "The slices of ids_per_subj must follow each other without gap, starting at 0, got "
                f"{shown(dict(slices))}."
            )
        end = own.stop
    if end != nb_streamlines:
        raise ValueError(
            f"ids_per_subj is for a batch of {end} streamlines, but {nb_streamlines} were given: give all streamlines "
            "of the batch, in their order, and select some of them afterwards."
        )
    return slices


class StreamlineFetcher(Dataset[tuple[TensorSequence, BatchSlices]]):
    """Fetches one batch of streamlines: read, resample, then optionally reverse and split.

    It holds no open file and no random state. A batch depends only on its ids, its key and the seed, so the batches
    are the same for any number of workers.

    Parameters
    ----------
    subset
        Subjects of the training, validation or testing set.
    streamline_group_name
        Group to read.
    resampling
        Resampling that the model requires.
    augment
        Whether streamlines are reversed and split; recorded in the batches, which then receive noise as well.
    reverse_ratio, split_ratio
        Fraction of the streamlines of a batch that are reversed, or cut in two, from 0 to 1.
    seed
        Seed of the augmentation.
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
        # Not the subset itself: spawned workers receive a copy, and volumes are large.
        self._subjects = [(subject.subject_id, subject.streamlines[streamline_group_name]) for subject in subset]
        self.resampling = resampling
        self.augment = augment
        self.reverse_ratio = reverse_ratio
        self.split_ratio = split_ratio
        self.seed = seed
        self._dps_sizes = self._shared_dps_sizes()

    def __getitem__(self, batch_ids: BatchIds) -> tuple[TensorSequence, BatchSlices]:
        """Return the streamlines of a batch, augmented with its own draws: see :meth:`draw` and :meth:`fetch`."""
        return self.fetch(batch_ids, self.draw(batch_ids))

    def draw(self, batch_ids: BatchIds) -> DrawnAugmentation | None:
        """Draw which streamlines of a batch are reversed and where they are split; None without augmentation.

        Draws are made for the whole batch, even if this process has only a share of it: several processes together
        give the same batch as one alone.

        Raises
        ------
        TypeError
            If `batch_ids` is not a BatchIds.
        """
        if not self.augment or (self.reverse_ratio == 0 and self.split_ratio == 0):
            return None
        key, nb_here = check_ids(batch_ids).key, sum(len(ids) for _, ids in batch_ids)
        total = nb_here if key.total is None else key.total
        drawn = DrawnAugmentation(
            reversed=augmentation.draw_reverse(total, self.reverse_ratio, self._generator(key, "reverse")),
            split_places=augmentation.draw_split(total, self.split_ratio, self._generator(key, "split")),
        )
        return drawn[key.first : key.first + nb_here]

    def fetch(self, batch_ids: BatchIds, drawn: DrawnAugmentation | None = None) -> tuple[TensorSequence, BatchSlices]:
        """Return the streamlines of a batch and their subjects.

        Parameters
        ----------
        batch_ids
            Batch of a sampler.
        drawn
            How to reverse and split the streamlines; None leaves them unchanged.

        Returns
        -------
        streamlines
            Points (total_points, 3), float32, voxel space, corner origin; on the CPU.
        ids_per_subj
            {subject index: slice of the streamlines}, with their ``data_per_streamline``.

        Raises
        ------
        TypeError
            If ``batch_ids`` is a plain list, which does not identify the batch, or an item is not a subject with ids,
            or a subject is not an integer.
        IndexError
            If a subject or one of its streamlines does not exist.
        ValueError
            If the batch belongs to another phase, a subject is in it twice, or `drawn` is for another number of
            streamlines. With lazy data, also if a coordinate is invalid or the file was replaced (see
            :meth:`~dwiml.data.streamlines.SubjectStreamlines.gather`).
        """
        check_ids(batch_ids)
        if batch_ids.key.phase != self.phase:
            raise ValueError(
                f"The fetcher of the {self.phase} set got a batch of the {batch_ids.key.phase} set: call the sampler's "
                f"set_position('{self.phase}', epoch) first."
            )
        self._check_subjects([subject for subject, _ in batch_ids])
        for subject, ids in batch_ids:
            self._check_exist(subject, np.asarray(ids))
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
        ids_per_subj = BatchSlices(slices, batch_ids.key, tensors, drawn, self.augment)
        return TensorSequence.from_numpy(points, lengths), ids_per_subj

    def _check_subjects(self, subjects: list[int]) -> None:
        for subject in subjects:
            check_subject(subject, len(self._subjects), self.phase)
        if len(set(subjects)) < len(subjects):
            raise ValueError(
                f"A subject must be in a batch once, with all its ids; got the subjects {shown(subjects)}."
            )

    def _check_exist(self, subject: int, ids: npt.NDArray[Any]) -> None:
        # With a negative id, a batch could have the same streamline twice.
        name, nb = self._subjects[subject][0], len(self._streamlines(subject))
        wrong = ids[(ids < 0) | (ids >= nb)]
        if len(wrong):
            raise IndexError(
                f"Streamline {shown(wrong[0])} of a batch does not exist: subject '{name}' of the {self.phase} set has "
                f"{counted(nb, 'streamline')}, numbered from 0."
            )

    def _generator(self, key: BatchKey, purpose: str) -> np.random.Generator:
        return keyed_generator(self.seed, key.epoch, key.batch_index, purpose)

    def _streamlines(self, subject: int) -> SubjectStreamlines:
        return self._subjects[subject][1]

    def _gather(self, batch_ids: BatchIds) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        parts = [self._streamlines(subject).gather(ids) for subject, ids in batch_ids]
        if not parts:
            # With fewer streamlines than processes, the share of a process may be empty.
            return np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64)
        return concatenated([points for points, _ in parts]), concatenated([lengths for _, lengths in parts])

    def _gather_data_per_streamline(self, batch_ids: BatchIds) -> dict[str, npt.NDArray[np.float32]]:
        return {
            key: concatenated([self._streamlines(s).gather_data_per_streamline(key, ids) for s, ids in batch_ids])
            if batch_ids
            else np.zeros((0, size), dtype=np.float32)
            for key, size in self._dps_sizes.items()
        }

    def _shared_dps_sizes(self) -> dict[str, int]:
        """Return {key: number of values per streamline}, for the keys that agree in all subjects."""
        # Subjects without streamlines have no data per streamline.
        sizes = [
            {key: streamlines.data_per_streamline_size(key) for key in streamlines.data_per_streamline}
            for _, streamlines in self._subjects
            if len(streamlines)
        ]
        if not sizes:
            return {}
        return {key: size for key, size in sizes[0].items() if all(other.get(key) == size for other in sizes)}

    def _voxel_sizes(self, batch_ids: BatchIds, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the voxel size of each streamline, shape (S, 3), in mm."""
        sizes = np.array([self._streamlines(subject).voxel_sizes for subject, _ in batch_ids], dtype=np.float32)
        return np.repeat(sizes.reshape(-1, 3), counts, axis=0)


def concatenated(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate arrays along their first axis; a single array is returned without a copy."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def identity_collate(batch: Any) -> Any:
    """Return a batch unchanged, as the ``collate_fn`` of a DataLoader; at module level so that it can be pickled."""
    return batch


def iterate_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of a loader, and report the failure of a worker clearly: see :class:`WorkerFailures`.

    Parameters
    ----------
    batches
        A torch ``DataLoader``, with or without workers.

    Raises
    ------
    RuntimeError, OSError
        If a worker died; :func:`dwiml.failures.resource_error` converts these to an error that advises the user.
    """
    iterator, failures = None, WorkerFailures(batches)
    try:
        while True:
            with failures.awaiting():
                # The first iter() starts the workers and installs torch's handler.
                iterator = iterator or iter(batches)
                failures.watch(iterator)
                batch = next(iterator, _END)
            if batch is _END:
                return
            yield batch
    finally:
        failures.close()


def on_device(
    batches: Iterable[tuple[TensorSequence, BatchSlices]], device: torch.device
) -> Iterator[tuple[TensorSequence, BatchSlices]]:
    """Yield batches on a device.

    Batches are copied to a GPU from page-locked memory, on a separate CUDA stream: the copy of a batch overlaps with
    the computation on the previous one. The host never waits for the GPU.

    Parameters
    ----------
    batches
        Streamlines and their slices, on the CPU, in pageable memory. Values, shapes and dtypes do not change.
    device
        Device of the model.

    Raises
    ------
    RuntimeError, OSError
        See :func:`iterate_batches`.
    """
    if device.type != "cuda":
        for streamlines, ids_per_subj in iterate_batches(batches):
            yield streamlines.to(device), ids_per_subj.to(device)
        return
    copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for streamlines, ids_per_subj in iterate_batches(batches):
        with torch.cuda.stream(copy_stream):
            streamlines = streamlines.pin_memory().to(device, non_blocking=True)
            ids_per_subj = ids_per_subj.pin_memory().to(device, non_blocking=True)
        compute_stream = torch.cuda.current_stream(device)
        compute_stream.wait_stream(copy_stream)
        for tensor in (streamlines.data, *ids_per_subj.data_per_streamline.values()):
            # The memory must not be reused before the computation that reads it has finished.
            tensor.record_stream(compute_stream)
        yield streamlines, ids_per_subj
