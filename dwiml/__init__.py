"""dwiml: train tractography models on streamlines and diffusion MRI volumes.

All public names can be imported from here. Their modules are loaded when a name is first used, so that ``import dwiml``
and the ``--help`` of commands are fast and do not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {
    "AutoencoderModel": "dwiml.models.whole_streamlines.autoencoder",
    "DWIMLBatchIDSampler": "dwiml.batching.sampler",
    "DWIMLBatchLoaderOneInput": "dwiml.batching.loader",
    "DWIMLStreamlinesBatchLoader": "dwiml.batching.loader",
    "DWIMLTrainer": "dwiml.training.trainer",
    "DWIMLTrainerOneInput": "dwiml.training.one_input",
    "DWIMLTrainerOneInputWithGVPhase": "dwiml.training.generation.phase",
    "Learn2TrackModel": "dwiml.models.learn2track",
    "Logger": "dwiml.training.reporting.loggers.base",
    "MainModelAbstract": "dwiml.models.base",
    "ModelWithDirectionGetter": "dwiml.models.with_direction_getter",
    "ModelWithNeighborhood": "dwiml.models.inputs",
    "ModelWithOneInput": "dwiml.models.inputs",
    "ModelWithPreviousDirections": "dwiml.models.inputs",
    "MultiSubjectDataset": "dwiml.data.dataset",
    "MultisubjectSubset": "dwiml.data.dataset",
    "StreamlineClassifierModel": "dwiml.models.whole_streamlines.classifier",
    "TensorSequence": "dwiml.ops.sequences",
    "TrackingModel": "dwiml.models.protocols",
    "TrainedExperiment": "dwiml.trained.experiment",
    "TransformerSrcAndTgtModel": "dwiml.models.transformers.with_targets",
    "TransformerSrcOnlyModel": "dwiml.models.transformers.source_only",
    "TransformerSrcTgtConcatModel": "dwiml.models.transformers.with_targets",
    "check_track_step": "dwiml.models.track_step",
    "create_hdf5": "dwiml.hdf5.creator",
    "create_phantom": "dwiml.phantom.create",
    "join_hdf5": "dwiml.hdf5.joining",
    "load_experiment": "dwiml.trained.experiment",
    "plot_logs": "dwiml.viz.logs",
    "seed_everything": "dwiml.seeding",
    "track": "dwiml.trained.tracking",
    "visualize_logs": "dwiml.viz.logs",
}

__all__ = [
    "AutoencoderModel",
    "DWIMLBatchIDSampler",
    "DWIMLBatchLoaderOneInput",
    "DWIMLStreamlinesBatchLoader",
    "DWIMLTrainer",
    "DWIMLTrainerOneInput",
    "DWIMLTrainerOneInputWithGVPhase",
    "Learn2TrackModel",
    "Logger",
    "MainModelAbstract",
    "ModelWithDirectionGetter",
    "ModelWithNeighborhood",
    "ModelWithOneInput",
    "ModelWithPreviousDirections",
    "MultiSubjectDataset",
    "MultisubjectSubset",
    "StreamlineClassifierModel",
    "TensorSequence",
    "TrackingModel",
    "TrainedExperiment",
    "TransformerSrcAndTgtModel",
    "TransformerSrcOnlyModel",
    "TransformerSrcTgtConcatModel",
    "check_track_step",
    "create_hdf5",
    "create_phantom",
    "join_hdf5",
    "load_experiment",
    "plot_logs",
    "seed_everything",
    "track",
    "visualize_logs",
]

if TYPE_CHECKING:
    from dwiml.batching.loader import DWIMLBatchLoaderOneInput, DWIMLStreamlinesBatchLoader
    from dwiml.batching.sampler import DWIMLBatchIDSampler
    from dwiml.data.dataset import MultiSubjectDataset, MultisubjectSubset
    from dwiml.hdf5.creator import create_hdf5
    from dwiml.hdf5.joining import join_hdf5
    from dwiml.models.base import MainModelAbstract
    from dwiml.models.inputs import ModelWithNeighborhood, ModelWithOneInput, ModelWithPreviousDirections
    from dwiml.models.learn2track import Learn2TrackModel
    from dwiml.models.protocols import TrackingModel
    from dwiml.models.track_step import check_track_step
    from dwiml.models.transformers.source_only import TransformerSrcOnlyModel
    from dwiml.models.transformers.with_targets import TransformerSrcAndTgtModel, TransformerSrcTgtConcatModel
    from dwiml.models.whole_streamlines.autoencoder import AutoencoderModel
    from dwiml.models.whole_streamlines.classifier import StreamlineClassifierModel
    from dwiml.models.with_direction_getter import ModelWithDirectionGetter
    from dwiml.ops.sequences import TensorSequence
    from dwiml.phantom.create import create_phantom
    from dwiml.seeding import seed_everything
    from dwiml.trained.experiment import TrainedExperiment, load_experiment
    from dwiml.trained.tracking import track
    from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase
    from dwiml.training.one_input import DWIMLTrainerOneInput
    from dwiml.training.reporting.loggers.base import Logger
    from dwiml.training.trainer import DWIMLTrainer
    from dwiml.viz.logs import plot_logs, visualize_logs


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dwiml' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
