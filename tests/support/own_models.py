"""Files with a model and a trainer of a user, which were never installed."""

from __future__ import annotations

from pathlib import Path

MODEL = '''
import torch

from dwiml import ModelWithDirectionGetter, ModelWithOneInput
from layers_of_{name} import perceptron


class OwnModel(ModelWithOneInput, ModelWithDirectionGetter):
    """A perceptron at each point.

    Parameters
    ----------
    hidden_sizes : list of int
        Sizes of the hidden layers. The last one goes to the direction getter.
    slope
        Slope of the activation.
    """

    def __init__(self, *, hidden_sizes: list[int] = (6, 4), slope=0.1, **kwargs):
        super().__init__(**kwargs)
        self.layers = perceptron(self.embedded_input_size, hidden_sizes, slope)
        self.dropout = torch.nn.Dropout(0.2)
        self.instantiate_direction_getter(hidden_sizes[-1])

    def forward(self, inputs, streamlines):
        return self.direction_getter(self.dropout(self.layers(self.embed_inputs(inputs))))
'''

LAYERS = """
import torch


def perceptron(size, hidden_sizes, slope):
    layers = []
    for each in hidden_sizes:
        layers += [torch.nn.Linear(size, each), torch.nn.LeakyReLU(slope)]
        size = each
    return torch.nn.Sequential(*layers)
"""

TRAINER = '''
import os
import signal
from pathlib import Path

from dwiml import DWIMLTrainerOneInput


class OwnTrainer(DWIMLTrainerOneInput):
    """Scales the loss; the process dies in the batch whose number is in the file ``die_in``, if there is one."""

    def __init__(self, *args, scale: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self._scale = scale

    def compute_loss(self, outputs, batch):
        die_in = Path(__file__).with_name("die_in")
        if die_in.exists() and int(die_in.read_text()) == self.position.batch and self.position.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        loss, n = super().compute_loss(outputs, batch)
        return loss * self._scale, n
'''

DATA = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--step_size", "2", "--seed", "3"]


def write_own_model(folder: Path, name: str = "own") -> str:
    """Write a model, and the module next to it that it imports; return how a user names its class."""
    (folder / f"layers_of_{name}.py").write_text(LAYERS)
    (folder / f"{name}.py").write_text(MODEL.format(name=name))
    return f"{folder / name}.py:OwnModel"


def write_own_trainer(folder: Path) -> str:
    """Write a trainer; return how a user names its class."""
    (folder / "own_trainer.py").write_text(TRAINER)
    return f"{folder / 'own_trainer.py'}:OwnTrainer"


def install(folder: Path, name: str, value: str, package: str = "somebodys_models") -> None:
    """Make what an installed package has that declares a model: ``somebodys_models-1.0.dist-info``."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[dwiml.models]\n{name} = {value}\n")
