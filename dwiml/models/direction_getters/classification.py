"""Classification over the directions of a sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dwiml.arguments import check_number
from dwiml.models.direction_getters.base import DirectionGetter
from dwiml.models.protocols import Allowed
from dwiml.ops.directions import normalize_directions, pairwise_cosines, sphere_directions
from dwiml.ops.randomness import KeyedDraws
from dwiml.params import checks_arguments


class SphereClassification(DirectionGetter):
    """Classification over the directions of a sphere. Loss: the negative log-likelihood of the nearest direction.

    Benou and Riklin Raviv, "DeepTract: A Probabilistic Deep Learning Framework for White Matter Fiber Tractography",
    MICCAI 2019, doi:10.1007/978-3-030-32248-9_70, with the end of the streamline as a class of its own.

    Parameters
    ----------
    input_size, dropout, hidden_size
        As in :class:`DirectionGetter`.
    sphere
        One of DIPY's spheres, for instance ``"repulsion724"`` (about 7 degrees between neighbors) or
        ``"repulsion100"``.
    add_eos
        Whether the end of the streamline is one more class.

    Raises
    ------
    ValueError
        If the sphere is unknown, or an option is out of range.
    """

    has_distribution = True
    directions: Tensor
    """Shape (C, 3), float32, along voxel axes, unit length."""

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        sphere: str = "repulsion724",
        add_eos: bool = True,
    ) -> None:
        directions = sphere_directions(sphere, "dg_args: sphere must be")
        output_size = len(directions) + bool(add_eos)
        super().__init__(input_size, dropout=dropout, hidden_size=hidden_size, output_size=output_size)
        self.add_eos = bool(add_eos)
        self.register_buffer("directions", directions, persistent=False)

    def losses(self, outputs: Tensor, steps: Tensor, ends: Tensor) -> Tensor:
        """Return the negative log-likelihood of the direction nearest to each step, or of the end."""
        classes = pairwise_cosines(normalize_directions(steps), self.directions).argmax(dim=-1)
        if self.add_eos:
            classes = torch.where(ends, len(self.directions), classes)
        losses = nn.functional.cross_entropy(outputs, classes, reduction="none")
        return self._checked(losses, steps, ends)

    def _checked(self, losses: Tensor, steps: Tensor, ends: Tensor) -> Tensor:
        """Return the losses, 0 at ends that are not predicted, and NaN where a step is NaN: it has no class."""
        if not self.add_eos:
            losses = torch.where(ends, torch.zeros_like(losses), losses)
        return torch.where(steps.isnan().any(dim=-1), torch.nan, losses)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the direction with the highest score; the class of the end is not considered."""
        return self.directions[outputs[:, : len(self.directions)].argmax(dim=-1)]

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions of the sphere, and their probabilities given that the streamline continues.

        Parameters
        ----------
        outputs
            What :meth:`forward` returned, (N, output_size).

        Returns
        -------
        tuple
            Directions (C, 3), along voxel axes, unit length, and probabilities (N, C), with a sum of 1 in each row.
        """
        return self.directions, outputs[:, : len(self.directions)].softmax(dim=-1)

    def sample(self, outputs: Tensor, draws: KeyedDraws, allowed: Allowed | None = None) -> Tensor:
        """Return a direction drawn among those that are allowed, by inverse transform."""
        directions, probabilities = self.distribution(outputs)
        weights = probabilities.to(torch.float64)
        if allowed is not None:
            weights = weights * allowed(directions)
        sums = weights.cumsum(dim=1)
        total = sums[:, -1:]
        chosen = torch.searchsorted(sums, draws.uniform(0)[:, None] * total, right=True)[:, 0]
        # A draw just under 1 times the total may round to the total.
        last = (weights.shape[1] - 1) - weights.flip(1).gt(0).to(torch.int8).argmax(dim=1)
        return torch.where(total > 0, directions[torch.minimum(chosen, last)], 0.0)

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the probability of the end's class."""
        return outputs.softmax(dim=-1)[:, -1] if self.add_eos else None


class SmoothSphereClassification(SphereClassification):
    """Classification over the directions of a sphere, with soft labels.

    The label of a direction is a distribution over the sphere, proportional to exp(-angle / ``label_width``), with the
    angle to the target; that of the end is its class alone. Loss: the Kullback-Leibler divergence of the label
    from the prediction, KL(label || prediction), which differs from their cross-entropy by a constant. The labels are
    those of the code of Benou and Riklin Raviv (see :class:`SphereClassification`), with their width of 0.1 radian.

    Parameters
    ----------
    input_size, dropout, hidden_size, sphere, add_eos
        As in :class:`SphereClassification`.
    label_width
        In radians, at least 0.01.

    Raises
    ------
    ValueError
        If the sphere is unknown, or an option is out of range.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        dropout: float = 0.0,
        hidden_size: int | None = None,
        sphere: str = "repulsion724",
        label_width: float = 0.1,
        add_eos: bool = True,
    ) -> None:
        super().__init__(input_size, dropout=dropout, hidden_size=hidden_size, sphere=sphere, add_eos=add_eos)
        self.label_width = check_number("dg_args: label_width", label_width, low=0.01)

    def losses(self, outputs: Tensor, steps: Tensor, ends: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence of the label of each row from the prediction."""
        cosines = pairwise_cosines(normalize_directions(steps), self.directions)
        log_labels = (-cosines.clamp(-1, 1).acos() / self.label_width).log_softmax(dim=-1)
        scores = outputs.log_softmax(dim=-1)
        losses = (log_labels.exp() * (log_labels - scores[:, : len(self.directions)])).sum(dim=-1)
        if self.add_eos:
            losses = torch.where(ends, -scores[:, -1], losses)
        return self._checked(losses, steps, ends)
