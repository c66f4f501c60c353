"""Batch loaders: workers prepare the streamlines of a batch, the model's device prepares the inputs and targets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from dwiml.arguments import check_number
from dwiml.batching.compatibility import (
    check_dataset,
    check_is_model,
    check_streamlines,
    check_supports_recovery,
    check_supports_split,
    check_volumes,
)
from dwiml.batching.fetcher import BatchSlices, StreamlineFetcher, identity_collate
from dwiml.batching.lengths import check_step_size, resampling_of
from dwiml.batching.model_batch import BatchPreparer, ModelBatch, VolumesOnDevice
from dwiml.batching.model_space import RASMM, ScannerSpace, space_of
from dwiml.batching.sampler import BatchIds, DWIMLBatchIDSampler, check_ids
from dwiml.batching.target_values import check_target_values
from dwiml.batching.workers import ignore_stop_signals, kill_workers_at_exit
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.augmentation import DrawnAugmentation
from dwiml.ops.randomness import BatchKey
from dwiml.ops.sequences import TensorSequence
from dwiml.seeding import Seeded

if TYPE_CHECKING:
    from dwiml.models.protocols import LoaderModel, OneInputModel

# In voxels, about the size of a brain: with more noise there is nothing to learn.
_MAX_NOISE = 100.0


class DWIMLStreamlinesBatchLoader(Seeded):
    """Loads batches of streamlines.

    Workers read, resample, reverse and split streamlines on the CPU (:meth:`fetcher`). Noise is added on the device of
    the model (:meth:`preparer`). Reversal, splitting and noise apply to training only; validation streamlines are only
    resampled.

    Parameters
    ----------
    dataset
        Dataset with its data loaded.
    model
        Model; its ``step_size``, ``nb_points`` or ``compress_lines`` define the resampling.
    streamline_group_name
        Group to read.
    split_ratio
        Fraction of the streamlines that are cut in two, each half becoming a streamline; those too short stay whole.
    reverse_ratio
        Fraction of the streamlines whose points are put in reverse order; only for models that know the direction of
        travel, from previous directions or their memory.
    noise_gaussian_size_forward
        Standard deviation, in voxels, of the Gaussian noise added to the input points of the model, at which the
        volume is interpolated and previous directions are computed. The noise is truncated at twice this value.
    noise_gaussian_size_loss
        Standard deviation, in voxels, of the Gaussian noise added to the target points of the loss. It is truncated in
        the same way.
    noise_correlated_size
        Size, in voxels, of smooth (Ornstein-Uhlenbeck) noise added to the input points, which makes them drift away
        from the true streamline as in tracking. The standard deviation for each streamline is drawn between 0 and
        twice this size. The model learns to return, and thus to correct its own errors. Needs a model with a direction
        getter.
    noise_correlated_nb_points
        Correlation length of the noise of `noise_correlated_size`, in points
        (:func:`dwiml.ops.augmentation.draw_correlated_noise`).
    nb_recovery_steps
        Number of steps, at least 1, in which the model should return to the true streamline after the noise of
        `noise_correlated_size` (:func:`dwiml.ops.directions.recovery_steps`).
    seed
        Seed of all random draws. None: the seed of :func:`dwiml.seed_everything` if it was called, otherwise a random
        seed. It is recorded in :attr:`params`.

    Raises
    ------
    TypeError
        If ``dataset`` is not a dataset, or ``model`` is not a model (for instance its class).
    ValueError
        If a ratio is outside 0 to 1, a noise size is negative, the group does not exist or was not loaded, the
        ``step_size`` of the model gives a streamline more than 100 000 points, the model does not support correlated
        noise or streamlines that are split, its ``streamlines_space`` is unknown, or the streamlines do not have the
        values that it learns (``target_key``).
    """

    called: set[str]
    """Which of ``model_batch`` and ``load_batch_inputs`` were called: a trainer warns if neither was."""
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
        check_is_model(model, type(self).__name__)
        check_streamlines(dataset, streamline_group_name)
        check_target_values(dataset, model, streamline_group_name)
        self.dataset = dataset
        self.model = model
        self.called = set()
        self.streamline_group_name = streamline_group_name
        check_step_size(dataset, streamline_group_name, resampling_of(model))
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
            check_supports_recovery(model)
        if self.split_ratio:
            check_supports_split(model)
        self._to_model_space = ScannerSpace(dataset, streamline_group_name) if space_of(model) == RASMM else None
        self._use_seed(seed)

    def fetcher(self, phase: str, *, augment: bool | None = None) -> StreamlineFetcher:
        """Return a dataset for torch's ``DataLoader``, which converts batch ids to batches in the workers.

        Parameters
        ----------
        phase
            ``"training"``, ``"validation"`` or ``"testing"``.
        augment
            Whether to reverse, split and add noise; None: in training only.
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
        """Return the object that adds noise on the model's device, used by :meth:`model_batch`."""
        return BatchPreparer(
            self.model,
            load_batch_inputs=None,
            noise_gaussian_size_forward=self.noise_gaussian_size_forward,
            noise_gaussian_size_loss=self.noise_gaussian_size_loss,
            noise_correlated_size=self.noise_correlated_size,
            noise_correlated_nb_points=self.noise_correlated_nb_points,
            nb_recovery_steps=self.nb_recovery_steps,
            seed=self.seed,
            to_model_space=self._to_model_space,
        )

    def data_loader(
        self,
        phase: str,
        sampler: DWIMLBatchIDSampler,
        *,
        nb_cpu_processes: int = 0,
        start_method: str | None = None,
    ) -> DataLoader[Any]:
        """Return a torch ``DataLoader`` for the batches of a phase; batches do not depend on the number of processes.

        Parameters
        ----------
        phase
            ``"training"`` or ``"validation"``.
        sampler
            Sampler of the batches; call its ``set_position`` before each iteration.
        nb_cpu_processes
            Number of workers, which persist between iterations; 0 loads batches in this process.
        start_method
            How workers are started: ``"fork"``, ``"spawn"`` or ``"forkserver"``; None: Python's default. Except with
            ``"fork"``, each worker receives a copy of eager data. Lazy data are never copied.
        """
        if nb_cpu_processes > 0:
            kill_workers_at_exit()
        return DataLoader(
            self.fetcher(phase),
            sampler=sampler,
            batch_size=None,
            num_workers=nb_cpu_processes,
            collate_fn=identity_collate,
            persistent_workers=nb_cpu_processes > 0,
            worker_init_fn=ignore_stop_signals if nb_cpu_processes > 0 else None,
            multiprocessing_context=start_method if nb_cpu_processes > 0 else None,
            # A separate generator: the loader must not change torch's global random state, which dropout uses.
            generator=torch.Generator(),
        )

    def load_batch_streamlines(
        self, batch_ids: BatchIds, drawn: DrawnAugmentation | None = None
    ) -> tuple[TensorSequence, BatchSlices]:
        """Return the streamlines of a batch and their subjects.

        Parameters
        ----------
        batch_ids
            Batch of a sampler.
        drawn
            How to reverse and split the streamlines, for instance ``ids_per_subj.drawn`` of an earlier call. None: in
            training, draw it from the key of the batch; otherwise, leave them unchanged.

        Returns
        -------
        streamlines
            Points (total_points, 3), float32, voxel space, corner origin; on the CPU.
        ids_per_subj
            {subject index: slice of the streamlines}, with their ``data_per_streamline``.

        Raises
        ------
        TypeError, IndexError, ValueError
            See :meth:`~dwiml.batching.fetcher.StreamlineFetcher.fetch`.
        """
        fetcher = self.fetcher(check_ids(batch_ids).key.phase)
        return fetcher[batch_ids] if drawn is None else fetcher.fetch(batch_ids, drawn)

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return the inputs of the model and the targets of its loss, for one batch.

        Parameters
        ----------
        targets
            Streamlines of the batch on the model's device: points (total_points, 3), float32, voxel space, corner
            origin.
        ids_per_subj
            Returned by :meth:`load_batch_streamlines` with the streamlines.

        Raises
        ------
        TypeError
            If ``ids_per_subj`` is a plain dict, which does not identify the batch.
        IndexError
            If a volume is read and a subject of ``ids_per_subj`` does not exist.
        ValueError
            If a volume is read and ``ids_per_subj`` is for another number of streamlines.
        """
        self.called.add("model_batch")
        return self.preparer().model_batch(targets, ids_per_subj)


class DWIMLBatchLoaderOneInput(DWIMLStreamlinesBatchLoader):
    """Loads batches of streamlines and the features of one volume group, interpolated at each point.

    Parameters
    ----------
    dataset, model, streamline_group_name, **kwargs
        As in :class:`DWIMLStreamlinesBatchLoader`; the model is an instance of a subclass of ``ModelWithOneInput``.
    input_group_name
        Volume group that is the input of the model.
    volume_dtype
        Data type of the volumes on the model's device: ``"float32"``, or ``"float16"`` or ``"bfloat16"``, which need
        half the memory. Interpolation is still computed in float32. The precision is about 3 digits (bfloat16: 2), and
        the maximum of float16 is 65504.

    Raises
    ------
    ValueError
        If ``volume_dtype`` is not one of these, if the group does not exist or was not loaded, or if its number of
        features or its grid does not match the model or the streamlines.
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
        """Return the object that adds noise and interpolates the volume on the model's device."""
        return replace(super().preparer(), load_batch_inputs=self.load_batch_inputs)

    def load_batch_inputs(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Interpolate the volumes at each point of a batch, on the device of the points (trilinear).

        Parameters
        ----------
        streamlines
            Points (total_points, 3), float32, voxel space, corner origin.
        ids_per_subj
            Returned by :meth:`load_batch_streamlines` with the streamlines.

        Returns
        -------
        TensorSequence
            Features (total_points, P * F), float32, in the units of the volume: the F features at the point, then those
            at each neighbor. P is the number of points of the model's neighborhood (1 without a neighborhood).

        Raises
        ------
        TypeError
            If ``ids_per_subj`` is a plain dict, which does not identify the batch.
        IndexError
            If a subject of ``ids_per_subj`` does not exist.
        ValueError
            If ``ids_per_subj`` is for another number of streamlines, the HDF5 file was replaced since it was loaded, or
            ``volume_dtype`` cannot represent the values of a volume.
        """
        self.called.add("load_batch_inputs")
        return self.volumes.load_batch_inputs(streamlines, ids_per_subj)

    def inputs_at(self, points: torch.Tensor, phase: str, subject: int) -> torch.Tensor:
        """Return the inputs of the model at new points of one subject, for tracking.

        A subclass that overrides :meth:`load_batch_inputs` is asked for them: each point is then a streamline of one
        point, and ``ids_per_subj`` has one subject and no data per streamline.

        Parameters
        ----------
        points
            Shape (N, 3), float32, voxel space, corner origin.
        phase, subject
            Name of the subset, and index of the subject in it.

        Returns
        -------
        Tensor
            Shape (N, P * F), float32, in the units of the volume, as in :meth:`load_batch_inputs`.

        Raises
        ------
        ValueError
            If an overridden `load_batch_inputs` does not return one row for each point; and as in
            :meth:`load_batch_inputs`.
        """
        if getattr(self.load_batch_inputs, "__func__", None) is DWIMLBatchLoaderOneInput.load_batch_inputs:
            return self.volumes.inputs_at(points, phase, subject)
        streamlines = TensorSequence(points, torch.ones(len(points), dtype=torch.int64))
        ids_per_subj = BatchSlices({subject: slice(0, len(points))}, BatchKey(phase, 0, 0))
        rows = self.load_batch_inputs(streamlines, ids_per_subj).data
        if len(rows) != len(points):
            raise ValueError(
                f"{type(self).__name__}.load_batch_inputs must return one row for each point, got {len(rows)} rows for "
                f"{len(points)} streamlines of one point (the new points of tracking)."
            )
        return rows


def _check_noise(name: str, size: float) -> float:
    return check_number(name, size, low=0, high=_MAX_NOISE)
