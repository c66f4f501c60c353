"""A classifier of whole streamlines: is a streamline plausible?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dwiml.arguments import check_dropout, check_whole
from dwiml.models.inputs import ModelWithNeighborhood, ModelWithOneInput
from dwiml.models.whole_streamlines.stacking import stacked
from dwiml.ops.sequences import TensorSequence

# Far above any trained size: a number from a damaged or untrusted file must not cause a large allocation.
_MAX_SIZE = 100_000
_MAX_LAYERS = 12


class StreamlineClassifierModel(ModelWithNeighborhood, ModelWithOneInput):
    """Predicts the probability that a streamline is plausible, from its shape and the volume along it.

    It learns from streamlines of both kinds, with a value of each streamline in ``data_per_streamline`` that is 1 for
    plausible ones and 0 for the others, such as ``valid`` of ``dwiml curate --candidates``. Tracking can then discard,
    or replace, the streamlines that it rejects (:class:`dwiml.tracking.acceptance.Acceptance`).

    The input at each point and the step of the streamline there (in voxels, along voxel axes) go through a linear
    layer, then through one-dimensional convolutions (3 points) along the streamline, each of which, except the last,
    halves the number of points, and through two linear layers. The outputs for both orders of the points are averaged
    before the sigmoid, so that a streamline and its reverse have the same probability. Use the model on data with the
    voxel size of its training. Supervised classification of streamlines as plausible or not is that of Astolfi et al.,
    "Tractogram filtering of anatomically non-plausible fibers with geometric deep learning", MICCAI 2020,
    doi:10.1007/978-3-030-59728-3_29; the architecture here is different.

    Parameters
    ----------
    target_key
        Name of the data per streamline that is learned, from 0 (not plausible) to 1 (plausible).
    nb_points
        Number of points of each streamline; a multiple of 2 ** (number of layers - 1).
    point_size
        Number of values that describe a point, after the first layer.
    nb_channels
        Number of channels of each convolution.
    hidden_size
        Number of units of the layer before the last.
    dropout
        Probability that an input of the last two layers is set to zero, in training.
    **kwargs
        Parameters of the base classes: ``nb_features``, ``neighborhood_type``, ``input_embedding_key``, ...

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``nb_points`` does not suit the number of layers.
    """

    same_nb_points = True
    target_range = (0.0, 1.0)
    target_size = 1
    nb_points: int

    def __init__(
        self,
        *,
        target_key: str = "valid",
        nb_points: int = 32,
        point_size: int = 96,
        nb_channels: Sequence[int] = (128, 128, 128, 128),
        hidden_size: int = 128,
        dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(nb_points=nb_points, **kwargs)
        if not isinstance(target_key, str) or not target_key:
            raise ValueError(f"target_key must be the name of a data_per_streamline, got {target_key!r}.")
        self.target_key = target_key
        channels = [check_whole("nb_channels", each, low=1, high=_MAX_SIZE) for each in nb_channels]
        if not 2 <= len(channels) <= _MAX_LAYERS:
            raise ValueError(f"nb_channels must have 2 to {_MAX_LAYERS} numbers, one per layer, got {len(channels)}.")
        halved = 2 ** (len(channels) - 1)
        if self.nb_points % halved:
            raise ValueError(
                f"nb_points must be a multiple of {halved} for the {len(channels)} layers of nb_channels, got "
                f"{self.nb_points}."
            )
        point_size = check_whole("point_size", point_size, low=1, high=_MAX_SIZE)
        hidden_size = check_whole("hidden_size", hidden_size, low=1, high=_MAX_SIZE)
        dropout = check_dropout("dropout", dropout)
        self.point_layer = nn.Sequential(nn.Linear(self.embedded_input_size + 3, point_size), nn.ReLU())
        widths = [point_size, *channels]
        strides = [2] * (len(channels) - 1) + [1]
        layers = [
            nn.Sequential(nn.Conv1d(before, after, 3, stride, padding=1), nn.ReLU())
            for (before, after), stride in zip(pairwise(widths), strides, strict=True)
        ]
        self.convolutions = nn.Sequential(*layers)
        size = channels[-1] * (self.nb_points // halved)
        self.last_layers = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(size, hidden_size), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(hidden_size, 1)),
        )

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        """Return the log-odds that each streamline is plausible.

        Parameters
        ----------
        inputs
            Features (S * nb_points, P * F) at each point.
        streamlines
            S streamlines of :attr:`nb_points` points each, at equal distances along the curve
            (:func:`dwiml.ops.resampling.resample_nb_points`): points (S * nb_points, 3), voxel space, corner origin. A
            single point is repeated ``nb_points`` times.

        Returns
        -------
        Tensor
            Shape (S,): the probability is its sigmoid (:meth:`plausibility`).

        Raises
        ------
        ValueError
            If a streamline has another number of points.
        """
        features = stacked(streamlines.mapped(self.embed_inputs(inputs)), self.nb_points, type(self).__name__)
        directions = _directions(stacked(streamlines, self.nb_points, type(self).__name__)).to(features.dtype)
        outputs = self._one_way(features, directions)
        return (outputs + self._one_way(features.flip(1), -directions.flip(1))) / 2

    def plausibility(self, outputs: Tensor) -> Tensor:
        """Return the probability that each streamline is plausible, (S,), float32, from the outputs of `forward`."""
        return outputs.to(torch.float32).sigmoid()

    def compute_loss(
        self,
        outputs: Tensor,
        targets: TensorSequence,
        average_results: bool = True,
        *,
        values: Tensor | None = None,
        seen: TensorSequence | None = None,
        nb_recovery_steps: float = 1.0,
    ) -> tuple[Tensor, int]:
        """Return the binary cross-entropy of the predicted probabilities, in nats.

        Parameters
        ----------
        outputs
            Shape (S,), of :meth:`forward`.
        targets
            S streamlines; not used.
        average_results
            Whether to return the mean over the streamlines, or the loss of each, (S,).
        values
            Shape (S, 1), from 0 to 1: the data per streamline :attr:`target_key`. Required.
        seen, nb_recovery_steps
            Not used: a streamline that was displaced by correlated noise keeps its value.

        Returns
        -------
        tuple
            The loss, and S.

        Raises
        ------
        ValueError
            If there is not one value for each streamline.
        """
        if values is None or values.shape != (len(outputs), 1):
            got = "none" if values is None else str(tuple(values.shape))
            raise ValueError(
                f"The loss of {type(self).__name__} needs one value per streamline, shape ({len(outputs)}, 1), got "
                f"{got}."
            )
        wanted = values[:, 0].to(torch.promote_types(outputs.dtype, torch.float32))
        losses = nn.functional.binary_cross_entropy_with_logits(outputs.to(wanted.dtype), wanted, reduction="none")
        # A process may have no streamline of a batch.
        return (losses.sum() / max(len(losses), 1) if average_results else losses), len(losses)

    def _one_way(self, features: Tensor, directions: Tensor) -> Tensor:
        values = self.point_layer(torch.cat([features, directions], dim=-1)).transpose(1, 2)
        outputs: Tensor = self.last_layers(self.convolutions(values).flatten(start_dim=1))
        return outputs[:, 0]


def _directions(points: Tensor) -> Tensor:
    """Return half the difference between the points after and before each, of (S, P, 3); one-sided at the ends."""
    steps = points.diff(dim=1)
    return torch.cat([steps[:, :1], (steps[:, 1:] + steps[:, :-1]) / 2, steps[:, -1:]], dim=1)
