"""Continuous distributions of directions, with one component or several."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from dwiml.models.direction_getters.base import NB_TRIES, EOSLogitDirectionGetter
from dwiml.models.protocols import Allowed
from dwiml.ops.directions import normalize_directions
from dwiml.ops.randomness import KeyedDraws

MAX_COMPONENTS = 1000
"""Largest number of components."""


class MixtureDirectionGetter(EOSLogitDirectionGetter):
    """A mixture of distributions of one kind. Loss: the negative log-likelihood of the target.

    The outputs are the logits of the weights, (K,), if there is more than one component, then the parameters of each
    component, (K, P).

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    nb_components
        K, set by the subclass.
    """

    has_distribution = True
    nb_parameters: int
    """P: number of outputs that describe a component; the first three are its mean."""
    nb_uniforms: int
    """Number of uniform numbers from which a component draws a direction."""

    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        add_eos: bool = False,
        eos_weight: float = 1.0,
        nb_components: int = 1,
    ) -> None:
        nb_weights = nb_components if nb_components > 1 else 0
        super().__init__(
            input_size,
            dropout=dropout,
            hidden_size=hidden_size,
            add_eos=add_eos,
            eos_weight=eos_weight,
            direction_size=nb_weights + nb_components * self.nb_parameters,
        )
        self.nb_components = nb_components

    @abc.abstractmethod
    def log_densities(self, parameters: Tensor, steps: Tensor) -> Tensor:
        """Return the logarithm of the density of each component at the target.

        Parameters
        ----------
        parameters
            Shape (N, K, P).
        steps
            Target steps, (N, 3), in voxels.

        Returns
        -------
        Tensor
            Shape (N, K).
        """

    @abc.abstractmethod
    def directions_from(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """Return the directions that uniform numbers draw, by inverse transform.

        Parameters
        ----------
        parameters
            Parameters of a component for each direction, (N, T, P), float64.
        uniforms
            Shape (N, T, nb_uniforms), float64, in [0, 1).

        Returns
        -------
        Tensor
            Shape (N, T, 3), along voxel axes, unit length, float64.
        """

    def components(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of the weights, (N, K), and the parameters, (N, K, P).

        Parameters
        ----------
        outputs
            The outputs that describe the direction, (N, direction_size).
        """
        nb = self.nb_components
        if nb == 1:
            return outputs.new_zeros(len(outputs), 1), outputs[:, None]
        return outputs[:, :nb].log_softmax(dim=1), outputs[:, nb:].reshape(-1, nb, self.nb_parameters)

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the negative log-likelihood of each target."""
        log_weights, parameters = self.components(outputs)
        return -(log_weights + self.log_densities(parameters, steps)).logsumexp(dim=1)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the mean of the component with the highest weight, normalized."""
        log_weights, parameters = self.components(self.direction_outputs(outputs))
        best = log_weights.argmax(dim=1)[:, None, None].expand(-1, 1, 3)
        return normalize_directions(parameters[..., :3].gather(1, best)[:, 0])

    def sample(self, outputs: Tensor, draws: KeyedDraws, allowed: Allowed | None = None) -> Tensor:
        """Return the first of :data:`NB_TRIES` directions that is allowed (rejection sampling); zero if none is."""
        nb_tries = 1 if allowed is None else NB_TRIES
        several = int(self.nb_components > 1)
        per_try = self.nb_uniforms + several
        # In float64: a direction must not depend on how many rows are computed together.
        log_weights, parameters = self.components(self.direction_outputs(outputs).to(torch.float64))
        uniforms = draws.uniforms(nb_tries * per_try).reshape(-1, nb_tries, per_try)
        if several:
            sums = log_weights.exp().cumsum(dim=1)[:, None]
            component = (sums[..., :-1] <= uniforms[..., :1] * sums[..., -1:]).sum(dim=2, keepdim=True)
            parameters = parameters.gather(1, component.expand(-1, -1, self.nb_parameters))
        else:
            parameters = parameters.expand(-1, nb_tries, -1)
        directions = self.directions_from(parameters, uniforms[..., several:])
        directions = directions.to(torch.promote_types(outputs.dtype, torch.float32))
        if allowed is None:
            return directions[:, 0]
        accepted = allowed(directions)
        first = accepted.to(torch.int8).argmax(dim=1)[:, None, None].expand(-1, 1, 3)
        return torch.where(accepted.any(dim=1, keepdim=True), directions.gather(1, first)[:, 0], 0.0)
