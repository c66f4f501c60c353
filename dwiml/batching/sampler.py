"""Which streamlines make each batch: ids only, no data."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch.utils.data import Sampler

from dwiml.arguments import check_number, check_whole
from dwiml.batching.plan import PlannedBatch, plan_epoch
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.randomness import BatchKey, check_seed, draw_seed, keyed_generator
from dwiml.params import Parameterized

if TYPE_CHECKING:
    import numpy.typing as npt

UNITS = ("nb_streamlines", "length_mm")
PHASES = ("training", "validation", "testing")

SubjectIds: TypeAlias = "tuple[int, npt.NDArray[np.int64]]"


class BatchIds(list["SubjectIds"]):
    """A batch's streamlines: a list of (subject index, ids within that subject), and which batch it is."""

    def __init__(self, items: list[SubjectIds], key: BatchKey) -> None:
        super().__init__(items)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchIds, (list(self), self.key))


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
    batch_size_training, batch_size_validation
        How much a batch holds, in ``batch_size_units``; validation as training when None.
    batch_size_units
        ``"nb_streamlines"``: a number of streamlines. ``"length_mm"``: their lengths added up, in mm, not exceeded,
        but a single streamline that is longer still comes, alone. Lengths are those of the file: splitting or
        resampling comes later.
    nb_subjects_per_batch
        How many subjects share a batch (fewer volumes at a time on the GPU); None for all. They are drawn in
        proportion to the streamlines that each has left, and share the batch in that proportion too.
    cycles
        How many batches in a row use the same subjects before others are drawn; needs ``nb_subjects_per_batch``.
        None is 1.
    seed
        None to draw one, which is recorded in :attr:`params`.

    Raises
    ------
    TypeError
        When ``dataset`` is no dataset.
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
            raise ValueError("cycles needs nb_subjects_per_batch: with all subjects in each batch there is no turn.")
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
        self.seed_was_given = seed is not None
        self.set_seed(draw_seed() if seed is None else seed)
        self.phase = "training"
        self.epoch = 0
        self.first_batch = 0
        self.max_batches: int | None = None

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded one of a run that is resumed."""
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)
        self._plans: dict[tuple[int, str, int], list[PlannedBatch]] = {}

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
            End the epoch after so many batches, those that were skipped included; None for all.
        """
        if phase not in PHASES:
            raise ValueError(f"phase must be one of {PHASES}, got '{phase}'.")
        self.phase, self.epoch = phase, epoch
        self.first_batch, self.max_batches = first_batch, max_batches

    def __len__(self) -> int:
        """Return the number of batches that the next iteration gives."""
        return len(self._plan()[self.first_batch : self.max_batches])

    def __iter__(self) -> Iterator[BatchIds]:
        phase, epoch, first_batch = self.phase, self.epoch, self.first_batch
        plan = self._plan()[first_batch : self.max_batches]
        permutations = self._permutations(phase, epoch)
        for index, batch in enumerate(plan, start=first_batch):
            items = [(subject, permutations[subject][start:stop]) for subject, start, stop in batch]
            yield BatchIds(items, BatchKey(phase, epoch, index))

    def _plan(self) -> list[PlannedBatch]:
        nb_loads, where = self.dataset.nb_loads, (self.phase, self.epoch)
        key = (nb_loads, *where)
        if key not in self._plans:
            lengths = self._lengths_mm(self.phase)
            if self.batch_size_units == "length_mm":
                permutations = self._permutations(*where)
                sizes = [mm[ids].astype(np.float64) for mm, ids in zip(lengths, permutations, strict=True)]
            else:
                sizes = [np.ones(len(mm)) for mm in lengths]
            # Only the epoch in use is kept, and nothing of data that were loaded before.
            self._plans = {
                old: plan for old, plan in self._plans.items() if old[0] == nb_loads and old[1] != self.phase
            }
            self._plans[key] = plan_epoch(
                sizes,
                self.batch_size[self.phase],
                nb_subjects_per_batch=self.nb_subjects_per_batch,
                cycles=self.cycles,
                rng=keyed_generator(self.seed, *where, "subjects"),
            )
        return self._plans[key]

    def _permutations(self, phase: str, epoch: int) -> list[npt.NDArray[np.int64]]:
        return [
            keyed_generator(self.seed, phase, epoch, "streamlines", subject).permutation(len(mm))
            for subject, mm in enumerate(self._lengths_mm(phase))
        ]

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


def check_dataset(dataset: Any, asked_by: str) -> None:
    """Raise a TypeError when something else is given as the dataset, such as the file's path."""
    if isinstance(dataset, type) or not hasattr(dataset, "check_streamline_group"):
        got = repr(dataset) if isinstance(dataset, (str, PathLike)) else described(dataset)
        raise TypeError(
            f"{asked_by} needs a MultiSubjectDataset with its data loaded, got {got}: "
            "make one with MultiSubjectDataset(hdf5_file) and call its load_data()."
        )


def described(value: Any) -> str:
    """Return what a sentence says of an object that is of the wrong kind."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


def _none_or_whole(name: str, value: int | None) -> int | None:
    return None if value is None else check_whole(f"{name}, when given,", value, low=1)
