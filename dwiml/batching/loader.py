"""Batch loaders: their CPU half makes a batch's streamlines, their device half what a model is given of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from dwiml.arguments import check_number
from dwiml.batching.compatibility import (
    check_dataset,
    check_learns_recovery,
    check_model,
    check_streamlines,
    check_volumes,
)
from dwiml.batching.fetcher import BatchSlices, StreamlineFetcher, check_ids, whole_batch
from dwiml.batching.lengths import check_steps, resampling_of
from dwiml.batching.model_batch import BatchPreparer, ModelBatch, VolumesOnDevice
from dwiml.batching.sampler import BatchIds, DWIMLBatchIDSampler
from dwiml.batching.workers import end_workers_at_exit, leave_signals_to_main
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.augmentation import DrawnAugmentation
from dwiml.ops.randomness import check_seed
from dwiml.ops.sequences import TensorSequence
from dwiml.params import Parameterized
from dwiml.seeding import choose_seed

if TYPE_CHECKING:
    from dwiml.models.protocols import LoaderModel, OneInputModel

# In voxels: noise beyond the size of a brain leaves nothing to learn.
_LARGEST_NOISE = 100.0


class DWIMLStreamlinesBatchLoader(Parameterized):
    """Loads batches of streamlines.

    The CPU half (:meth:`fetcher`) reads, resamples, reverses and splits streamlines; it runs in the loader's workers.
    The device half (:meth:`preparer`) adds the noise, on the model's device. Reversing, splitting and noise are for
    training only: validation sees streamlines as they are, resampled.

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
        Standard deviation, in voxels, of the noise on the points that the model sees. The volume is interpolated and
        previous directions are computed at these points. Truncated at twice that size.
    noise_gaussian_size_loss
        Standard deviation, in voxels, of the noise on the points that the loss compares with. Truncated likewise.
    noise_correlated_size
        Size, in voxels, of smooth noise (Ornstein-Uhlenbeck) on the streamlines that the model sees, which drift off
        the true ones as a tracking model does. The standard deviation of each streamline is drawn between 0 and twice
        this size. The model learns to return, so that it can correct its own errors. For models with a direction
        getter.
    noise_correlated_nb_points
        Number of points after which the correlated noise has mostly changed
        (:func:`dwiml.ops.augmentation.draw_correlated_noise`).
    nb_recovery_steps
        Number of steps in which the model has to return to the true streamline, at least 1
        (:func:`dwiml.ops.directions.recovery_steps`).
    seed
        Seed of all that is drawn. None: that of :func:`dwiml.seed_everything` where it was called, otherwise one that
        is drawn. It is recorded in :attr:`params`.

    Raises
    ------
    TypeError
        When ``dataset`` is not a dataset, or ``model`` not a model: its class, for instance.
    ValueError
        For a ratio outside 0 to 1, a negative noise, a group that does not exist or was not loaded, or a ``step_size``
        of the model that makes more than 100 000 points of a streamline.
    """

    _not_params = frozenset({"dataset", "model"})

    def __init__(
        self,
        dataset: MultiSubjectDataset,
        model: LoaderModel,
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
        check_model(model, type(self).__name__)
        check_streamlines(dataset, streamline_group_name)
        self.dataset = dataset
        self.model = model
        self.streamline_group_name = streamline_group_name
        check_steps(dataset, streamline_group_name, resampling_of(model))
        self.split_ratio = check_number("split_ratio", split_ratio, low=0, high=1)
        self.reverse_ratio = check_number("reverse_ratio", reverse_ratio, low=0, high=1)
        self.noise_gaussian_size_forward = _check_noise("noise_gaussian_size_forward", noise_gaussian_size_forward)
        self.noise_gaussian_size_loss = _check_noise("noise_gaussian_size_loss", noise_gaussian_size_loss)
        self.noise_correlated_size = _check_noise("noise_correlated_size", noise_correlated_size)
        self.noise_correlated_nb_points = check_number(
            "noise_correlated_nb_points", noise_correlated_nb_points, low=0, high=1e6, low_included=False
        )
        self.nb_recovery_steps = check_number("nb_recovery_steps", nb_recovery_steps, low=1, high=1e6)
        if self.noise_correlated_size:
            check_learns_recovery(model)
        chosen = choose_seed(seed)
        self.seed_was_given, self.seed_source = seed is not None, chosen.source
        self.set_seed(chosen.seed)

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded one of a run that is resumed."""
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)

    def fetcher(self, phase: str, *, augment: bool | None = None) -> StreamlineFetcher:
        """Return the loader's CPU half, a dataset for torch's ``DataLoader``: batch ids in, batches out.

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

    def preparer(self) -> BatchPreparer:
        """Return the loader's device half: what :meth:`model_batch` uses."""
        return BatchPreparer(
            self.model,
            load_batch_inputs=None,
            noise_gaussian_size_forward=self.noise_gaussian_size_forward,
            noise_gaussian_size_loss=self.noise_gaussian_size_loss,
            noise_correlated_size=self.noise_correlated_size,
            noise_correlated_nb_points=self.noise_correlated_nb_points,
            nb_recovery_steps=self.nb_recovery_steps,
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
            collate_fn=whole_batch,
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
        fetcher = self.fetcher(check_ids(batch_ids).key.phase)
        return fetcher[batch_ids] if drawn is None else fetcher.fetch(batch_ids, drawn)

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return what the model is given of a batch, and what its loss compares.

        Parameters
        ----------
        targets
            The batch's streamlines, on the model's device: points (total_points, 3), voxel space, corner origin.
        ids_per_subj
            As returned with the streamlines.

        Raises
        ------
        TypeError
            When ``ids_per_subj`` is a plain dict, which does not say which batch it is.
        """
        return self.preparer().model_batch(targets, ids_per_subj)


class DWIMLBatchLoaderOneInput(DWIMLStreamlinesBatchLoader):
    """Loads batches of streamlines and, under each of their points, the features of one volume group.

    Parameters
    ----------
    dataset, model, streamline_group_name, **kwargs
        As in :class:`DWIMLStreamlinesBatchLoader`; the model is a subclass of ``ModelWithOneInput``.
    input_group_name
        The volume group that the model reads under each point.
    volume_dtype
        ``"float32"``, or ``"float16"`` or ``"bfloat16"`` to keep the volumes so on the model's device: twice as many
        fit. Interpolation still computes in float32. Values keep about 3 digits (bfloat16: 2); float16 ends at
        65504.

    Raises
    ------
    ValueError
        For another ``volume_dtype``. When the group does not exist, has not the number of features that the model
        expects, or lies on another grid than the streamlines.
    """

    def __init__(
        self,
        dataset: MultiSubjectDataset,
        model: OneInputModel,
        input_group_name: str,
        streamline_group_name: str,
        *,
        volume_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, model, streamline_group_name, **kwargs)
        check_volumes(dataset, model, input_group_name, streamline_group_name)
        self.input_group_name = input_group_name
        self.volume_dtype = volume_dtype
        self.volumes = VolumesOnDevice(dataset, model, input_group_name, volume_dtype)

    def preparer(self) -> BatchPreparer:
        """Return the loader's device half: what :meth:`model_batch` uses."""
        return replace(super().preparer(), load_batch_inputs=self.load_batch_inputs)

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
            Features (total_points, P * F), float32: those of the point itself first, then those of each neighbour, P
            being the number of points of the model's neighborhood (1 without one).

        Raises
        ------
        TypeError
            As :meth:`model_batch`.
        ValueError
            When the file is no longer the one that was loaded, or ``volume_dtype`` cannot hold a volume's values.
        """
        return self.volumes.load_batch_inputs(streamlines, ids_per_subj)


def _check_noise(name: str, size: float) -> float:
    return check_number(name, size, low=0, high=_LARGEST_NOISE)
