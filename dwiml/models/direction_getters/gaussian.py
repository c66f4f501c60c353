"""Gaussian distributions of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import check_whole
from dwiml.models.direction_getters.mixture import MAX_COMPONENTS, MixtureDirectionGetter
from dwiml.ops.directions import normalize_directions
from dwiml.ops.randomness import standard_normal
from dwiml.params import checks_arguments

SIGMA_BOUNDS = (1e-3, 1e3)
"""Smallest and largest standard deviation, in the unit of the targets."""


class _Gaussians(MixtureDirectionGetter):
    """What :class:`Gaussian` and :class:`GaussianMixture` share."""

    nb_parameters = 6
    nb_uniforms = 3

    def __init__(self, input_size: int, *, normalize_targets: bool, **options: Any) -> None:
        super().__init__(input_size, **options)
        self.normalize_targets = bool(normalize_targets)

    def log_densities(self, parameters: Tensor, steps: Tensor) -> Tensor:
        """Return the log-densities of independent Gaussians along x, y and z."""
        targets = normalize_directions(steps) if self.normalize_targets else steps
        sigmas = standard_deviations(parameters[..., 3:])
        distances = (targets[:, None] - parameters[..., :3]) / sigmas
        return -(0.5 * distances.square() + sigmas.log()).sum(dim=-1) - 1.5 * math.log(2 * math.pi)

    def directions_from(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """Return the directions of steps that are drawn."""
        steps = parameters[..., :3] + standard_deviations(parameters[..., 3:]) * standard_normal(uniforms)
        return normalize_directions(steps)


class Gaussian(_Gaussians):
    """A Gaussian distribution of the step, with independent x, y and z. Loss: the negative log-likelihood.

    As in dwi_ml, its six parameters are the mean and the standard deviations; the most likely direction is that of the
    mean. A standard deviation is the exponential of its output, bounded smoothly by :data:`SIGMA_BOUNDS`.

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    normalize_targets
        Whether the target is the direction, of unit length, or the step itself, in voxels.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        normalize_targets: bool = False,
        add_eos: bool = False,
        eos_weight: float = 1.0,
    ) -> None:
        super().__init__(
            input_size,
            dropout=dropout,
            hidden_size=hidden_size,
            normalize_targets=normalize_targets,
            add_eos=add_eos,
            eos_weight=eos_weight,
        )


class GaussianMixture(_Gaussians):
    """A mixture of Gaussian distributions of the step (see :class:`Gaussian`).

    Bishop, "Mixture density networks", 1994. The most likely direction is taken to be that of the mean of the
    component with the highest weight.

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    nb_gaussians
        Number of components, from 2 to 1000.
    normalize_targets
        As in :class:`Gaussian`.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        nb_gaussians: int = 3,
        normalize_targets: bool = False,
        add_eos: bool = False,
        eos_weight: float = 1.0,
    ) -> None:
        super().__init__(
            input_size,
            dropout=dropout,
            hidden_size=hidden_size,
            normalize_targets=normalize_targets,
            add_eos=add_eos,
            eos_weight=eos_weight,
            nb_components=check_whole("dg_args: nb_gaussians", nb_gaussians, low=2, high=MAX_COMPONENTS),
        )


def standard_deviations(outputs: Tensor) -> Tensor:
    """Return the exponentials of outputs of any shape, bounded smoothly by :data:`SIGMA_BOUNDS`."""
    low, high = SIGMA_BOUNDS
    return low + (high - low) * torch.sigmoid(outputs - math.log(high))
