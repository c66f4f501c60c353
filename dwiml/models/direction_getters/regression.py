"""Regression of a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from dwiml.models.direction_getters.base import EOSLogitDirectionGetter
from dwiml.ops.directions import normalize_directions
from dwiml.params import checks_arguments


class _Regression(EOSLogitDirectionGetter):
    """What all regressions share: the outputs are a vector, along which tracking continues."""

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the outputs, normalized."""
        return normalize_directions(self.direction_outputs(outputs))


class CosineRegression(_Regression):
    """Regression of a direction; its length is ignored. Loss: 1 - cos(angle to the target), from 0 to 2 (opposite).

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        add_eos: bool = False,
        eos_weight: float = 1.0,
    ) -> None:
        super().__init__(input_size, dropout=dropout, hidden_size=hidden_size, add_eos=add_eos, eos_weight=eos_weight)

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return 1 - cos of the angle between output and step."""
        return _cosine_losses(outputs, steps)


class L2Regression(_Regression):
    """Regression of a vector. Loss: the Euclidean distance to the target, squared by default.

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    normalize_targets
        Whether the target is the direction, of unit length, or the step itself, in voxels.
    normalize_outputs
        Whether the output is scaled to unit length before the loss; only with ``normalize_targets``.
    squared
        Whether the distance is squared.

    Raises
    ------
    ValueError
        If an option is out of range, or outputs are normalized and targets are not.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        normalize_targets: bool = True,
        normalize_outputs: bool = False,
        squared: bool = True,
        add_eos: bool = False,
        eos_weight: float = 1.0,
    ) -> None:
        super().__init__(input_size, dropout=dropout, hidden_size=hidden_size, add_eos=add_eos, eos_weight=eos_weight)
        if normalize_outputs and not normalize_targets:
            raise ValueError("dg_args: normalize_outputs needs normalize_targets: both must have unit length.")
        self.normalize_targets = bool(normalize_targets)
        self.normalize_outputs = bool(normalize_outputs)
        self.squared = bool(squared)

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the distance between output and target, squared if :attr:`squared`."""
        targets = normalize_directions(steps) if self.normalize_targets else steps
        outputs = normalize_directions(outputs) if self.normalize_outputs else outputs
        differences = outputs - targets
        # The gradient of torch's norm is 0 at 0, not NaN.
        return differences.square().sum(dim=-1) if self.squared else torch.linalg.vector_norm(differences, dim=-1)


class CosinePlusL2Regression(L2Regression):
    """Regression of a vector. Loss: the sum of those of :class:`CosineRegression` and :class:`L2Regression`.

    The cosine compares the directions, the distance also the lengths.

    Parameters
    ----------
    input_size, dropout, hidden_size, normalize_targets, normalize_outputs, squared, add_eos, eos_weight
        As in :class:`L2Regression`.
    """

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the sum of both losses."""
        return _cosine_losses(outputs, steps) + super().direction_losses(outputs, steps)


def _cosine_losses(outputs: Tensor, steps: Tensor) -> Tensor:
    """Return 1 - cos of the angles between outputs and steps, (N, 3) both: shape (N,)."""
    return 1.0 - (normalize_directions(outputs) * normalize_directions(steps)).sum(dim=-1)
