"""The device half of a batch loader: from a batch's streamlines to what a model is given, on the model's device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwiml.batching.fetcher import BatchSlices, check_slices
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.data.volumes import SubjectVolume
from dwiml.ops.augmentation import draw_correlated_noise, draw_noise
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.randomness import BatchKey, keyed_generator
from dwiml.ops.sequences import TensorSequence

if TYPE_CHECKING:
    from dwiml.models.protocols import LoaderModel, OneInputModel

VOLUME_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelBatch:
    """What a model is given of a batch, and what its loss compares.

    Made by ``batch_loader.model_batch(targets, ids_per_subj)``. All points are in voxel space, corner origin, float32,
    on the model's device.

    Attributes
    ----------
    targets
        Points (total_points, 3) of the streamlines that the loss compares with; with the loss noise in training.
    streamlines
        Points (N, 3) at which the model is run: with the forward noise in training, and without each streamline's last
        point where the model does not use it (``forward_uses_last_point``).
    ids_per_subj
        For each subject index, a slice of the streamlines; and which batch it is.
    inputs
        Features (N, P * F) of the volume under ``streamlines``, P being the number of points of the model's
        neighborhood (1 without one). None where no volume is loaded.
    recovery_target
        Keyword arguments for the model's ``compute_loss``, where correlated noise was added; empty otherwise.
    """

    targets: TensorSequence
    streamlines: TensorSequence
    ids_per_subj: BatchSlices
    inputs: TensorSequence | None = None
    recovery_target: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: Any) -> Any:
        """Return the model's outputs: ``model(inputs, streamlines)``, or ``model(streamlines)`` without a volume."""
        return model(self.streamlines) if self.inputs is None else model(self.inputs, self.streamlines)

    def loss(self, model: Any, outputs: Any, average_results: bool = True) -> tuple[torch.Tensor, int]:
        """Return the model's loss of a batch.

        Parameters
        ----------
        model
            Its ``compute_loss`` is called.
        outputs
            From :meth:`run`.
        average_results
            Whether to return the mean or the loss of each element.

        Returns
        -------
        mean_loss
            0-d tensor; with ``average_results=False`` the losses, one row an element.
        n
            The number of elements (steps, or points).
        """
        # A model that is only trained may have a compute_loss without average_results.
        choice = {} if average_results else {"average_results": False}
        loss: tuple[torch.Tensor, int] = model.compute_loss(outputs, self.targets, **choice, **self.recovery_target)
        return loss


@dataclass(frozen=True)
class BatchPreparer:
    """Prepares what a model is given of a batch: noise, and the volume under the points.

    Noise is added to batches that are augmented (``ids_per_subj.augment``), those of the training set as a rule. It is
    a function of the seed and of the batch's key.

    Attributes
    ----------
    model
        Its ``forward_uses_last_point`` says whether it is run at the streamlines' last points.
    load_batch_inputs
        Returns the features under points, as that of a loader does; None: the model is given streamlines only.
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

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return what the model is given of a batch: see ``batch_loader.model_batch``."""
        streamlines = targets if self.model.forward_uses_last_point else targets.trimmed_last()
        streamlines = self.add_noise_forward(streamlines, ids_per_subj)
        return ModelBatch(
            targets=self.add_noise_loss(targets, ids_per_subj),
            streamlines=streamlines,
            ids_per_subj=ids_per_subj,
            inputs=None if self.load_batch_inputs is None else self.load_batch_inputs(streamlines, ids_per_subj),
            recovery_target=self.recovery_target(streamlines, ids_per_subj),
        )

    def add_noise_forward(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the points at which the model is run: with Gaussian and correlated noise, where asked for."""
        noisy = self._add_noise(streamlines, ids_per_subj, self.noise_gaussian_size_forward, "noise_forward")
        if not ids_per_subj.augment or self.noise_correlated_size == 0:
            return noisy
        rng = self._generator(ids_per_subj.key, "wander")
        drawn = draw_correlated_noise(streamlines.lengths.numpy(), self.noise_correlated_nb_points, rng)
        noise = torch.from_numpy(drawn).to(noisy.device, non_blocking=True)
        return noisy.mapped(noisy.data + self.noise_correlated_size * noise)

    def add_noise_loss(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the streamlines that the loss compares with: with Gaussian noise, where asked for."""
        return self._add_noise(streamlines, ids_per_subj, self.noise_gaussian_size_loss, "noise_loss")

    def recovery_target(self, seen: TensorSequence, ids_per_subj: BatchSlices) -> dict[str, Any]:
        """Return the keyword arguments of ``compute_loss`` that correlated noise asks for: where the model was."""
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
        # Each share of a batch has its own noise.
        return keyed_generator(self.seed, key.epoch, key.batch_index, purpose, key.first)


class VolumesOnDevice:
    """Interpolates a volume group under points; volumes stay on the points' device after their first use.

    Parameters
    ----------
    dataset
        With its data loaded; its ``cache_size`` is the number of subjects whose volumes are kept.
    model
        Its ``neighborhood_offsets`` (P, 3), in voxels, if it has some, are the places around each point.
    input_group_name, volume_dtype
        As in :class:`~dwiml.batching.loader.DWIMLBatchLoaderOneInput`.

    Raises
    ------
    ValueError
        For a ``volume_dtype`` that does not exist.
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
        self._kept: OrderedDict[tuple[int, str, int, torch.device], tuple[SubjectVolume, torch.Tensor]] = OrderedDict()

    def load_batch_inputs(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the features under each point of a batch: see ``batch_loader.load_batch_inputs``."""
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
            Shape (N, P * F), float32: the features at the point itself first, then those of each neighbour.

        Raises
        ------
        ValueError
            When the file is no longer the one that was loaded, or ``volume_dtype`` cannot hold the volume's values.
        """
        offsets = getattr(self.model, "neighborhood_offsets", None)
        if offsets is not None:
            offsets = offsets.to(points.device)
        volume = self._volume(phase, subject, points.device, at_least=at_least)
        return interpolate_at(volume, points, offsets=offsets)

    def _volume(self, phase: str, subject: int, device: torch.device, *, at_least: int) -> torch.Tensor:
        """Return a subject's volume on the device; those used last are kept, at least the subjects of one batch."""
        where = (self.dataset.nb_loads, phase, subject, device)
        if where in self._kept:
            self._kept.move_to_end(where)
            stored, volume = self._kept[where]
            # It may be a view of the map: what stands in the file by now.
            stored.check_file()
            return volume
        for old in [old for old in self._kept if old[0] != self.dataset.nb_loads]:
            del self._kept[old]
        while len(self._kept) >= max(self.dataset.cache_size, at_least):
            self._kept.popitem(last=False)
        stored = self.dataset.subset(phase)[subject].volumes[self.input_group_name]
        volume = self._in_volume_dtype(stored).to(device)
        self._kept[where] = stored, volume
        return volume

    def _in_volume_dtype(self, stored: SubjectVolume) -> torch.Tensor:
        volume, dtype = stored.as_tensor(), VOLUME_DTYPES[self.volume_dtype]
        if dtype != torch.float32 and float(volume.abs().max()) > torch.finfo(dtype).max:
            raise ValueError(
                f"The {stored.label} has values up to {float(volume.abs().max()):.4g}, which {self.volume_dtype} "
                "cannot hold; standardize it, or use another volume_dtype."
            )
        return volume.to(dtype)
