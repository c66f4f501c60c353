"""What a model is given of a batch, and what its loss compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.ops.sequences import TensorSequence


@dataclass(frozen=True)
class ModelBatch:
    """A batch as a model sees it; made by ``batch_loader.model_batch(targets, ids_per_subj)``.

    All points are in voxel space, corner origin, float32, on the model's device.

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
