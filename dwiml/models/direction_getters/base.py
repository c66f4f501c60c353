"""What all direction getters have: layers, losses, the most likely direction, and the end of the streamline (EOS)."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dwiml.arguments import check_dropout, check_number, check_whole
from dwiml.models.embeddings import MAX_UNITS
from dwiml.models.protocols import Allowed
from dwiml.ops.randomness import KeyedDraws
from dwiml.params import checks_arguments

NB_TRIES = 16
"""Directions drawn for each row by a continuous distribution; the first that is allowed is taken."""


class DirectionGetter(nn.Module, abc.ABC):
    """Two linear layers with ReLU between them, and a loss.

    Parameters
    ----------
    input_size
        Number of features of each row.
    dropout
        Probability that a hidden value is set to zero in training.
    hidden_size
        Number of units of the hidden layer; None: half of ``input_size``, rounded down, and at least 3.
    output_size
        Number of values of each output row, set by the subclass.
    """

    add_eos = False
    """Whether the output includes the end of the streamline (EOS), so that the last point is a target too."""

    has_distribution = False
    """Whether directions can be drawn (:meth:`sample`)."""

    def __init__(
        self, input_size: int, *, dropout: float = 0.0, hidden_size: int | None = None, output_size: int = 3
    ) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        dropout = check_dropout("dg_args: dropout", dropout)
        if hidden_size is None:
            hidden_size = max(input_size // 2, 3)
        hidden_size = check_whole("dg_args: hidden_size", hidden_size, low=1, high=MAX_UNITS)
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, output_size)
        )

    if TYPE_CHECKING:

        def __call__(self, features: Tensor) -> Tensor:
            """Return what :meth:`forward` returns; torch's own annotation is Any."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs of each row.

        Parameters
        ----------
        features
            Shape (N, input_size).

        Returns
        -------
        Tensor
            Shape (N, output_size).

        Raises
        ------
        ValueError
            If there is another number of features.
        """
        if features.shape[-1] != self.input_size:
            raise ValueError(
                f"The direction getter was built for {self.input_size} features (instantiate_direction_getter) and "
                f"received {features.shape[-1]}."
            )
        outputs: Tensor = self.layers(features)
        return outputs

    @abc.abstractmethod
    def losses(self, outputs: Tensor, steps: Tensor, ends: Tensor) -> Tensor:
        """Return the loss of each row.

        Parameters
        ----------
        outputs
            What :meth:`forward` returned, (N, output_size).
        steps
            Target steps, (N, 3), in voxels, along voxel axes, float32 or float64. The loss of a row with a step of
            zero that is not an end is not used.
        ends
            Shape (N,), bool: rows that are ends of streamlines. They have no direction: only their EOS is a target.

        Returns
        -------
        Tensor
            Shape (N,); NaN where a step is NaN.
        """

    @abc.abstractmethod
    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the most likely direction of each row of outputs: (N, 3), along voxel axes, unit length."""

    def sample(self, outputs: Tensor, draws: KeyedDraws, allowed: Allowed | None = None) -> Tensor:
        """Return a direction drawn from the distribution of each row.

        Parameters
        ----------
        outputs
            What :meth:`forward` returned, (N, output_size).
        draws
            Random numbers, with one key a row.
        allowed
            The directions that each row may take (:data:`dwiml.models.protocols.Allowed`); None: all.

        Returns
        -------
        Tensor
            Shape (N, 3), along voxel axes, unit length; zero where no direction that was drawn is allowed.

        Raises
        ------
        NotImplementedError
            If the direction getter has no distribution (:attr:`has_distribution`).
        """
        raise NotImplementedError(f"{type(self).__name__} gives one direction and no other.")

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the probability of the end of the streamline at each row, (N,); None without :attr:`add_eos`."""
        return None


class EOSLogitDirectionGetter(DirectionGetter):
    """A direction getter whose last output, with ``add_eos``, is the logit of the end of the streamline (EOS).

    The loss is that of the direction (0 at the end of a streamline), plus ``eos_weight`` times the binary
    cross-entropy of EOS at all points.

    Parameters
    ----------
    input_size, dropout, hidden_size
        As in :class:`DirectionGetter`.
    add_eos
        Whether EOS is predicted.
    eos_weight
        Weight of the loss of EOS.
    direction_size
        Number of outputs that describe the direction, set by the subclass.

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
        add_eos: bool = False,
        eos_weight: float = 1.0,
        direction_size: int = 3,
    ) -> None:
        super().__init__(
            input_size, dropout=dropout, hidden_size=hidden_size, output_size=direction_size + bool(add_eos)
        )
        self.direction_size = direction_size
        self.add_eos = bool(add_eos)
        self.eos_weight = check_number("dg_args: eos_weight", eos_weight, low=0)

    @abc.abstractmethod
    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the loss of the direction of each row.

        Parameters
        ----------
        outputs
            The first ``direction_size`` outputs, (N, direction_size), float32 or float64.
        steps
            As in :meth:`losses`. A step of zero must have a finite loss and gradient.

        Returns
        -------
        Tensor
            Shape (N,).
        """

    def losses(self, outputs: Tensor, steps: Tensor, ends: Tensor) -> Tensor:
        """Return the loss of each row: direction (0 at ends), and EOS."""
        losses = self.direction_losses(self.direction_outputs(outputs), steps)
        losses = torch.where(ends, torch.zeros_like(losses), losses)
        if not self.add_eos:
            return losses
        logits = outputs[:, -1].to(losses.dtype)
        eos = nn.functional.binary_cross_entropy_with_logits(logits, ends.to(losses.dtype), reduction="none")
        return losses + self.eos_weight * eos

    def direction_outputs(self, outputs: Tensor) -> Tensor:
        """Return the outputs that describe the direction, (N, direction_size), in float32 at least."""
        return outputs[:, : self.direction_size].to(torch.promote_types(outputs.dtype, torch.float32))

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the sigmoid of the last output, (N,)."""
        return outputs[:, -1].sigmoid() if self.add_eos else None
