"""What a model receives of a batch: streamlines as it wants them, and the volume under their points."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dwiml.arguments import check_number
from dwiml.batching.fetcher import BatchSlices, StreamlineFetcher, check_slices
from dwiml.batching.grids import check_grids
from dwiml.batching.lengths import check_steps, resampling_of
from dwiml.batching.model_batch import ModelBatch
from dwiml.batching.sampler import PHASES, BatchIds, DWIMLBatchIDSampler, check_dataset, described
from dwiml.batching.workers import end_workers_at_exit, leave_signals_to_main
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.augmentation import DrawnAugmentation, draw_correlated_noise, draw_noise
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.randomness import BatchKey, check_seed, keyed_generator
from dwiml.ops.sequences import TensorSequence
from dwiml.params import Parameterized
from dwiml.seeding import choose_seed

# In voxels: noise beyond the size of a brain leaves nothing to learn.
_LARGEST_NOISE = 100.0
VOLUME_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DWIMLStreamlinesBatchLoader(Parameterized):
    """Loads batches of streamlines.

    :meth:`load_batch_streamlines` runs in the loader's workers, on the CPU; the noise is added by the trainer, on the
    model's device. Reversing, splitting and noise are for training only: validation sees streamlines as they are,
    resampled.

    Parameters
    ----------
    dataset
        With its data loaded.
    model
        Its ``step_size``, ``nb_points`` or ``compress_lines`` say how streamlines are resampled.
    streamline_group_name
        The group to read.
    split_ratio
        Share of the streamlines that are cut in two, each half a streamline of its own; one too short stays whole.
    reverse_ratio
        Share of the streamlines whose points are put in the opposite order.
    noise_gaussian_size_forward
        Standard deviation, in voxels, of the noise on the coordinates that the model sees: those under which the
        volume is interpolated and from which previous directions are computed. Truncated at twice that size.
    noise_gaussian_size_loss
        The same for the streamlines that the loss compares with.
    noise_correlated_size
        How far, in voxels, the streamlines that the model sees wander off the true ones, smoothly, as those of a model
        that tracks do: a standard deviation, for each streamline between 0 and twice that. The model learns the way
        back, so that it can correct its own errors. For models with a direction getter.
    noise_correlated_nb_points
        After how many points the wandering has mostly changed (:func:`dwiml.ops.augmentation.draw_correlated_noise`).
    nb_recovery_steps
        In how many steps the model has to be back (:func:`dwiml.ops.directions.recovery_steps`), at least 1.
    seed
        None: that of :func:`dwiml.seed_everything` where it was called, otherwise one that is drawn. It is recorded in
        :attr:`params`.

    Raises
    ------
    TypeError
        When ``dataset`` is no dataset, or ``model`` no model: its class, for instance.
    ValueError
        For a ratio outside 0 to 1, a negative noise, a group that does not exist or was not loaded, or a ``step_size``
        of the model that makes more than 100 000 points of a streamline.
    """

    _not_params = frozenset({"dataset", "model"})

    def __init__(
        self,
        dataset: MultiSubjectDataset,
        model: Any,
        streamline_group_name: str,
        *,
        split_ratio: float = 0.0,
        reverse_ratio: float = 0.0,
        noise_gaussian_size_forward: float = 0.0,
        noise_gaussian_size_loss: float = 0.0,
        noise_correlated_size: float = 0.0,
        noise_correlated_nb_points: float = 6.0,
        nb_recovery_steps: float = 3.0,
        seed: int | None = None,
    ) -> None:
        check_dataset(dataset, type(self).__name__)
        _check_model(model, type(self).__name__)
        dataset.check_streamline_group(streamline_group_name)
        self.dataset = dataset
        self.model = model
        self.streamline_group_name = streamline_group_name
        self._check_loaded()
        check_steps(dataset, streamline_group_name, resampling_of(model))
        self.split_ratio = check_number("split_ratio", split_ratio, low=0, high=1)
        self.reverse_ratio = check_number("reverse_ratio", reverse_ratio, low=0, high=1)
        self.noise_gaussian_size_forward = check_number(
            "noise_gaussian_size_forward", noise_gaussian_size_forward, low=0, high=_LARGEST_NOISE
        )
        self.noise_gaussian_size_loss = check_number(
            "noise_gaussian_size_loss", noise_gaussian_size_loss, low=0, high=_LARGEST_NOISE
        )
        self.noise_correlated_size = check_number(
            "noise_correlated_size", noise_correlated_size, low=0, high=_LARGEST_NOISE
        )
        self.noise_correlated_nb_points = check_number(
            "noise_correlated_nb_points", noise_correlated_nb_points, low=0, high=1e6, low_included=False
        )
        self.nb_recovery_steps = check_number("nb_recovery_steps", nb_recovery_steps, low=1, high=1e6)
        if self.noise_correlated_size:
            _check_learns_recovery(model)
        chosen = choose_seed(seed)
        self.seed_was_given, self.seed_source = seed is not None, chosen.source
        self.set_seed(chosen.seed)

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded one of a run that is resumed."""
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)

    def _check_loaded(self) -> None:
        for subset in map(self.dataset.subset, PHASES):
            if any(self.streamline_group_name not in subject.streamlines for subject in subset):
                raise ValueError(
                    f"Streamlines group '{self.streamline_group_name}' was not loaded; give it to dataset.load_data()."
                )

    def fetcher(self, phase: str, *, augment: bool | None = None) -> StreamlineFetcher:
        """Return what a ``torch.utils.data.DataLoader`` takes as its dataset: batch ids in, batches out.

        Parameters
        ----------
        phase
            Whose streamlines.
        augment
            Whether to reverse and split, and to add noise to what the model is given; None: in training only.
        """
        return StreamlineFetcher(
            self.dataset.subset(phase),
            self.streamline_group_name,
            resampling=resampling_of(self.model),
            augment=phase == "training" if augment is None else augment,
            reverse_ratio=self.reverse_ratio,
            split_ratio=self.split_ratio,
            seed=self.seed,
        )

    def data_loader(
        self,
        phase: str,
        sampler: DWIMLBatchIDSampler,
        *,
        nb_cpu_processes: int = 0,
        start_method: str | None = None,
    ) -> DataLoader[Any]:
        """Return torch's loader of a phase's batches; what it gives is the same for any number of processes.

        Parameters
        ----------
        phase
            ``"training"`` or ``"validation"``.
        sampler
            Positioned before each iteration (``sampler.set_position``).
        nb_cpu_processes
            Workers, kept from one iteration to the next; 0 to load in this process.
        start_method
            ``"fork"``, ``"spawn"`` or ``"forkserver"``: how workers are started; None: as Python does by itself. All
            but ``"fork"`` give each worker a copy of eager data; lazy data are mapped by all.
        """
        if nb_cpu_processes > 0:
            end_workers_at_exit()
        return DataLoader(
            self.fetcher(phase),
            sampler=sampler,
            batch_size=None,
            num_workers=nb_cpu_processes,
            collate_fn=_as_it_is,
            persistent_workers=nb_cpu_processes > 0,
            worker_init_fn=leave_signals_to_main if nb_cpu_processes > 0 else None,
            multiprocessing_context=start_method if nb_cpu_processes > 0 else None,
            # Its own generator: torch's global one belongs to the model (dropout).
            generator=torch.Generator(),
        )

    def load_batch_streamlines(
        self, batch_ids: BatchIds, drawn: DrawnAugmentation | None = None
    ) -> tuple[TensorSequence, BatchSlices]:
        """Return a batch's streamlines and, for each subject, which of them are its own.

        Parameters
        ----------
        batch_ids
            From the sampler.
        drawn
            How to reverse and split, for instance ``ids_per_subj.drawn`` of another time; None: drawn from the batch's
            key in training, and nothing otherwise.

        Returns
        -------
        streamlines
            Points (total_points, 3), float32, voxel space, corner origin.
        ids_per_subj
            For each subject index, a slice of the streamlines; with their ``data_per_streamline``.
        """
        fetcher = self.fetcher(batch_ids.key.phase)
        return fetcher[batch_ids] if drawn is None else fetcher.fetch(batch_ids, drawn)

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return what the model is given of a batch, and what its loss compares.

        Parameters
        ----------
        targets
            The batch's streamlines, on the model's device: points (total_points, 3), voxel space, corner origin.
        ids_per_subj
            As returned with the streamlines.
        """
        streamlines = targets if self.model.forward_uses_last_point else targets.trimmed_last()
        streamlines = self.add_noise_forward(streamlines, ids_per_subj)
        return ModelBatch(
            targets=self.add_noise_loss(targets, ids_per_subj),
            streamlines=streamlines,
            ids_per_subj=ids_per_subj,
            recovery_target=self.recovery_target(streamlines, ids_per_subj),
        )

    def add_noise_forward(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the streamlines that the model sees in training: wandering and with noise, where it was asked for."""
        noisy = self._add_noise(streamlines, ids_per_subj, self.noise_gaussian_size_forward, "noise_forward")
        if not ids_per_subj.augment or self.noise_correlated_size == 0:
            return noisy
        rng = self._generator(ids_per_subj.key, "wander")
        wander = torch.from_numpy(
            draw_correlated_noise(streamlines.lengths.numpy(), self.noise_correlated_nb_points, rng)
        )
        return noisy.mapped(noisy.data + self.noise_correlated_size * wander.to(noisy.device, non_blocking=True))

    def recovery_target(self, seen: TensorSequence, ids_per_subj: BatchSlices) -> dict[str, Any]:
        """Return what ``compute_loss`` has to know of the streamlines that the model saw, where they wandered off."""
        if not check_slices(ids_per_subj).augment or self.noise_correlated_size == 0:
            return {}
        return {"seen": seen, "nb_recovery_steps": self.nb_recovery_steps}

    def add_noise_loss(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the streamlines that the loss compares with in training: with noise, where it was asked for."""
        return self._add_noise(streamlines, ids_per_subj, self.noise_gaussian_size_loss, "noise_loss")

    def _add_noise(
        self, streamlines: TensorSequence, ids_per_subj: BatchSlices, size: float, purpose: str
    ) -> TensorSequence:
        if not check_slices(ids_per_subj).augment or size == 0:
            return streamlines
        noise = torch.from_numpy(draw_noise(streamlines.total_points, self._generator(ids_per_subj.key, purpose)))
        return streamlines.mapped(streamlines.data + size * noise.to(streamlines.device, non_blocking=True))

    def _generator(self, key: BatchKey, purpose: str) -> np.random.Generator:
        # Each share of a batch has its own noise.
        return keyed_generator(self.seed, key.epoch, key.batch_index, purpose, key.first)


class DWIMLBatchLoaderOneInput(DWIMLStreamlinesBatchLoader):
    """Loads batches of streamlines and, under each of their points, the features of one volume group.

    Parameters
    ----------
    dataset, model, streamline_group_name, **kwargs
        As in :class:`DWIMLStreamlinesBatchLoader`; the model is a child of ``ModelWithOneInput``.
    input_group_name
        The volume group.
    volume_dtype
        ``"float32"``, or ``"float16"`` or ``"bfloat16"`` to keep the volumes so on the model's device: twice as many
        fit. Interpolation still computes in float32. Values keep about 3 digits (bfloat16: 2); beyond 65504 float16
        has none.

    Raises
    ------
    ValueError
        When the group does not exist, has not the number of features that the model expects, or lies on another grid
        than the streamlines.
    """

    def __init__(
        self,
        dataset: MultiSubjectDataset,
        model: Any,
        input_group_name: str,
        streamline_group_name: str,
        *,
        volume_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, model, streamline_group_name, **kwargs)
        dataset.check_volume_group(input_group_name)
        if volume_dtype not in VOLUME_DTYPES:
            raise ValueError(f"volume_dtype must be one of {', '.join(VOLUME_DTYPES)}, got {volume_dtype!r}.")
        self.input_group_name = input_group_name
        self.volume_dtype = volume_dtype
        expected, found = getattr(model, "nb_features", None), dataset.nb_features[input_group_name]
        if expected is None:
            raise ValueError(
                f"{type(model).__name__} takes no volume as input: make it a child of ModelWithOneInput, or use "
                "DWIMLStreamlinesBatchLoader with DWIMLTrainer."
            )
        if expected != found:
            raise ValueError(
                f"The model expects nb_features={expected}, but volume group '{input_group_name}' has {found} features."
            )
        check_grids(dataset, input_group_name, streamline_group_name)
        self._volumes: OrderedDict[tuple[int, str, int, torch.device], torch.Tensor] = OrderedDict()

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return what the model is given of a batch, the volume under its points included: see the superclass."""
        batch = super().model_batch(targets, ids_per_subj)
        return replace(batch, inputs=self.load_batch_inputs(batch.streamlines, ids_per_subj))

    def load_batch_inputs(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Interpolate the volume under each point of a batch, on the points' device.

        Parameters
        ----------
        streamlines
            Points (total_points, 3), voxel space, corner origin.
        ids_per_subj
            As returned with the streamlines.

        Returns
        -------
        TensorSequence
            Features (total_points, P * F): those of the point's own place first, then those of each neighbour, P being
            the number of points of the model's neighborhood (1 without one).
        """
        phase = check_slices(ids_per_subj).key.phase
        parts = [
            self.inputs_under(streamlines[own].data, phase, subject, at_least=len(ids_per_subj))
            for subject, own in ids_per_subj.items()
        ]
        if not parts:
            offsets = getattr(self.model, "neighborhood_offsets", None)
            nb_columns = self.dataset.nb_features[self.input_group_name] * (1 if offsets is None else len(offsets))
            return streamlines.mapped(streamlines.data.new_empty((0, nb_columns)))
        return streamlines.mapped(parts[0] if len(parts) == 1 else torch.cat(parts))

    def inputs_under(self, points: torch.Tensor, phase: str, subject: int, *, at_least: int = 1) -> torch.Tensor:
        """Interpolate the volume of one subject under points, on the points' device.

        Parameters
        ----------
        points
            Shape (N, 3), voxel space, corner origin.
        phase, subject
            Whose volume: the subset's name, and the subject's number in it.
        at_least
            How many subjects' volumes are kept on the device, if the dataset's ``cache_size`` is lower.

        Returns
        -------
        Tensor
            Shape (N, P * F), as in :meth:`load_batch_inputs`.
        """
        offsets = getattr(self.model, "neighborhood_offsets", None)
        if offsets is not None:
            offsets = offsets.to(points.device)
        volume = self._volume(phase, subject, points.device, at_least=at_least)
        return interpolate_at(volume, points, offsets=offsets)

    def _volume(self, phase: str, subject: int, device: torch.device, *, at_least: int) -> torch.Tensor:
        """Return a subject's volume on the device; those used last are kept, at least the subjects of one batch."""
        where = (self.dataset.nb_loads, phase, subject, device)
        volume = self.dataset.subset(phase)[subject].volumes[self.input_group_name]
        # What is kept may be a view of the map: what stands in the file by now.
        volume.check_file()
        if where not in self._volumes:
            for old in [old for old in self._volumes if old[0] != self.dataset.nb_loads]:
                del self._volumes[old]
            while len(self._volumes) >= max(self.dataset.cache_size, at_least):
                self._volumes.popitem(last=False)
            self._volumes[where] = self._in_volume_dtype(volume.as_tensor(), phase, subject).to(device)
        self._volumes.move_to_end(where)
        return self._volumes[where]

    def _in_volume_dtype(self, volume: torch.Tensor, phase: str, subject: int) -> torch.Tensor:
        dtype = VOLUME_DTYPES[self.volume_dtype]
        if dtype != torch.float32 and float(volume.abs().max()) > torch.finfo(dtype).max:
            raise ValueError(
                f"Subject '{self.dataset.subset(phase)[subject].subject_id}': volume group '{self.input_group_name}' "
                f"has values up to {float(volume.abs().max()):.4g}, which {self.volume_dtype} cannot hold; "
                "standardize it, or use another volume_dtype."
            )
        return volume.to(dtype)


def _check_model(model: Any, asked_by: str) -> None:
    if isinstance(model, type) or not hasattr(model, "step_size"):
        raise TypeError(
            f"{asked_by} needs a model, an instance of a child of MainModelAbstract, got {described(model)}."
        )


def _check_learns_recovery(model: Any) -> None:
    loss = getattr(model, "compute_loss", None)
    if loss is None or "seen" not in inspect.signature(loss).parameters:
        raise ValueError(
            "noise_correlated_size needs a model that learns to recover, and compute_loss of "
            f"{type(model).__name__} has no parameter 'seen': make it a subclass of ModelWithDirectionGetter, or leave "
            "noise_correlated_size at 0."
        )


def _as_it_is(batch: Any) -> Any:
    """Keep torch from taking a batch apart (a function of the module, so that workers can be spawned)."""
    return batch
