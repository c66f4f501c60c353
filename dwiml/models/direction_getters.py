"""Direction getters: the last layers of a model, which turn its features into a direction and know their loss."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dwiml.arguments import shown
from dwiml.models.base import MainModelAbstract
from dwiml.models.checks import check_dropout, check_key
from dwiml.ops.directions import SHORTEST, normalize_directions
from dwiml.ops.sequences import TensorSequence


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

    def __init__(self, input_size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        dropout = check_dropout("dg_args: dropout", dropout)
        hidden_size = max(input_size // 2, 3)
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, 3)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Turn features of shape (N, input_size) into outputs of shape (N, 3)."""
        outputs: Tensor = self.layers(features)
        return outputs

    @abc.abstractmethod
    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the loss of each row, (N,), for target steps of shape (N, 3), voxel space, never zero."""


class CosineRegression(DirectionGetter):
    """A direction whose length means nothing. Loss: 1 - cos(angle), from 0 (right) over 1 (90 degrees) to 2."""

    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return 1 - cos of the angle between output and step."""
        return 1.0 - (normalize_directions(outputs) * normalize_directions(steps)).sum(dim=-1)


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
        super().__init__(input_size, dropout=dropout)
        self.normalize_targets = normalize_targets

    def losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        """Return the squared distance between output and target."""
        targets = normalize_directions(steps) if self.normalize_targets else steps
        return (outputs - targets).square().sum(dim=-1)


DIRECTION_GETTERS: dict[str, type[CosineRegression] | type[L2Regression]] = {
    "cosine-regression": CosineRegression,
    "l2-regression": L2Regression,
}


class ModelWithDirectionGetter(MainModelAbstract):
    """Ends with a direction getter, and so has a loss and can track.

    A child calls :meth:`instantiate_direction_getter` in its constructor, once it knows the size of its last layer,
    and ``self.direction_getter(features)`` at the end of its forward.

    Parameters
    ----------
    dg_key
        'cosine-regression' or 'l2-regression'.
    dg_args
        Options of the direction getter: ``dropout`` (both), ``normalize_targets`` (l2).

    Raises
    ------
    ValueError
        When the key or an option is unknown.
    """

    direction_getter: DirectionGetter

    def __init__(
        self, *, dg_key: str = "cosine-regression", dg_args: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_key("dg_key", dg_key, DIRECTION_GETTERS)
        if dg_args is not None and not isinstance(dg_args, Mapping):
            raise ValueError(f"dg_args must be a dict of options such as {{'dropout': 0.1}}, got {shown(dg_args)}.")
        allowed = list(inspect.signature(DIRECTION_GETTERS[dg_key]).parameters)[1:]
        unknown = sorted(set(dg_args or {}) - set(allowed), key=str)
        if unknown:
            raise ValueError(f"dg_args of {dg_key!r} has no option {unknown[0]!r}; it has: {allowed}.")
        self.dg_key = dg_key
        self.dg_args = dict(dg_args or {})

    def instantiate_direction_getter(self, input_size: int) -> None:
        """Build :attr:`direction_getter` for features of that size."""
        self.direction_getter = DIRECTION_GETTERS[self.dg_key](input_size, **self.dg_args)

    @property
    def layers_by_point(self) -> list[nn.Module]:
        """The direction getter, and those of the other parents."""
        return [*super().layers_by_point, self.direction_getter]

    @property
    def forward_uses_last_point(self) -> bool:
        """Whether the direction getter learns where streamlines end; regression does not."""
        return self.direction_getter.add_eos

    def compute_loss(
        self, outputs: Tensor, targets: TensorSequence, average_results: bool = True
    ) -> tuple[Tensor, int]:
        """Compare the outputs with the directions that the streamlines took.

        A repeated point gives no direction: its row has loss 0 and is left out of the mean. It still counts in n,
        since to know how many there are would make the host wait for the GPU.

        Parameters
        ----------
        outputs
            Shape (sum(max(n_i - 1, 0)), 3): one row for each step, streamline after streamline.
        targets
            The points of the streamlines, shape (sum(n_i), 3), voxel space.
        average_results
            Whether to return the mean or the loss of each row.

        Returns
        -------
        tuple
            The mean loss (0-d; 0 for an empty batch) or the losses (rows,), and the number of rows.

        Raises
        ------
        ValueError
            When there is not one output a step.
        """
        steps = targets.diff().data
        if outputs.shape != steps.shape:
            raise ValueError(
                f"The outputs have shape {tuple(outputs.shape)}, the targets have {len(steps)} directions (one less "
                "than points a streamline): give the model the streamlines without their last point."
            )
        valid = torch.linalg.vector_norm(steps, dim=-1) > SHORTEST
        # Whatever the model computes in, angles need the digits of the targets.
        losses = self.direction_getter.losses(outputs.to(steps.dtype), steps)
        losses = torch.where(valid | steps.isnan().any(dim=-1), losses, torch.zeros_like(losses))
        if not average_results:
            return losses, len(losses)
        return losses.sum() / valid.sum().clamp(min=1), len(losses)

    def get_tracking_directions(self, outputs: Tensor, algo: str, eos_stopping_thresh: float | None = None) -> Tensor:
        """Return the direction in which to track on.

        Parameters
        ----------
        outputs
            Shape (N, 3).
        algo
            'det'. Regression gives one direction and no distribution to draw from.
        eos_stopping_thresh
            None: regression does not say where streamlines end.

        Returns
        -------
        Tensor
            Shape (N, 3), voxel space, unit length.

        Raises
        ------
        ValueError
            When the direction getter cannot do what is asked.
        """
        if algo != "det":
            raise ValueError(f"{self.dg_key!r} gives one direction, so algo must be 'det', got {algo!r}.")
        if eos_stopping_thresh is not None:
            raise ValueError(
                f"{self.dg_key!r} does not say where streamlines end: eos_stopping_thresh must be None, "
                f"got {eos_stopping_thresh}."
            )
        return normalize_directions(outputs)
