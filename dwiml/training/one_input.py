"""The trainer of models that also receive a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.ops.sequences import TensorSequence
from dwiml.training.trainer import DWIMLTrainer


class DWIMLTrainerOneInput(DWIMLTrainer):
    """A trainer whose model also receives one volume group, interpolated under each point of the streamlines.

    The interpolation is done in the main process, on the model's device, and not by the loader's workers: a GPU does
    it faster than they can, and its result would be the largest thing that they send.

    Parameters
    ----------
    model, experiments_path, experiment_name, batch_sampler, batch_loader, **kwargs
        As in :class:`DWIMLTrainer`, with a subclass of ``ModelWithOneInput`` and a ``DWIMLBatchLoaderOneInput``.
    """

    def __init__(
        self,
        model: Any,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLBatchLoaderOneInput,
        **kwargs: Any,
    ) -> None:
        if not isinstance(batch_loader, DWIMLBatchLoaderOneInput):
            raise TypeError(
                f"DWIMLTrainerOneInput needs a DWIMLBatchLoaderOneInput, got a {type(batch_loader).__name__}."
            )
        super().__init__(model, experiments_path, experiment_name, batch_sampler, batch_loader, **kwargs)
        self.batch_loader: DWIMLBatchLoaderOneInput = batch_loader

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Interpolate the volume under the streamlines, run the model, compute its loss: see the parent's method."""
        with self.profiler.part("interpolation"):
            batch = self.batch_loader.model_batch(targets, ids_per_subj)
        return batch.loss(self.model, batch.run(self.model))
