"""The norm of the weights of each layer, and of their change in an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from dwiml.models.saving import described
from dwiml.training.experiment.plain import check_keys
from dwiml.training.reporting.metrics import WEIGHT_CHANGE, WEIGHT_NORM

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

STATE = "dwiml: weights of the last epoch"
"""Name of the state in a checkpoint."""


class WeightChanges:
    """Measures the weights of each layer, and how much they have changed since they were last measured.

    A layer is a module that has weights of its own: all its tensors are measured together, as one vector. A weight of
    the model itself is a layer of its own. Buffers and integers are left out. The weights are copied once, on their
    device.

    Parameters
    ----------
    model
        The model, on its device; not wrapped by ``DistributedDataParallel``.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {name: each for name, each in model.named_parameters() if _is_measured(each)}
        self._before = {name: each.detach().clone() for name, each in self._weights.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the metrics of the weights, and count the next change from the current weights.

        Returns
        -------
        dict
            For each layer, the Euclidean norms ``weight_norm/LAYER``, of its weights, and ``weight_change/LAYER``, of
            the difference from those of the previous call (the first time: from the weights at construction).
        """
        parts = {
            WEIGHT_CHANGE: [_norm(_wide(now) - _wide(self._before[name])) for name, now in self._weights.items()],
            WEIGHT_NORM: [_norm(now) for now in self._weights.values()],
        }
        for name, now in self._weights.items():
            self._before[name].copy_(now)
        metrics: dict[str, float] = {}
        for kind, norms in parts.items():
            by_layer: dict[str, list[float]] = {}
            for name, norm in zip(self._weights, torch.stack(norms).tolist() if norms else (), strict=True):
                by_layer.setdefault(_layer_of(name), []).append(norm)
            metrics |= {f"{kind}{layer}": math.hypot(*found) for layer, found in by_layer.items()}
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the last measurement, by name: the tensors themselves, as torch does."""
        return dict(self._before)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, from any device.

        Raises
        ------
        ValueError
            If it does not fit the model; nothing is changed then.
        """
        check_keys("the weights of the last epoch", state, self._before)
        for name, own in self._before.items():
            if described(state[name]) != described(own):
                raise ValueError(f"'{name}' should be {described(own)} but is {described(state[name])}")
            if not bool(torch.isfinite(state[name]).all()):
                raise ValueError(f"'{name}' has values that are NaN or infinite")
        for name, own in self._before.items():
            own.copy_(state[name])


def follow_weights(trainer: DWIMLTrainer) -> WeightChanges | None:
    """Return what measures the weights of a trainer, with its state in the checkpoints; None without ``log_weights``.

    Raises
    ------
    ValueError
        If the state in the checkpoint does not fit the model.
    """
    if not trainer.settings.log_weights:
        return None
    changes = WeightChanges(trainer.model)
    trainer.checkpointer.register(STATE, changes)
    return changes


def _is_measured(weights: torch.Tensor) -> bool:
    return weights.is_floating_point() or weights.is_complex()


def _layer_of(name: str) -> str:
    """Return the module of a weight, or the name of a weight of the model itself."""
    return name.rpartition(".")[0] or name


def _wide(values: torch.Tensor) -> torch.Tensor:
    # A small change would be rounded to 0 in half precision.
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _norm(values: torch.Tensor) -> torch.Tensor:
    real = torch.view_as_real(values) if values.is_complex() else values
    norm: torch.Tensor = torch.linalg.vector_norm(real, dtype=torch.float64)
    return norm
