"""Direction getters: the last layers of a model, which turn its features into a direction and know their loss."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from dwiml.arguments import check_dropout, shown
from dwiml.ops.directions import SHORTEST_STEP, normalize_directions


class DirectionGetter(nn.Module, abc.ABC):
    """Two linear layers with ReLU between them, the first half as wide as its input; and a loss.

    Parameters
    ----------
    input_size
        Features of each row.
    dropout
        Share of the hidden values that are set to zero in training.
    """

    add_eos = False
    """Whether the output also says where streamlines end, so that the last point of each is a target too."""

    has_distribution = False
    """Whether there is more than one direction: whether :meth:`distribution` can be asked."""

    def __init__(self, input_size: int, *, dropout: float = 0.0, output_size: int = 3) -> None:
        super().__init__()
        self.output_size = output_size
        dropout = check_dropout("dg_args: dropout", dropout)
        hidden_size = max(input_size // 2, 3)
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, output_size)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Turn features of shape (N, input_size) into outputs of shape (N, output_size)."""
        outputs: Tensor = self.layers(features)
        return outputs

    @abc.abstractmethod
    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the loss of each row, (N,), for target steps of shape (N, 3), voxel space.

        A step of zero is an end of a streamline, where the direction getter has :attr:`add_eos`; else it never occurs.
        """

    @abc.abstractmethod
    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the likeliest direction of each row, (N, 3), voxel space, unit length."""

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return directions to choose from (C, 3), voxel space, unit length, and the probability of each (N, C)."""
        raise NotImplementedError(f"{type(self).__name__} gives one direction and no other.")

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the probability that the streamline ends at each row, (N,); None where that is not known."""
        return None


class CosineRegression(DirectionGetter):
    """A direction whose length means nothing. Loss: 1 - cos(angle), from 0 (right) over 1 (90 degrees) to 2."""

    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return 1 - cos of the angle between output and step."""
        return 1.0 - (normalize_directions(outputs) * normalize_directions(steps)).sum(dim=-1)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the outputs, normalized."""
        return normalize_directions(outputs)


class L2Regression(DirectionGetter):
    """A vector. Loss: its squared Euclidean distance to the target, summed over x, y and z.

    Parameters
    ----------
    input_size, dropout
        As in :class:`DirectionGetter`.
    normalize_targets
        Whether the target is the direction of unit length, or the step itself in voxels.
    """

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
    """Scores (logits) for directions spread over the sphere. Loss: the negative log-likelihood of the nearest one.

    Benou and Riklin Raviv, "DeepTract: A Probabilistic Deep Learning Framework for White Matter Fiber Tractography"
    (MICCAI 2019), the end of a streamline as a class of its own.

    Parameters
    ----------
    input_size, dropout
        As in :class:`DirectionGetter`.
    sphere
        One of DIPY's spheres, for instance ``"repulsion724"`` (about 7 degrees between neighbours) or
        ``"repulsion100"``.
    add_eos
        Whether to learn where streamlines end too: one more class.
    """

    has_distribution = True
    directions: Tensor
    """Shape (C, 3), voxel space, unit length."""

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
        """Return the negative log-likelihood of the class that is nearest to each step, or of the end."""
        classes = (normalize_directions(steps) @ self.directions.to(steps.dtype).T).argmax(dim=-1)
        if self.add_eos:
            ends = torch.linalg.vector_norm(steps, dim=-1) <= SHORTEST_STEP
            classes = torch.where(ends, len(self.directions), classes)
        losses = nn.functional.cross_entropy(outputs, classes, reduction="none")
        # A NaN has no nearest class, and must be named.
        return torch.where(steps.isnan().any(dim=-1), torch.nan, losses)

    def best_directions(self, outputs: Tensor) -> Tensor:
        """Return the direction with the highest score, whatever the end's."""
        return self.directions[outputs[:, : len(self.directions)].argmax(dim=-1)]

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions of the sphere, and their probabilities given that the streamline goes on."""
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
