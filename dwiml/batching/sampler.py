"""Selection of the streamlines of each batch: ids only, no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from torch.utils.data import Sampler

from dwiml.arguments import check_number, check_whole, kind_shown, shown
from dwiml.batching.balancing import check_balance_key, draw_balanced, read_classes
from dwiml.batching.compatibility import check_dataset
from dwiml.batching.plan import PlannedBatch, even_shares, plan_epoch
from dwiml.data.dataset import MultiSubjectDataset, check_phase, not_loaded
from dwiml.ops.randomness import BatchKey, keyed_generator
from dwiml.seeding import Seeded

if TYPE_CHECKING:
    import numpy.typing as npt

UNITS = ("nb_streamlines", "length_mm")

SubjectIds: TypeAlias = "tuple[int, npt.NDArray[np.int64]]"


class BatchIds(list["SubjectIds"]):
    """The streamlines of a batch: a list of (subject index, ids).

    Attributes
    ----------
    key : BatchKey
        Identifies the batch.

    Notes
    -----
    The ids of a subject are an array (S,), int64: indices into its own streamlines, from 0.
    """

    def __init__(self, items: list[SubjectIds], key: BatchKey) -> None:
        super().__init__(items)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchIds, (list(self), self.key))


def check_ids(batch_ids: Any) -> BatchIds:
    """Check that an object is the BatchIds of a sampler, and return it.

    Raises
    ------
    TypeError
        If it is anything else, such as the plain list of a user's sampler, or an item is not a subject with ids.
    """
    if not isinstance(batch_ids, BatchIds):
        raise TypeError(
            f"A sampler must yield BatchIds, which identify the batch, got {kind_shown(batch_ids)}: "
            "BatchIds(list of (subject, ids), BatchKey(phase, epoch, batch_index))."
        )
    for item in batch_ids:
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not _are_ids(item[1]):
            raise TypeError(
                "An item of BatchIds must be (subject index, ids), with a one-dimensional array of the indices of its "
                f"streamlines, got {shown(item)}."
            )
    return batch_ids


def _are_ids(ids: Any) -> bool:
    # A boolean mask is not accepted: its length is not the number of streamlines in the batch.
    try:
        values = np.asarray(ids)
    except ValueError:
        # Lists of different lengths.
        return False
    return values.ndim == 1 and (len(values) == 0 or values.dtype.kind in "iu")


class Epoch(NamedTuple):
    """The order of the streamlines of each subject, and the ranges that each batch takes from it."""

    orders: list[npt.NDArray[np.int64]]
    batches: list[PlannedBatch]


class DWIMLBatchIDSampler(Seeded, Sampler["BatchIds"]):
    """Samples the ids of the streamlines of each batch; each is used once per epoch, unless `balance_by` is given.

    An epoch consists of a permutation of the streamlines of each subject (with `balance_by`, of a balanced draw of
    them), and of the number of streamlines that each batch takes from each subject. Both depend only on the seed and
    the epoch: any epoch can be started, at any batch, without iterating over the previous ones.

    Parameters
    ----------
    dataset
        Dataset with its data loaded.
    streamline_group_name
        Streamlines group from which batches are drawn.
    batch_size_training
        Size of a training batch, in ``batch_size_units``.
    batch_size_validation
        Size of a validation batch; None: as in training.
    batch_size_units
        Unit of the batch size: ``"nb_streamlines"``, or ``"length_mm"`` for the total length in mm. The size is a
        maximum; a single longer streamline forms a batch alone. Lengths are those in the file, before resampling or
        splitting.
    nb_subjects_per_batch
        Number of subjects that share a batch (fewer volumes at a time on the GPU); None for all. Both the choice of
        subjects and their shares of the batch are proportional to their remaining streamlines.
    cycles
        Number of consecutive batches that use the same subjects; needs ``nb_subjects_per_batch``. None means 1.
    balance_by
        Name of a data per streamline with one value per streamline, such as the ``bundle_id`` of ``dwiml curate``. In
        a training epoch, each of its values then has the same share of the streamlines of a subject: those with a rare
        value are used several times, and some of those with a frequent value are not used. The number of streamlines
        of an epoch stays the same. Validation and testing use each streamline once. None: no balancing.
    seed
        Seed of the order of streamlines and of the choice of subjects. None: the seed of
        :func:`dwiml.seed_everything` if it was called, otherwise a random seed. It is recorded in :attr:`params`.

    Raises
    ------
    TypeError
        If ``dataset`` is not a dataset.
    ValueError
        If a size, unit, group or seed is invalid, or a training subject does not have the data of ``balance_by``.
    """

    _not_params = frozenset({"dataset"})

    def __init__(
        self,
        dataset: MultiSubjectDataset,
        streamline_group_name: str,
        *,
        batch_size_training: float = 1000,
        batch_size_validation: float | None = None,
        batch_size_units: str = "nb_streamlines",
        nb_subjects_per_batch: int | None = None,
        cycles: int | None = None,
        balance_by: str | None = None,
        seed: int | None = None,
    ) -> None:
        check_dataset(dataset, type(self).__name__)
        dataset.check_streamline_group(streamline_group_name)
        if batch_size_units not in UNITS:
            raise ValueError(f"batch_size_units must be one of {UNITS}, got '{batch_size_units}'.")
        nb_subjects_per_batch = _none_or_whole("nb_subjects_per_batch", nb_subjects_per_batch)
        cycles = _none_or_whole("cycles", cycles)
        if cycles is not None and nb_subjects_per_batch is None:
            raise ValueError("cycles needs nb_subjects_per_batch: without it, each batch uses all subjects.")
        self.dataset = dataset
        self.streamline_group_name = streamline_group_name
        self.batch_size_units = batch_size_units
        self.batch_size = {
            "training": self._check_size("batch_size_training", batch_size_training),
            "validation": self._check_size(
                "batch_size_validation", batch_size_training if batch_size_validation is None else batch_size_validation
            ),
        }
        self.batch_size["testing"] = self.batch_size["validation"]
        self.nb_subjects_per_batch = nb_subjects_per_batch
        self.cycles = cycles or 1
        self.balance_by = self._checked_key(balance_by)
        self._use_seed(seed)
        self.phase = "training"
        self.epoch = 0
        self.first_batch = 0
        self.max_batches: int | None = None
        self.rank, self.nb_ranks = 0, 1

    def set_rank(self, rank: int, nb_ranks: int) -> None:
        """Yield only the share of one process in each batch, from now on.

        Each rank has the same number of batches as a single process. Each batch is divided into `nb_ranks` shares of
        about the same size. A share is empty if the batch has fewer streamlines than there are ranks.

        Parameters
        ----------
        rank
            Index of this process, from 0.
        nb_ranks
            Number of processes that train together.

        Raises
        ------
        ValueError
            If `rank` is not below `nb_ranks`, or one of them is not a valid whole number.
        """
        check_whole("nb_ranks", nb_ranks, low=1)
        if not 0 <= check_whole("rank", rank, low=0) < nb_ranks:
            raise ValueError(f"rank must be below the number of ranks, {nb_ranks}; got {rank}.")
        self.rank, self.nb_ranks = rank, nb_ranks

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on: see :meth:`dwiml.seeding.Seeded.set_seed`."""
        super().set_seed(seed)
        self._epochs: dict[str, tuple[tuple[int, int], Epoch]] = {}
        self._classes: tuple[int, list[npt.NDArray[np.int32]]] | None = None

    def set_position(self, phase: str, epoch: int, *, first_batch: int = 0, max_batches: int | None = None) -> None:
        """Choose the batches of the next iteration.

        Parameters
        ----------
        phase
            ``"training"``, ``"validation"`` or ``"testing"``.
        epoch
            Index of the epoch, from 0.
        first_batch
            Index of the first batch; those before it are skipped.
        max_batches
            Index at which the epoch ends (the count includes skipped batches); None for all batches.

        Raises
        ------
        ValueError
            If the phase does not exist, or a number is negative or not whole.
        """
        self.phase, self.epoch = check_phase(phase), check_whole("epoch", epoch, low=0)
        self.first_batch = check_whole("first_batch", first_batch, low=0)
        self.max_batches = None if max_batches is None else check_whole("max_batches", max_batches, low=0)

    def nb_batches(self, phase: str, epoch: int, *, max_batches: int | None = None) -> int:
        """Return the number of batches of an epoch; the position of the sampler stays as it is.

        Parameters
        ----------
        phase, epoch, max_batches
            As in :meth:`set_position`.
        """
        return len(self._planned(check_phase(phase), epoch).batches[:max_batches])

    def whole_batch(self, phase: str, epoch: int, index: int) -> BatchIds:
        """Return one batch, with the shares of all ranks; the position and the rank of the sampler stay as they are.

        Parameters
        ----------
        phase, epoch
            As in :meth:`set_position`.
        index
            Index of the batch, from 0.
        """
        planned, selected = self._planned(check_phase(phase), epoch), slice(index, index + 1)
        return next(self._batches(planned, selected, BatchKey(phase, epoch, 0), rank=0, nb_ranks=1))

    def __len__(self) -> int:
        """Return the number of batches in the next iteration."""
        return len(self._planned(self.phase, self.epoch).batches[self.first_batch : self.max_batches])

    def __iter__(self) -> Iterator[BatchIds]:
        # Not a generator itself: it must use the position at this call, not at the first next().
        selected = slice(self.first_batch, self.max_batches)
        planned, first_key = self._planned(self.phase, self.epoch), BatchKey(self.phase, self.epoch, 0)
        return self._batches(planned, selected, first_key, self.rank, self.nb_ranks)

    def _batches(
        self, epoch: Epoch, selected: slice, first_key: BatchKey, rank: int, nb_ranks: int
    ) -> Iterator[BatchIds]:
        for index, planned in enumerate(epoch.batches[selected], start=selected.start):
            batch = [(subject, epoch.orders[subject][start:stop]) for subject, start, stop in planned]
            key = replace(first_key, batch_index=index)
            yield BatchIds(batch, key) if nb_ranks == 1 else self._share(batch, key, rank, nb_ranks)

    def _share(self, batch: list[SubjectIds], key: BatchKey, rank: int, nb_ranks: int) -> BatchIds:
        """Return the share of a rank: contiguous in the batch, so that each rank needs few subjects."""
        total = sum(len(ids) for _, ids in batch)
        if self.batch_size_units == "length_mm":
            lengths = self._lengths_mm(key.phase)
            sizes = np.concatenate([lengths[subject][ids] for subject, ids in batch]).astype(np.float64)
        else:
            sizes = np.ones(total)
        start, stop = even_shares(sizes, nb_ranks)[rank : rank + 2]
        share, before = [], 0
        for subject, ids in batch:
            kept = ids[max(start - before, 0) : max(stop - before, 0)]
            if len(kept):
                share.append((subject, kept))
            before += len(ids)
        return BatchIds(share, replace(key, first=start, total=total))

    def _planned(self, phase: str, epoch: int) -> Epoch:
        """Return the batches of an epoch; the last epoch of each phase is cached."""
        key = (self.dataset.nb_loads, epoch)
        if phase not in self._epochs or self._epochs[phase][0] != key:
            # Removed first: memory must not hold two epochs of a large dataset.
            self._epochs.pop(phase, None)
            self._epochs[phase] = (key, self._plan(phase, epoch))
        return self._epochs[phase][1]

    def _plan(self, phase: str, epoch: int) -> Epoch:
        lengths = self._lengths_mm(phase)
        rngs = [keyed_generator(self.seed, phase, epoch, "streamlines", subject) for subject in range(len(lengths))]
        if self.balance_by is None or phase != "training":
            orders = [rng.permutation(len(mm)) for rng, mm in zip(rngs, lengths, strict=True)]
        else:
            classes = self._training_classes(self.balance_by)
            orders = [draw_balanced(of_subject, rng) for rng, of_subject in zip(rngs, classes, strict=True)]
        if self.batch_size_units == "length_mm":
            sizes = [mm[ids].astype(np.float64) for mm, ids in zip(lengths, orders, strict=True)]
        else:
            sizes = [np.ones(len(mm)) for mm in lengths]
        batches = plan_epoch(
            sizes,
            self.batch_size[phase],
            nb_subjects_per_batch=self.nb_subjects_per_batch,
            cycles=self.cycles,
            rng=keyed_generator(self.seed, phase, epoch, "subjects"),
        )
        return Epoch(orders, batches)

    def _training_classes(self, key: str) -> list[npt.NDArray[np.int32]]:
        """Return the class of each streamline of each training subject; read once per load of the data."""
        if self._classes is None or self._classes[0] != self.dataset.nb_loads:
            subset = self.dataset.training_set
            check_balance_key(subset, self.streamline_group_name, key)
            found = [read_classes(subject.streamlines[self.streamline_group_name], key) for subject in subset]
            self._classes = (self.dataset.nb_loads, found)
        return self._classes[1]

    def _checked_key(self, balance_by: str | None) -> str | None:
        if balance_by is None:
            return None
        if not isinstance(balance_by, str) or not balance_by:
            raise ValueError(f"balance_by must be the name of a data_per_streamline, or None, got {shown(balance_by)}.")
        # Data that are not loaded yet are checked when an epoch is planned.
        subset = self.dataset.training_set
        if all(self.streamline_group_name in subject.streamlines for subject in subset):
            check_balance_key(subset, self.streamline_group_name, balance_by)
        return balance_by

    def _lengths_mm(self, phase: str) -> list[npt.NDArray[np.float32]]:
        subset = self.dataset.subset(phase)
        if not subset.loaded:
            raise ValueError(f"The {phase} set is not loaded: call dataset.load_data() first.")
        lengths = subset.streamline_lengths_mm
        if self.streamline_group_name not in lengths and len(subset) > 0:
            raise not_loaded(f"Streamlines group '{self.streamline_group_name}'")
        return lengths.get(self.streamline_group_name, [])

    def _check_size(self, name: str, value: float) -> float:
        value = check_number(name, value, low=0, low_included=False)
        if self.batch_size_units == "nb_streamlines" and value != int(value):
            raise ValueError(f"{name} must be a whole number of streamlines, got {value}.")
        return value


def _none_or_whole(name: str, value: int | None) -> int | None:
    return None if value is None else check_whole(f"{name}, when given,", value, low=1)
