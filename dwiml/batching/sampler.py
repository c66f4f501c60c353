"""Which streamlines make each batch: ids only, no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from torch.utils.data import Sampler

from dwiml.arguments import check_number, check_whole
from dwiml.batching.compatibility import check_dataset
from dwiml.batching.plan import PlannedBatch, even_shares, plan_epoch
from dwiml.data.dataset import SUBSETS, MultiSubjectDataset
from dwiml.ops.randomness import BatchKey, check_seed, keyed_generator
from dwiml.params import Parameterized
from dwiml.seeding import choose_seed

if TYPE_CHECKING:
    import numpy.typing as npt

UNITS = ("nb_streamlines", "length_mm")

SubjectIds: TypeAlias = "tuple[int, npt.NDArray[np.int64]]"


class BatchIds(list["SubjectIds"]):
    """A batch's streamlines: a list of (subject index, ids within that subject), and which batch it is."""

    def __init__(self, items: list[SubjectIds], key: BatchKey) -> None:
        super().__init__(items)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchIds, (list(self), self.key))


class Epoch(NamedTuple):
    """A permutation of each subject's streamlines, and what each batch takes of them."""

    permutations: list[npt.NDArray[np.int64]]
    batches: list[PlannedBatch]


class DWIMLBatchIDSampler(Parameterized, Sampler["BatchIds"]):
    """Samples the ids of the streamlines of each batch; every streamline comes exactly once an epoch.

    An epoch is a permutation of each subject's streamlines and a plan of how many each batch takes from which
    subjects. Both are functions of (seed, epoch), so that any epoch can be started, or entered at any batch, without
    going through those before it.

    Parameters
    ----------
    dataset
        With its data loaded.
    streamline_group_name
        The group whose streamlines are sampled.
    batch_size_training
        Size of a training batch, in ``batch_size_units``.
    batch_size_validation
        Size of a validation batch; None: as in training.
    batch_size_units
        What the size of a batch counts: ``"nb_streamlines"``, or ``"length_mm"``, the sum of their lengths in mm. That
        sum is not exceeded, but a single streamline that is longer still comes, alone. Lengths are those of the file:
        splitting or resampling comes later.
    nb_subjects_per_batch
        Number of subjects that share a batch (fewer volumes at a time on the GPU); None for all. They are drawn in
        proportion to the streamlines that each has left, and share the batch in that proportion too.
    cycles
        Number of batches in a row that use the same subjects; needs ``nb_subjects_per_batch``. None is 1.
    seed
        Seed of the order of streamlines and of the choice of subjects. None: that of :func:`dwiml.seed_everything`
        where it was called, otherwise one that is drawn. It is recorded in :attr:`params`.

    Raises
    ------
    TypeError
        When ``dataset`` is not a dataset.
    ValueError
        For a size, unit, group or seed that cannot be used, and for data that are not loaded.
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
        seed: int | None = None,
    ) -> None:
        check_dataset(dataset, type(self).__name__)
        dataset.check_streamline_group(streamline_group_name)
        if batch_size_units not in UNITS:
            raise ValueError(f"batch_size_units must be one of {UNITS}, got '{batch_size_units}'.")
        nb_subjects_per_batch = _none_or_whole("nb_subjects_per_batch", nb_subjects_per_batch)
        cycles = _none_or_whole("cycles", cycles)
        if cycles is not None and nb_subjects_per_batch is None:
            raise ValueError("cycles needs nb_subjects_per_batch: with all subjects in each batch, none take turns.")
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
        chosen = choose_seed(seed)
        self.seed_was_given, self.seed_source = seed is not None, chosen.source
        self.set_seed(chosen.seed)
        self.phase = "training"
        self.epoch = 0
        self.first_batch = 0
        self.max_batches: int | None = None
        self.rank, self.nb_ranks = 0, 1

    def set_rank(self, rank: int, nb_ranks: int) -> None:
        """Give only one process' share of each batch, from now on.

        The batches are those of a single process, in the same number on each rank; each is cut into `nb_ranks` shares
        of about the same size, which together are the batch. A share is empty when a batch has fewer streamlines than
        there are ranks.

        Parameters
        ----------
        rank
            Which share, from 0.
        nb_ranks
            The number of processes that train together.
        """
        check_whole("nb_ranks", nb_ranks, low=1)
        if not 0 <= check_whole("rank", rank, low=0) < nb_ranks:
            raise ValueError(f"rank must be below the number of ranks, {nb_ranks}; got {rank}.")
        self.rank, self.nb_ranks = rank, nb_ranks

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded one of a run that is resumed."""
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)
        self._epochs: dict[str, tuple[tuple[int, int], Epoch]] = {}

    def set_position(self, phase: str, epoch: int, *, first_batch: int = 0, max_batches: int | None = None) -> None:
        """Choose what the next iteration gives.

        Parameters
        ----------
        phase
            ``"training"``, ``"validation"`` or ``"testing"``.
        epoch
            From 0.
        first_batch
            Skip the batches before this one.
        max_batches
            End the epoch after this number of batches, skipped ones included; None for all.
        """
        if phase not in SUBSETS:
            raise ValueError(f"phase must be one of {SUBSETS}, got '{phase}'.")
        self.phase, self.epoch = phase, check_whole("epoch", epoch, low=0)
        self.first_batch = check_whole("first_batch", first_batch, low=0)
        self.max_batches = None if max_batches is None else check_whole("max_batches", max_batches, low=0)

    def __len__(self) -> int:
        """Return the number of batches that the next iteration gives."""
        return len(self._planned().batches[self.first_batch : self.max_batches])

    def __iter__(self) -> Iterator[BatchIds]:
        # Not a generator itself: the position is that of now, not of when the first batch is asked for.
        which = slice(self.first_batch, self.max_batches)
        return self._batches(self._planned(), which, BatchKey(self.phase, self.epoch, 0), self.rank, self.nb_ranks)

    def _batches(self, epoch: Epoch, which: slice, first_key: BatchKey, rank: int, nb_ranks: int) -> Iterator[BatchIds]:
        for index, planned in enumerate(epoch.batches[which], start=which.start):
            batch = [(subject, epoch.permutations[subject][start:stop]) for subject, start, stop in planned]
            key = replace(first_key, batch_index=index)
            yield BatchIds(batch, key) if nb_ranks == 1 else self._share(batch, key, rank, nb_ranks)

    def _share(self, batch: list[SubjectIds], key: BatchKey, rank: int, nb_ranks: int) -> BatchIds:
        """Return this rank's part of a batch: neighbours in it, so that each rank needs few of the subjects."""
        total = sum(len(ids) for _, ids in batch)
        if self.batch_size_units == "length_mm":
            lengths = self._lengths_mm(key.phase)
            sizes = np.concatenate([lengths[subject][ids] for subject, ids in batch]).astype(np.float64)
        else:
            sizes = np.ones(total)
        start, stop = even_shares(sizes, nb_ranks)[rank : rank + 2]
        share, before = [], 0
        for subject, ids in batch:
            own = ids[max(start - before, 0) : max(stop - before, 0)]
            if len(own):
                share.append((subject, own))
            before += len(ids)
        return BatchIds(share, replace(key, first=start, total=total))

    def _planned(self) -> Epoch:
        """Return the epoch of the present position; of each phase the last one is kept."""
        key, phase = (self.dataset.nb_loads, self.epoch), self.phase
        if phase not in self._epochs or self._epochs[phase][0] != key:
            # Forgotten first: two epochs of a large dataset are not held at once.
            self._epochs.pop(phase, None)
            self._epochs[phase] = (key, self._plan(phase, self.epoch))
        return self._epochs[phase][1]

    def _plan(self, phase: str, epoch: int) -> Epoch:
        lengths = self._lengths_mm(phase)
        permutations = [
            keyed_generator(self.seed, phase, epoch, "streamlines", subject).permutation(len(mm))
            for subject, mm in enumerate(lengths)
        ]
        if self.batch_size_units == "length_mm":
            sizes = [mm[ids].astype(np.float64) for mm, ids in zip(lengths, permutations, strict=True)]
        else:
            sizes = [np.ones(len(mm)) for mm in lengths]
        batches = plan_epoch(
            sizes,
            self.batch_size[phase],
            nb_subjects_per_batch=self.nb_subjects_per_batch,
            cycles=self.cycles,
            rng=keyed_generator(self.seed, phase, epoch, "subjects"),
        )
        return Epoch(permutations, batches)

    def _lengths_mm(self, phase: str) -> list[npt.NDArray[np.float32]]:
        subset = self.dataset.subset(phase)
        if not subset.loaded:
            raise ValueError(f"The {phase} set is not loaded: call dataset.load_data() before training.")
        lengths = subset.streamline_lengths_mm
        if self.streamline_group_name not in lengths and len(subset) > 0:
            raise ValueError(
                f"Streamlines group '{self.streamline_group_name}' was not loaded; give it to dataset.load_data()."
            )
        return lengths.get(self.streamline_group_name, [])

    def _check_size(self, name: str, value: float) -> float:
        value = check_number(name, value, low=0, low_included=False)
        if self.batch_size_units == "nb_streamlines" and value != int(value):
            raise ValueError(f"{name} must be a whole number of streamlines, got {value}.")
        return value


def _none_or_whole(name: str, value: int | None) -> int | None:
    return None if value is None else check_whole(f"{name}, when given,", value, low=1)
