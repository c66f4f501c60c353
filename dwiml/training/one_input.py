"""The trainer for models that also receive a volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dwiml.arguments import kind_shown
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.models.base import MainModelAbstract
from dwiml.training.settings import TrainerKeywords
from dwiml.training.trainer import DWIMLTrainer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DWIMLTrainerOneInput(DWIMLTrainer):
    """A trainer whose model also receives one volume group, interpolated under each point of the streamlines.

    The interpolation is done in the main process, on the model's device, rather than by the loader's workers: a GPU is
    faster, and the features would be the largest part of the data that workers send.

    Parameters
    ----------
    model, experiments_path, experiment_name, batch_sampler, batch_loader, **settings
        As in :class:`DWIMLTrainer`, with a subclass of ``ModelWithOneInput`` and a ``DWIMLBatchLoaderOneInput``. The
        settings are listed by ``help(dwiml.training.settings.TrainerSettings)``.

    Raises
    ------
    TypeError
        If the batch loader is not a ``DWIMLBatchLoaderOneInput``.
    """

    batch_loader: DWIMLBatchLoaderOneInput  # loads the batch for the model, including the volume

    def __init__(
        self,
        model: MainModelAbstract,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLBatchLoaderOneInput,
        **settings: Unpack[TrainerKeywords],
    ) -> None:
        if not isinstance(batch_loader, DWIMLBatchLoaderOneInput):
            raise TypeError(f"DWIMLTrainerOneInput needs a DWIMLBatchLoaderOneInput, got {kind_shown(batch_loader)}.")
        super().__init__(model, experiments_path, experiment_name, batch_sampler, batch_loader, **settings)
