"""An autoencoder of whole streamlines."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dwiml.arguments import check_number, check_whole
from dwiml.models.base import MainModelAbstract
from dwiml.models.whole_streamlines.stacking import check_lengths, stacked
from dwiml.ops.ragged import run_rows
from dwiml.ops.sequences import TensorSequence

# Far above any trained size: a number from a damaged or untrusted file must not cause a large allocation.
_MAX_SIZE = 100_000
_MAX_LAYERS = 12
_MAX_MM = 1e6


class AutoencoderModel(MainModelAbstract):
    """A convolutional autoencoder of whole streamlines, without a volume.

    It is that of Legarreta et al., "Filtering in tractography using autoencoders (FINTA)", 2021, Medical Image Analysis
    72:102126, doi:10.1016/j.media.2021.102126. The encoder turns a streamline into a vector of the latent space, in
    which similar streamlines are close to each other; the decoder turns the vector into a streamline. The layers are
    those of ``ModelAE`` in dwi_ml 1.0: one-dimensional convolutions (3 points, reflected at the ends) that halve the
    number of points, a linear layer to the latent space and another one back, then convolutions followed by linear
    upsampling.

    The model receives scanner space (rasmm), so that a streamline is encoded alike whatever the voxel grid of its file.
    The subjects must therefore be registered to one space, such as MNI. In its layers, coordinates are
    ``(mm - center) / scale``.

    A streamline and its reverse are different to the model; train it with ``reverse_ratio=0.5`` of the batch loader.

    Parameters
    ----------
    nb_points
        Number of points of each streamline; a multiple of 2 ** (number of layers - 1), and at least twice that.
    latent_size
        Number of values that describe a streamline.
    nb_channels
        Number of channels of each convolution of the encoder; the decoder has them in reverse order.
    center
        Point, in mm in scanner space, that is 0 in the layers.
    scale
        Number of mm that is 1 in the layers: one number, or one for each axis (negative to flip it).
    experiment_name
        Name of the experiment that the model belongs to; recorded only.

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``nb_points`` does not suit the number of layers.
    """

    streamlines_space = "rasmm"
    same_nb_points = True
    nb_points: int
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        nb_points: int = 256,
        latent_size: int = 32,
        nb_channels: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        center: Sequence[float] = (0.0, 0.0, 0.0),
        scale: float | Sequence[float] = 100.0,
        experiment_name: str = "",
    ) -> None:
        super().__init__(experiment_name=experiment_name, nb_points=nb_points)
        channels = _checked_channels(nb_channels)
        self.latent_size = check_whole("latent_size", latent_size, low=1, high=_MAX_SIZE)
        self.register_buffer("center", torch.tensor(_three("center", center)), persistent=False)
        given = [scale] if isinstance(scale, numbers.Real) else list(scale)  # type: ignore[arg-type]
        sizes = _three("scale", given * 3 if len(given) == 1 else given)
        if 0 in sizes:
            raise ValueError(f"scale must be a number of mm other than 0, got {scale}.")
        self.register_buffer("scale", torch.tensor(sizes), persistent=False)
        halved = 2 ** (len(channels) - 1)
        if self.nb_points % halved or self.nb_points < 2 * halved:
            raise ValueError(
                f"nb_points must be a multiple of {halved}, and at least {2 * halved}, for the {len(channels)} layers "
                f"of nb_channels, got {self.nb_points}."
            )
        self._coded_shape = (channels[-1], self.nb_points // halved)
        size = channels[-1] * self._coded_shape[1]
        widths = [3, *channels]
        strides = [2] * (len(channels) - 1) + [1]
        self.encoder = nn.ModuleList(
            nn.Conv1d(before, after, 3, stride)
            for (before, after), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.to_latent = nn.Linear(size, self.latent_size)
        self.from_latent = nn.Linear(self.latent_size, size)
        self.decoder = nn.ModuleList(nn.Conv1d(before, after, 3) for before, after in pairwise(widths[::-1]))

    def forward(self, streamlines: TensorSequence) -> Tensor:
        """Encode and decode streamlines.

        Parameters
        ----------
        streamlines
            Points (S * nb_points, 3), rasmm, center origin, in mm; see :meth:`encode`.

        Returns
        -------
        Tensor
            The reconstructed points, shape (S, nb_points, 3), float32, rasmm, center origin, in mm.

        Raises
        ------
        ValueError
            If a streamline has another number of points.
        """
        return self._decoded(self.encode(streamlines))

    def encode(self, streamlines: TensorSequence) -> Tensor:
        """Return the vector of each streamline in the latent space.

        Parameters
        ----------
        streamlines
            S streamlines of :attr:`nb_points` points each, at equal distances along the curve
            (:func:`dwiml.ops.resampling.resample_nb_points`): points (S * nb_points, 3), floating-point, rasmm, center
            origin, in mm, on the device of the model. A single point is repeated ``nb_points`` times.

        Returns
        -------
        Tensor
            Shape (S, latent_size).

        Raises
        ------
        ValueError
            If a streamline has another number of points.
        """
        rows = stacked(streamlines, self.nb_points, type(self).__name__)
        values = ((rows - self.center) / self.scale).transpose(1, 2)
        for number, layer in enumerate(self.encoder, start=1):
            values = layer(_reflected(values))
            if number < len(self.encoder):
                values = torch.relu(values)
        latent: Tensor = self.to_latent(values.flatten(start_dim=1))
        return latent

    def decode(self, latent: Tensor) -> TensorSequence:
        """Return the streamlines of vectors of the latent space.

        Parameters
        ----------
        latent
            Shape (S, latent_size), on the device of the model.

        Returns
        -------
        TensorSequence
            S streamlines of :attr:`nb_points` points: (S * nb_points, 3), float32, rasmm, center origin, in mm.

        Raises
        ------
        ValueError
            If the vectors have another size.
        """
        if latent.ndim != 2 or latent.shape[1] != self.latent_size:
            raise ValueError(f"latent must have shape (S, {self.latent_size}), got {tuple(latent.shape)}.")
        lengths = torch.full((len(latent),), self.nb_points, dtype=torch.int64)
        return TensorSequence(self._decoded(latent).flatten(end_dim=1), lengths)

    def compute_loss(
        self, outputs: Tensor, targets: TensorSequence, average_results: bool = True
    ) -> tuple[Tensor, int]:
        """Return the mean squared distance, in mm^2, between the points of streamlines and their reconstructions.

        Parameters
        ----------
        outputs
            Shape (S, nb_points, 3), of :meth:`forward`.
        targets
            S streamlines: points (N, 3), rasmm, center origin, in mm.
        average_results
            Whether to return the mean over the points, or the squared distance at each point, (N,).

        Returns
        -------
        tuple
            The loss, and N. A streamline of a single point is compared with the first point of its reconstruction.

        Raises
        ------
        ValueError
            If a streamline has another number of points.
        """
        check_lengths(targets, self.nb_points, type(self).__name__)
        starts = torch.arange(len(targets)) * self.nb_points
        rows = torch.from_numpy(run_rows(starts.numpy(), targets.lengths.numpy()))
        rebuilt = outputs.flatten(end_dim=1).index_select(0, rows.to(outputs.device, non_blocking=True))
        losses = (rebuilt - targets.data).square().sum(dim=1)
        # A process may have no streamline of a batch.
        return (losses.sum() / max(len(losses), 1) if average_results else losses), len(losses)

    def _decoded(self, latent: Tensor) -> Tensor:
        values: Tensor = self.from_latent(latent).reshape(len(latent), *self._coded_shape)
        for number, layer in enumerate(self.decoder, start=1):
            values = layer(_reflected(values))
            if number < len(self.decoder):
                values = _upsampled(torch.relu(values))
        # Under autocast the layers return half precision, too coarse for coordinates in mm.
        values = values.to(torch.promote_types(values.dtype, self.scale.dtype))
        return values.transpose(1, 2) * self.scale + self.center


def _reflected(values: Tensor) -> Tensor:
    """Add one point at each end of (S, C, P), a reflection of the next one.

    The gradients of torch's own padding and upsampling on a GPU are not reproducible.
    """
    return torch.cat([values[..., 1:2], values, values[..., -2:-1]], dim=-1)


def _upsampled(values: Tensor) -> Tensor:
    """Double the number of points of (S, C, P) linearly, as ``torch.nn.Upsample`` does without ``align_corners``."""
    before = torch.cat([values[..., :1], values[..., :-1]], dim=-1)
    after = torch.cat([values[..., 1:], values[..., -1:]], dim=-1)
    both = torch.stack([0.25 * before + 0.75 * values, 0.75 * values + 0.25 * after], dim=-1)
    return both.flatten(start_dim=-2)


def _checked_channels(nb_channels: Any) -> list[int]:
    given = nb_channels if isinstance(nb_channels, Iterable) else [nb_channels]
    channels = [check_whole("nb_channels", each, low=1, high=_MAX_SIZE) for each in given]
    if not 2 <= len(channels) <= _MAX_LAYERS:
        raise ValueError(f"nb_channels must have 2 to {_MAX_LAYERS} numbers, one for each layer, got {len(channels)}.")
    return channels


def _three(name: str, values: Any) -> list[float]:
    given = values if isinstance(values, Iterable) else [values]
    checked = [check_number(name, each, low=-_MAX_MM, high=_MAX_MM) for each in given]
    if len(checked) != 3:
        raise ValueError(f"{name} must have three numbers, one for each axis, got {len(checked)}.")
    return checked
