"""A file with models of a user, each with a fault."""

from __future__ import annotations

from pathlib import Path

from own_models import DATA

from dwiml.cli import train

_HEAD = """
import torch
from dwiml import DWIMLTrainerOneInput, ModelWithDirectionGetter, ModelWithOneInput
"""
_BASE = """

class Base(ModelWithOneInput, ModelWithDirectionGetter):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = torch.nn.Linear(self.embedded_input_size, 8)
        self.instantiate_direction_getter(8)

    def forward(self, inputs, streamlines):
        return self.direction_getter(self.layer(self.embed_inputs(inputs)))
"""


def write_faulty(folder: Path, code: str) -> Path:
    """Write a file with a working model ``Base`` and the given classes; return its path."""
    file = folder / f"faulty_{folder.name}.py"
    file.write_text(f"{_HEAD}{_BASE}\n\n{code}")
    return file


def train_faulty(file: Path, hdf5: Path, *options: str, model: str = "Base") -> int:
    """Train a model of the file for one epoch, as the experiment ``exp`` next to the file; return the exit code."""
    command = [f"{file}:{model}", str(hdf5), str(file.parent), "exp", *DATA, "--max_epochs", "1", "-q"]
    return train.main([*command, *options])
