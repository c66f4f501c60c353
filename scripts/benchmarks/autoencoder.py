"""A training step of the autoencoder, beside the same network as a plain ``torch.nn.Sequential``.

The batch loader gives the autoencoder streamlines of equal length, so both receive streamlines that are already
resampled: the baseline sees them as one stacked tensor, without a copy. Resampling is part of loading, which the
benchmarks of the loader measure. The layers have the same weights; only the padding and the upsampling differ, which
dwiml computes itself, so that training on a GPU is reproducible, and which are torch's in the baseline.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from measuring import Figure
from steps import Batch, compare_steps, prepare
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dwiml import AutoencoderModel, TensorSequence

LATENT_SIZE = 32


class PlainAutoencoder(nn.Module):
    """The network of a :class:`dwiml.AutoencoderModel`, in torch's layers, with default weights."""

    def __init__(self, nb_points: int, channels: tuple[int, ...], scale_mm: float) -> None:
        super().__init__()
        self.nb_points = nb_points
        self.scale_mm = scale_mm
        nb_coded = nb_points // 2 ** (len(channels) - 1)
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *channels)):
            stride = 1 if after == channels[-1] else 2
            layers += [nn.Conv1d(before, after, 3, stride, padding=1, padding_mode="reflect"), nn.ReLU()]
        layers[-1:] = [
            nn.Flatten(),
            nn.Linear(channels[-1] * nb_coded, LATENT_SIZE),
            nn.Linear(LATENT_SIZE, channels[-1] * nb_coded),
            nn.Unflatten(1, (channels[-1], nb_coded)),
        ]
        for before, after in pairwise((*reversed(channels), 3)):
            layers += [nn.Conv1d(before, after, 3, padding=1, padding_mode="reflect"), nn.ReLU()]
            layers += [nn.Upsample(scale_factor=2, mode="linear")]
        self.network = nn.Sequential(*layers[:-2])

    def forward(self, streamlines: TensorSequence) -> Tensor:
        """Return the reconstructed points, (S, nb_points, 3), in mm."""
        stacked = streamlines.data.view(-1, self.nb_points, 3)
        rebuilt: Tensor = self.network(stacked.transpose(1, 2) / self.scale_mm).transpose(1, 2) * self.scale_mm
        return rebuilt


def measure_autoencoder(name: str, *, quick: bool, device: torch.device) -> Figure:
    """Time a whole step on 2 threads of the CPU, or on a GPU; checks that both ways compute the same."""
    prepare(device, quick=quick)
    nb_streamlines, nb_points, channels = (20, 16, (4, 8, 16)) if quick else (500, 256, (32, 64, 128, 256, 512, 1024))
    torch.manual_seed(0)
    model = AutoencoderModel(nb_points=nb_points, latent_size=LATENT_SIZE, nb_channels=channels, scale=100.0)
    plain = PlainAutoencoder(nb_points, channels, 100.0)
    vector_to_parameters(parameters_to_vector(model.parameters()), plain.parameters())

    def batch_of(nb: int) -> Batch:
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(nb, nb_points, 3, generator=generator).cumsum(1).flatten(end_dim=1)
        streamlines = TensorSequence(points, torch.full((nb,), nb_points))
        return Batch((streamlines,), streamlines)

    return compare_steps(
        name,
        model.to(device),
        plain.to(device),
        batch_of,
        nb_streamlines,
        baseline="torch.nn.Sequential on one stacked tensor",
        device=device,
    )
