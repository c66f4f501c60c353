"""The part of a batch loader that runs on the model's device: from streamlines to model inputs and loss targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwiml.arguments import check_whole, shown
from dwiml.batching.fetcher import BatchSlices, check_covers, check_slices
from dwiml.batching.target_values import target_values
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.data.volumes import SubjectVolume
from dwiml.ops.augmentation import draw_correlated_noise, draw_noise
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.neighborhood import nb_points_read
from dwiml.ops.randomness import BatchKey, keyed_generator
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    from dwiml.models.protocols import LoaderModel, OneInputModel

VOLUME_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelBatch:
    """Inputs of the model and targets of its loss, for one batch.

    Created by ``batch_loader.model_batch(targets, ids_per_subj)``. All points are float32, in voxel space, corner
    origin (or in mm in scanner space, rasmm, center origin, if the model's ``streamlines_space`` is ``"rasmm"``), on
    the model's device.

    Attributes
    ----------
    targets
        Points (total_points, 3) of the target streamlines of the loss, with the loss noise in training.
    streamlines
        Points (N, 3) at which the model is run, with the forward noise in training. The last point of each streamline
        is excluded if the model does not use it (``forward_uses_last_point``).
    ids_per_subj
        {subject index: slice of the streamlines}, with the key of the batch.
    inputs
        Features (N, P * F), float32, of the volume at ``streamlines``. P is the number of points of the model's
        neighborhood (1 without a neighborhood). None if no volume is loaded.
    recovery_target
        Keyword arguments of the model's ``compute_loss`` if correlated noise was added; otherwise empty.
    """

    targets: TensorSequence
    streamlines: TensorSequence
    ids_per_subj: BatchSlices
    inputs: TensorSequence | None = None
    recovery_target: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: Any) -> Any:
        """Run the model: ``model(inputs, streamlines)``, or ``model(streamlines)`` without a volume."""
        return model(self.streamlines) if self.inputs is None else model(self.inputs, self.streamlines)

    def loss(self, model: Any, outputs: Any, average_results: bool = True) -> tuple[torch.Tensor, int]:
        """Return the loss of the model for this batch.

        Parameters
        ----------
        model
            Model with a method ``compute_loss``.
        outputs
            Outputs of :meth:`run`.
        average_results
            Whether to return the mean loss or the loss of each element.

        Returns
        -------
        mean_loss
            0-d tensor; with ``average_results=False``, the losses of the n elements along the first axis.
        n
            Number of elements (steps or points).

        Raises
        ------
        TypeError, ValueError
            If ``compute_loss`` of the model does not return a mean loss and a number of elements.
        """
        # The compute_loss of a user's model may lack average_results, which training does not need.
        options: dict[str, Any] = {} if average_results else {"average_results": False}
        options |= target_values(model, self.ids_per_subj)
        loss: tuple[torch.Tensor, int] = model.compute_loss(outputs, self.targets, **options, **self.recovery_target)
        return check_mean_loss(loss, f"{type(model).__name__}.compute_loss") if average_results else loss


# Of a batch; sums of such numbers still fit in 64 bits.
MOST_POINTS = 10**15


def check_mean_loss(result: Any, method: str) -> tuple[torch.Tensor, int]:
    """Check that a method has returned the mean loss of a batch and the number of points in it, and return them.

    Parameters
    ----------
    result
        What it returned.
    method
        Its name, for the error message.

    Raises
    ------
    TypeError
        If the result is not a 0-d tensor and a number.
    ValueError
        If the number is not a whole number of at least 0.
    """
    if isinstance(result, (tuple, list)) and len(result) == 2:
        mean_loss, n = result
        if isinstance(mean_loss, torch.Tensor) and mean_loss.ndim == 0:
            # A tensor is read, for instance the sum of a mask.
            n = n.item() if isinstance(n, torch.Tensor) and n.numel() == 1 else n
            return mean_loss, check_whole(f"n of {method}", n, low=0, high=MOST_POINTS)
    raise TypeError(
        f"{method} must return (mean_loss, n), a 0-d tensor and the number of points in the mean; "
        f"it returned {_described(result)}."
    )


def _described(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"({', '.join(_described(each) for each in result)})"
    return f"a tensor of shape {tuple(result.shape)}" if isinstance(result, torch.Tensor) else shown(result)


@dataclass(frozen=True)
class BatchPreparer:
    """Prepares the inputs and targets of a batch: adds noise and interpolates the volume.

    Noise is added if ``ids_per_subj.augment`` is true, by default in training batches only. It depends only on the seed
    and the key of the batch.

    Attributes
    ----------
    model
        Model; its ``forward_uses_last_point`` states whether it is run at the last point of each streamline.
    load_batch_inputs
        Function that returns the features at the points, such as that of a batch loader. None: the streamlines are the
        only input of the model.
    to_model_space
        Function that converts the points from voxel space to the space of the model. None: the model receives voxel
        space. Noise is added, and the volume interpolated, in voxel space.
    noise_gaussian_size_forward, noise_gaussian_size_loss, noise_correlated_size, noise_correlated_nb_points, \
    nb_recovery_steps, seed
        As in :class:`~dwiml.batching.loader.DWIMLStreamlinesBatchLoader`.
    """

    model: LoaderModel
    load_batch_inputs: Callable[[TensorSequence, BatchSlices], TensorSequence] | None
    noise_gaussian_size_forward: float
    noise_gaussian_size_loss: float
    noise_correlated_size: float
    noise_correlated_nb_points: float
    nb_recovery_steps: float
    seed: int
    to_model_space: Callable[[TensorSequence, BatchSlices], TensorSequence] | None = None

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return the inputs and targets of a batch: see ``batch_loader.model_batch``."""
        streamlines = targets if self.model.forward_uses_last_point else targets.trimmed_last()
        streamlines = self.add_noise_forward(streamlines, ids_per_subj)
        inputs = None if self.load_batch_inputs is None else self.load_batch_inputs(streamlines, ids_per_subj)
        targets = self.add_noise_loss(targets, ids_per_subj)
        if self.to_model_space is not None:
            streamlines = self.to_model_space(streamlines, ids_per_subj)
            targets = self.to_model_space(targets, ids_per_subj)
        return ModelBatch(
            targets=targets,
            streamlines=streamlines,
            ids_per_subj=ids_per_subj,
            inputs=inputs,
            recovery_target=self.recovery_target(streamlines, ids_per_subj),
        )

    def add_noise_forward(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the input points of the model, with Gaussian and correlated noise if requested.

        Parameters
        ----------
        streamlines
            Points (N, 3), float32, voxel space, corner origin.
        ids_per_subj
            Slices of the batch.

        Returns
        -------
        TensorSequence
            Noisy points, of the same shape, space and dtype.

        Raises
        ------
        TypeError
            If ``ids_per_subj`` is a plain dict, which does not identify the batch.
        """
        noisy = self._add_noise(streamlines, ids_per_subj, self.noise_gaussian_size_forward, "noise_forward")
        if not ids_per_subj.augment or self.noise_correlated_size == 0:
            return noisy
        # The old name of this noise is part of the random key: another one would draw other noise than before.
        rng = self._generator(ids_per_subj.key, "wander")
        drawn = draw_correlated_noise(streamlines.lengths.numpy(), self.noise_correlated_nb_points, rng)
        noise = torch.from_numpy(drawn).to(noisy.device, non_blocking=True)
        return noisy.mapped(noisy.data + self.noise_correlated_size * noise)

    def add_noise_loss(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the target points of the loss, with Gaussian noise if requested: see :meth:`add_noise_forward`."""
        return self._add_noise(streamlines, ids_per_subj, self.noise_gaussian_size_loss, "noise_loss")

    def recovery_target(self, seen: TensorSequence, ids_per_subj: BatchSlices) -> dict[str, Any]:
        """Return the keyword arguments of ``compute_loss`` that correlated noise requires.

        Parameters
        ----------
        seen
            Noisy points (N, 3) that the model receives, float32, in the space of the model.
        ids_per_subj
            Slices of the batch.

        Returns
        -------
        dict
            ``seen`` and ``nb_recovery_steps``; empty without correlated noise.

        Raises
        ------
        TypeError
            If ``ids_per_subj`` is a plain dict, which does not identify the batch.
        """
        if not check_slices(ids_per_subj).augment or self.noise_correlated_size == 0:
            return {}
        return {"seen": seen, "nb_recovery_steps": self.nb_recovery_steps}

    def _add_noise(
        self, streamlines: TensorSequence, ids_per_subj: BatchSlices, size: float, purpose: str
    ) -> TensorSequence:
        if not check_slices(ids_per_subj).augment or size == 0:
            return streamlines
        noise = torch.from_numpy(draw_noise(streamlines.total_points, self._generator(ids_per_subj.key, purpose)))
        return streamlines.mapped(streamlines.data + size * noise.to(streamlines.device, non_blocking=True))

    def _generator(self, key: BatchKey, purpose: str) -> np.random.Generator:
        # key.first: the shares of a batch on several processes have different noise.
        return keyed_generator(self.seed, key.epoch, key.batch_index, purpose, key.first)


class VolumesOnDevice:
    """Interpolates a volume group at points, and caches the volumes on the device of the points.

    Parameters
    ----------
    dataset
        Dataset with its data loaded; its ``cache_size`` is the number of subjects whose volumes are cached.
    model
        Model; its ``neighborhood_offsets`` (P, 3), in voxels, define the neighborhood of a point; None for none.
    input_group_name, volume_dtype
        As in :class:`~dwiml.batching.loader.DWIMLBatchLoaderOneInput`.

    Raises
    ------
    ValueError
        If ``volume_dtype`` is not one of :data:`VOLUME_DTYPES`.
    """

    def __init__(
        self, dataset: MultiSubjectDataset, model: OneInputModel, input_group_name: str, volume_dtype: str
    ) -> None:
        if volume_dtype not in VOLUME_DTYPES:
            raise ValueError(f"volume_dtype must be one of {', '.join(VOLUME_DTYPES)}, got {volume_dtype!r}.")
        self.dataset = dataset
        self.model = model
        self.input_group_name = input_group_name
        self.volume_dtype = volume_dtype
        self._cache: OrderedDict[tuple[int, str, int, torch.device], tuple[SubjectVolume, torch.Tensor]] = OrderedDict()

    @property
    def nb_columns(self) -> int:
        """Number of columns of the inputs: the features at each point of the neighborhood."""
        return self.dataset.nb_features[self.input_group_name] * nb_points_read(self.model.neighborhood_offsets)

    def load_batch_inputs(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the features at each point of a batch: see ``batch_loader.load_batch_inputs``."""
        phase = check_covers(ids_per_subj, len(streamlines)).key.phase
        parts = [
            self.inputs_at(streamlines[rows].data, phase, subject, at_least=len(ids_per_subj))
            for subject, rows in ids_per_subj.items()
        ]
        if not parts:
            return streamlines.mapped(streamlines.data.new_empty((0, self.nb_columns)))
        return streamlines.mapped(parts[0] if len(parts) == 1 else torch.cat(parts))

    def inputs_at(self, points: torch.Tensor, phase: str, subject: int, *, at_least: int = 1) -> torch.Tensor:
        """Interpolate the volume of one subject at points, on the device of the points (trilinear).

        Parameters
        ----------
        points
            Shape (N, 3), float32, voxel space, corner origin.
        phase, subject
            Name of the subset, and index of the subject in it.
        at_least
            Minimum number of subjects whose volumes are cached, if the dataset's ``cache_size`` is lower.

        Returns
        -------
        Tensor
            Shape (N, P * F), float32, in the units of the volume: the F features at the point, then those at each
            neighbor.

        Raises
        ------
        IndexError
            If there is no such subject.
        ValueError
            If the HDF5 file was replaced since it was loaded, or ``volume_dtype`` cannot represent the values of the
            volume.
        """
        offsets = self.model.neighborhood_offsets
        if offsets is not None:
            offsets = offsets.to(points.device)
        volume = self._volume(phase, subject, points.device, at_least=at_least)
        return interpolate_at(volume, points, offsets=offsets)

    def _volume(self, phase: str, subject: int, device: torch.device, *, at_least: int) -> torch.Tensor:
        """Return a subject's volume on the device, from a cache of the most recently used volumes."""
        cache_key = (self.dataset.nb_loads, phase, subject, device)
        if cache_key in self._cache:
            self._cache.move_to_end(cache_key)
            stored, volume = self._cache[cache_key]
            # The volume may be a memory map, whose values change with the file.
            stored.check_file()
            return volume
        for old in [old for old in self._cache if old[0] != self.dataset.nb_loads]:
            del self._cache[old]
        while len(self._cache) >= max(self.dataset.cache_size, at_least):
            self._cache.popitem(last=False)
        stored = self.dataset.subset(phase).data_of(subject).volumes[self.input_group_name]
        volume = self._in_volume_dtype(stored).to(device)
        self._cache[cache_key] = stored, volume
        return volume

    def _in_volume_dtype(self, stored: SubjectVolume) -> torch.Tensor:
        volume, dtype = stored.as_tensor(), VOLUME_DTYPES[self.volume_dtype]
        if dtype != torch.float32 and float(volume.abs().max()) > torch.finfo(dtype).max:
            raise ValueError(
                f"The {stored.label} has values up to {float(volume.abs().max()):.4g}, which {self.volume_dtype} "
                "cannot represent; standardize it, or use another volume_dtype."
            )
        return volume.to(dtype)
