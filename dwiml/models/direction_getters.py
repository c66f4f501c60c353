"""Direction getters: the last layers of a model, which predict a direction, and their loss functions."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from dwiml.arguments import check_dropout, shown
from dwiml.ops.directions import SHORTEST_STEP, normalize_directions
from dwiml.params import checks_arguments


class DirectionGetter(nn.Module, abc.ABC):
    """Two linear layers with ReLU between them, the hidden one half as wide as the input, and a loss.

    Parameters
    ----------
    input_size
        Number of features of each row.
    dropout
        Probability that a hidden value is set to zero in training.
    output_size
        Number of values of each output row, set by the subclass.
    """

    add_eos = False
    """Whether the output includes the end of the streamline (EOS), so that the last point is a target too."""

    has_distribution = False
    """Whether there is a distribution of directions (:meth:`distribution`)."""

    def __init__(self, input_size: int, *, dropout: float = 0.0, output_size: int = 3) -> None:
        super().__init__()
        self.output_size = output_size
        dropout = check_dropout("dg_args: dropout", dropout)
        hidden_size = max(input_size // 2, 3)
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, output_size)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs, (N, output_size), for features of shape (N, input_size)."""
        outputs: Tensor = self.layers(features)
        return outputs

    @abc.abstractmethod
    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the loss of each row.

        Parameters
        ----------
        outputs
            What :meth:`forward` returned, (N, output_size).
        steps
            Target steps, (N, 3), in voxels, same dtype. With :attr:`add_eos`, a step of zero is the end of a
            streamline; otherwise the loss of such a row is not used.

        Returns
        -------
        Tensor
            Shape (N,).
        """

    @abc.abstractmethod
    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the most likely direction of each row of outputs: (N, 3), along voxel axes, unit length."""

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the possible directions and their probabilities at each row.

        Parameters
        ----------
        outputs
            What :meth:`forward` returned, (N, output_size).

        Returns
        -------
        tuple
            Directions (C, 3), along voxel axes, unit length, and probabilities (N, C), with a sum of 1 in each row.

        Raises
        ------
        NotImplementedError
            For a direction getter without :attr:`has_distribution`.
        """
        raise NotImplementedError(f"{type(self).__name__} gives one direction and no other.")

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the probability of the end of the streamline at each row, (N,); None without :attr:`add_eos`."""
        return None


class CosineRegression(DirectionGetter):
    """Regression of a direction; its length is ignored. Loss: 1 - cos(angle to the target), from 0 to 2 (opposite).

    Parameters
    ----------
    input_size, dropout
        As in :class:`DirectionGetter`.
    """

    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return 1 - cos of the angle between output and step."""
        return 1.0 - (normalize_directions(outputs) * normalize_directions(steps)).sum(dim=-1)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the outputs, normalized."""
        return normalize_directions(outputs)


class L2Regression(DirectionGetter):
    """Regression of a vector. Loss: the squared Euclidean distance to the target, summed over x, y and z.

    Parameters
    ----------
    input_size, dropout
        As in :class:`DirectionGetter`.
    normalize_targets
        Whether the target is the direction, of unit length, or the step itself, in voxels.
    """

    @checks_arguments
    def __init__(self, input_size: int, *, dropout: float = 0.0, normalize_targets: bool = True) -> None:
        if not isinstance(normalize_targets, bool):
            raise ValueError(f"dg_args: normalize_targets must be True or False, got {shown(normalize_targets)}.")
        super().__init__(input_size, dropout=dropout)
        self.normalize_targets = normalize_targets

    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the squared distance between output and target."""
        targets = normalize_directions(steps) if self.normalize_targets else steps
        return (outputs - targets).square().sum(dim=-1)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the outputs, normalized."""
        return normalize_directions(outputs)


class SphereClassification(DirectionGetter):
    """Classification over the directions of a sphere. Loss: the negative log-likelihood of the nearest direction.

    Benou and Riklin Raviv, "DeepTract: A Probabilistic Deep Learning Framework for White Matter Fiber Tractography",
    MICCAI 2019, doi:10.1007/978-3-030-32248-9_70, with the end of the streamline as a class of its own.

    Parameters
    ----------
    input_size, dropout
        As in :class:`DirectionGetter`.
    sphere
        One of DIPY's spheres, for instance ``"repulsion724"`` (about 7 degrees between neighbors) or
        ``"repulsion100"``.
    add_eos
        Whether the end of the streamline is one more class.

    Raises
    ------
    ValueError
        When the sphere is unknown, or an option is out of range.
    """

    has_distribution = True
    directions: Tensor
    """Shape (C, 3), float32, along voxel axes, unit length."""

    @checks_arguments
    def __init__(
        self, input_size: int, *, dropout: float = 0.0, sphere: str = "repulsion724", add_eos: bool = True
    ) -> None:
        directions = _directions_of(sphere)
        if not isinstance(add_eos, bool):
            raise ValueError(f"dg_args: add_eos must be True or False, got {shown(add_eos)}.")
        super().__init__(input_size, dropout=dropout, output_size=len(directions) + add_eos)
        self.add_eos = add_eos
        self.register_buffer("directions", directions, persistent=False)

    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the negative log-likelihood of the direction nearest to each step, or of the end."""
        classes = (normalize_directions(steps) @ self.directions.to(steps.dtype).T).argmax(dim=-1)
        if self.add_eos:
            ends = torch.linalg.vector_norm(steps, dim=-1) <= SHORTEST_STEP
            classes = torch.where(ends, len(self.directions), classes)
        losses = nn.functional.cross_entropy(outputs, classes, reduction="none")
        # A NaN has no nearest class; it must be noticed.
        return torch.where(steps.isnan().any(dim=-1), torch.nan, losses)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the direction with the highest score; the class of the end is not considered."""
        return self.directions[outputs[:, : len(self.directions)].argmax(dim=-1)]

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions of the sphere, and their probabilities given that the streamline continues."""
        return self.directions, outputs[:, : len(self.directions)].softmax(dim=-1)

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the probability of the end's class."""
        return outputs.softmax(dim=-1)[:, -1] if self.add_eos else None


def _directions_of(sphere: str) -> Tensor:
    """Return the vertices of one of DIPY's spheres, (C, 3)."""
    from dipy.data import DataError, get_sphere

    try:
        vertices = get_sphere(name=sphere).vertices
    except (DataError, TypeError) as error:
        raise ValueError(
            f"dg_args: sphere must be one of DIPY's, such as 'repulsion724' or 'repulsion100', got {shown(sphere)}."
        ) from error
    return normalize_directions(torch.from_numpy(vertices).to(torch.float32))


DIRECTION_GETTERS: dict[str, type[CosineRegression] | type[L2Regression] | type[SphereClassification]] = {
    "cosine-regression": CosineRegression,
    "l2-regression": L2Regression,
    "sphere-classification": SphereClassification,
}
