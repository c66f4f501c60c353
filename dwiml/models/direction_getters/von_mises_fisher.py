"""Von Mises-Fisher distributions of the direction."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import check_number, check_whole
from dwiml.models.direction_getters.mixture import MAX_COMPONENTS, MixtureDirectionGetter
from dwiml.ops.directions import normalize_directions
from dwiml.params import checks_arguments

MAX_KAPPA = 1e5
"""Largest concentration: a standard deviation of 0.2 degrees around the mean."""

# Below, the closed forms lose digits: series are used.
_SMALL_KAPPA = 0.1


class _VonMisesFishers(MixtureDirectionGetter):
    """What :class:`FisherVonMises` and :class:`FisherVonMisesMixture` share."""

    nb_parameters = 4
    nb_uniforms = 2

    def __init__(self, input_size: int, *, entropy_weight: float, expected_cosine: bool, **options: Any) -> None:
        super().__init__(input_size, **options)
        self.entropy_weight = check_number("dg_args: entropy_weight", entropy_weight, low=0)
        self.expected_cosine = bool(expected_cosine)
        if self.expected_cosine and self.entropy_weight == 0:
            raise ValueError("dg_args: expected_cosine needs a positive entropy_weight: concentrations have no limit.")

    def log_densities(self, parameters: Tensor, steps: Tensor) -> Tensor:
        """Return the log-densities on the unit sphere, per steradian."""
        kappas = concentrations(parameters[..., 3])
        means, targets = normalize_directions(parameters[..., :3]), normalize_directions(steps)[:, None]
        # kappa * (1 - cos): without the digits that 1 - cos loses.
        return log_peak_density(kappas) - 0.5 * kappas * (means - targets).square().sum(dim=-1)

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the negative log-likelihood (or the expected 1 - cos), minus the weighted entropy."""
        if self.entropy_weight == 0:
            return super().direction_losses(outputs, steps)
        log_weights, parameters = self.components(outputs)
        weights, kappas = log_weights.exp(), concentrations(parameters[..., 3])
        if self.expected_cosine:
            cosines = (normalize_directions(parameters[..., :3]) * normalize_directions(steps)[:, None]).sum(dim=-1)
            losses = 1.0 - (weights * mean_cosine(kappas) * cosines).sum(dim=1)
        else:
            losses = super().direction_losses(outputs, steps)
        return losses - self.entropy_weight * (weights * entropy(kappas)).sum(dim=1)

    def directions_from(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """Return directions around the means.

        The cosine w of the angle to the mean has an exact inverse distribution function on the sphere in three
        dimensions, w = 1 + log(u + (1 - u) exp(-2 kappa)) / kappa (Ulrich, "Computer generation of distributions on
        the m-sphere", 1984, doi:10.2307/2347441; Wood, "Simulation of the von Mises Fisher distribution", 1994,
        doi:10.1080/03610919408813161), and the angle around the mean is uniform.
        """
        means, kappas = normalize_directions(parameters[..., :3]), concentrations(parameters[..., 3]).clamp(min=1e-12)
        away = -((1.0 - uniforms[..., 0]) * torch.expm1(-2.0 * kappas)).log1p() / kappas
        away = away.clamp(0.0, 2.0)
        angles = 2.0 * math.pi * uniforms[..., 1]
        radii = (away * (2.0 - away)).sqrt()
        first, second = _perpendicular(means)
        across = first * (radii * angles.cos())[..., None] + second * (radii * angles.sin())[..., None]
        return normalize_directions(means * (1.0 - away)[..., None] + across)


class FisherVonMises(_VonMisesFishers):
    """A von Mises-Fisher distribution of the direction. Loss: the negative log-likelihood of the target.

    Its density on the sphere is kappa / (4 pi sinh(kappa)) exp(kappa cos(angle to the mean)); its four parameters are
    the mean, which is normalized, and the logarithm of the concentration kappa, bounded smoothly by
    :data:`MAX_KAPPA`.

    With an entropy weight T, the loss is -log p - T H, with the entropy H of the distribution. Wegmayr and Buhmann
    ("Entrack: Probabilistic Spherical Regression with Entropy Regularization for Fiber Tractography", 2021,
    doi:10.1007/s11263-020-01384-1) minimize the expected cost instead of -log p: ``expected_cosine`` gives their loss,
    1 - W(kappa) cos(angle to the mean) - T H, where W(kappa) = coth(kappa) - 1 / kappa is the length of the mean of the
    distribution. The 1 is added so that the expected cost is 0 at best; the entropy term may make the loss negative.

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    entropy_weight
        T, 0 or more: temperature of the entropy regularization.
    expected_cosine
        Whether the expected 1 - cos(angle to the target) replaces -log p; only with a positive ``entropy_weight``.

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
        entropy_weight: float = 0.0,
        expected_cosine: bool = False,
        add_eos: bool = False,
        eos_weight: float = 1.0,
    ) -> None:
        super().__init__(
            input_size,
            dropout=dropout,
            hidden_size=hidden_size,
            entropy_weight=entropy_weight,
            expected_cosine=expected_cosine,
            add_eos=add_eos,
            eos_weight=eos_weight,
        )


class FisherVonMisesMixture(_VonMisesFishers):
    """A mixture of von Mises-Fisher distributions of the direction (see :class:`FisherVonMises`).

    The most likely direction is taken to be the mean of the component with the highest weight. The entropy of a
    mixture has no closed form: the weighted mean of the entropies of its components, a lower bound, is used.

    Parameters
    ----------
    input_size, dropout, hidden_size, add_eos, eos_weight
        As in :class:`EOSLogitDirectionGetter`.
    nb_clusters
        Number of components, from 2 to 1000.
    entropy_weight, expected_cosine
        As in :class:`FisherVonMises`.

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
        nb_clusters: int = 3,
        entropy_weight: float = 0.0,
        expected_cosine: bool = False,
        add_eos: bool = False,
        eos_weight: float = 1.0,
    ) -> None:
        super().__init__(
            input_size,
            dropout=dropout,
            hidden_size=hidden_size,
            entropy_weight=entropy_weight,
            expected_cosine=expected_cosine,
            add_eos=add_eos,
            eos_weight=eos_weight,
            nb_components=check_whole("dg_args: nb_clusters", nb_clusters, low=2, high=MAX_COMPONENTS),
        )


def concentrations(outputs: Tensor) -> Tensor:
    """Return the exponentials of outputs of any shape, bounded smoothly by :data:`MAX_KAPPA`."""
    return MAX_KAPPA * torch.sigmoid(outputs - math.log(MAX_KAPPA))


def log_peak_density(kappas: Tensor) -> Tensor:
    """Return the logarithm of the von Mises-Fisher density at its mean, log(kappa / (2 pi (1 - exp(-2 kappa)))).

    Parameters
    ----------
    kappas
        Concentrations, any shape, 0 or more.

    Returns
    -------
    Tensor
        Same shape, per steradian; from -log(4 pi), on the whole sphere, when kappa is 0.
    """
    small, large = _small_and_large(kappas)
    squared = small.square()
    # log(sinh(kappa) / kappa)
    series = squared / 6.0 - squared.square() / 180.0 + squared**3 / 2835.0
    near_0 = small - math.log(2.0) - series
    return torch.where(kappas < _SMALL_KAPPA, near_0, (large / -torch.expm1(-2.0 * large)).log()) - math.log(
        2 * math.pi
    )


def mean_cosine(kappas: Tensor) -> Tensor:
    """Return the expected cosine of the angle to the mean, coth(kappa) - 1 / kappa, same shape, from 0 to 1."""
    small, large = _small_and_large(kappas)
    series = small / 3.0 - small**3 / 45.0 + 2.0 * small**5 / 945.0
    decay = torch.exp(-2.0 * large)
    return torch.where(kappas < _SMALL_KAPPA, series, 1.0 + 2.0 * decay / (1.0 - decay) - 1.0 / large)


def entropy(kappas: Tensor) -> Tensor:
    """Return the entropy of von Mises-Fisher distributions, in nats, same shape; at most log(4 pi)."""
    small, large = _small_and_large(kappas)
    decay = torch.exp(-2.0 * large)
    # kappa (1 - mean cosine), the expected decrease of the log-density from its peak.
    decrease = torch.where(
        kappas < _SMALL_KAPPA, small * (1.0 - mean_cosine(small)), 1.0 - 2.0 * large * decay / (1.0 - decay)
    )
    return decrease - log_peak_density(kappas)


def _small_and_large(kappas: Tensor) -> tuple[Tensor, Tensor]:
    """Return arguments for the series and for the closed form; where() alone would let NaN through the gradient."""
    return kappas.clamp(max=_SMALL_KAPPA), kappas.clamp(min=_SMALL_KAPPA)


def _perpendicular(units: Tensor) -> tuple[Tensor, Tensor]:
    """Return two vectors that form an orthonormal basis with each unit vector, both (..., 3).

    Duff et al., "Building an orthonormal basis, revisited", 2017 (JCGT 6(1)).
    """
    x, y, z = units.unbind(dim=-1)
    sign = torch.copysign(torch.ones_like(z), z)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = torch.stack([1.0 + sign * x.square() * a, sign * b, -sign * x], dim=-1)
    return first, torch.stack([b, sign + y.square() * a, -y], dim=-1)
