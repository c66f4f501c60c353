"""Run a model for evaluation, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dwiml.models.protocols import EvaluatedModel


@contextmanager
def evaluation_mode(model: EvaluatedModel | torch.nn.Module) -> Iterator[None]:
    """Run the block without gradients and with the model in evaluation mode; its mode is restored, also on errors."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
