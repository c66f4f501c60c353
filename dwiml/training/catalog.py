"""The trainers, samplers and batch loaders of dwiml, by path, and the class of the trainer that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwiml.models.catalog import MODELS
from dwiml.user_classes.finding import find_class

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

TRAINER = "dwiml.training.one_input.DWIMLTrainerOneInput"
TRAINER_WITHOUT_VOLUME = "dwiml.training.trainer.DWIMLTrainer"
TRACKING_TRAINER = "dwiml.training.generation.phase.DWIMLTrainerOneInputWithGVPhase"
SAMPLER = "dwiml.batching.sampler.DWIMLBatchIDSampler"
LOADER = "dwiml.batching.loader.DWIMLBatchLoaderOneInput"
LOADER_WITHOUT_VOLUME = "dwiml.batching.loader.DWIMLStreamlinesBatchLoader"


def class_name(path: str) -> str:
    """Return the name of the class of a path, the last part of it."""
    return path.rpartition(".")[2]


CLASSES = {
    kind: {class_name(path): path for path in paths}
    for kind, paths in {
        "trainer": (TRAINER_WITHOUT_VOLUME, TRAINER, TRACKING_TRAINER),
        "model": tuple(MODELS.values()),
        "sampler": (SAMPLER,),
        "loader": (LOADER_WITHOUT_VOLUME, LOADER),
    }.items()
}
"""{section of ``parameters.json``: {name of a class of dwiml: its path}}: what an experiment is rebuilt from."""


def find_trainer_class(trainer_class: str | type[Any], parameter: str = "trainer_class") -> type[DWIMLTrainer]:
    """Return the trainer class that a user names: a subclass of ``DWIMLTrainer``.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As in :func:`dwiml.user_classes.finding.find_class`.
    """
    # Imported when used, with torch: the names of the classes are needed by commands that only print their help.
    from dwiml.training.trainer import DWIMLTrainer

    return find_class(trainer_class, DWIMLTrainer, parameter=parameter)
