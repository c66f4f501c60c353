"""Filter streamlines by their distance, in the latent space of an autoencoder, to reference streamlines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dwiml.arguments import check_number
from dwiml.evaluation.latent_space import Lengths, Points, encode_streamlines
from dwiml.models.whole_streamlines.autoencoder import AutoencoderModel

# Distances computed at once.
_AT_ONCE = 2**22
# Latent vectors are equal up to float32 rounding if they differ by less than this share of their norm.
_ROUNDING = 1e-5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentReference:
    """Reference streamlines in the latent space of an autoencoder, each of them in both directions.

    The method is FINTA (Legarreta et al., 2021, doi:10.1016/j.media.2021.102126): a streamline whose nearest reference
    is close in the latent space is plausible. A patent application on it is pending (US 17/337,413). The result does
    not depend on the direction in which a streamline is stored: its distance is the smallest one of both directions.

    Attributes
    ----------
    model
        The autoencoder.
    latents
        Shape (2, R, latent_size), float32: the R reference streamlines, and their reverses.

    Raises
    ------
    ValueError
        If there is no reference streamline.
    """

    model: AutoencoderModel
    latents: torch.Tensor

    def __post_init__(self) -> None:
        if not self.latents.shape[1]:
            raise ValueError("There is no reference streamline; give a reference tractogram with streamlines.")

    @classmethod
    def from_streamlines(
        cls,
        model: AutoencoderModel,
        points: Points,
        lengths: Lengths,
        *,
        batch_size: int = 1000,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> LatentReference:
        """Encode the reference streamlines; the parameters are those of :func:`encode_streamlines`."""
        latents = _in_both_directions(model, points, lengths, batch_size, on_progress)
        return cls(model, latents)

    def distances(
        self,
        points: Points,
        lengths: Lengths,
        *,
        batch_size: int = 1000,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> NDArray[np.float64]:
        """Return the distance of each streamline to the nearest reference streamline.

        Parameters
        ----------
        points, lengths, batch_size, on_progress
            As in :func:`~dwiml.evaluation.latent_space.encode_streamlines`.

        Returns
        -------
        array of shape (S,), float64
            Euclidean distances in the latent space, which has no unit.

        Raises
        ------
        ValueError
            If a shape is wrong, a streamline has no points, or a coordinate is NaN or infinite.
        """
        latents = _in_both_directions(self.model, points, lengths, batch_size, on_progress)
        return _nearer(nearest_distances(latents.flatten(end_dim=1), self.latents.flatten(end_dim=1)))

    def own_distances(self) -> NDArray[np.float64]:
        """Return the distance of each reference streamline to the nearest other one.

        Returns
        -------
        array of shape (R,), float64
            Euclidean distances in the latent space. The streamline itself and its reverse are left out.

        Raises
        ------
        ValueError
            If there is only one reference streamline.
        """
        nb = self.latents.shape[1]
        if nb == 1:
            raise ValueError(
                "There is a single reference streamline, which has no other one near it: give a threshold."
            )
        rows, names = self.latents.flatten(end_dim=1), np.tile(np.arange(nb), 2)
        return _nearer(nearest_distances(rows, rows, names=names))

    def threshold_at(self, quantile: float) -> float:
        """Return this quantile of the distances between each reference streamline and its nearest other one.

        A reference streamline that is there twice has a distance of 0, which makes the threshold too low. A warning
        gives the number of such streamlines.

        Parameters
        ----------
        quantile
            From 0 to 1.

        Raises
        ------
        ValueError
            If it is out of range, or there is only one reference streamline.
        """
        check_number("quantile", quantile, low=0, high=1)
        distances, norms = self.own_distances(), torch.linalg.vector_norm(self.latents.double(), dim=2)
        nb = int(np.count_nonzero(distances <= _ROUNDING * norms.mean(dim=0).cpu().numpy()))
        if nb:
            logger.warning(
                "%d of the %d reference streamlines are the same as another one, so the threshold is too low; remove "
                "the duplicates.",
                nb,
                len(distances),
            )
        return float(np.quantile(distances, quantile))


def nearest_distances(
    points: torch.Tensor, references: torch.Tensor, *, names: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return the Euclidean distance of each point to the nearest reference.

    Parameters
    ----------
    points
        Shape (P, F), floating-point.
    references
        Shape (R, F), floating-point, R at least 1.
    names : (P,) int64, optional
        If the references are the points themselves: points of the same name are not compared.

    Returns
    -------
    array of shape (P,), float64
        Distances, in the unit of the points.
    """
    # The middle is subtracted because the expanded square below is less precise far from 0.
    middle = references.double().mean(dim=0)
    all_rows, others = points.double() - middle, references.double() - middle
    squares, labels = others.square().sum(dim=1), None if names is None else torch.from_numpy(names)
    found = [torch.zeros(0, dtype=torch.float64)]
    step = max(_AT_ONCE // len(others), 1)
    for start in range(0, len(all_rows), step):
        rows = all_rows[start : start + step]
        # |a - b|^2 without |a|^2, which does not change which reference is the nearest.
        apart = torch.addmm(squares, rows, others.T, alpha=-2.0)
        if labels is not None:
            apart.masked_fill_(labels[start : start + step, None] == labels, torch.inf)
        nearest = others[apart.argmin(dim=1)]
        found.append(torch.linalg.vector_norm(rows - nearest, dim=1))
    return torch.cat(found).numpy()


def _nearer(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smaller distance of the two directions, (S,), from those of one and then the other, (2 * S,)."""
    forward, backward = np.split(distances, 2)
    nearer: NDArray[np.float64] = np.minimum(forward, backward)
    return nearer


def _in_both_directions(
    model: AutoencoderModel,
    points: Points,
    lengths: Lengths,
    batch_size: int,
    on_progress: Callable[[int], None],
) -> torch.Tensor:
    """Return the latent vectors of streamlines and of their reverses, shape (2, S, latent_size)."""
    forward = encode_streamlines(model, points, lengths, batch_size=batch_size, on_progress=on_progress)
    backward = encode_streamlines(model, points, lengths, batch_size=batch_size, reverse=True)
    return torch.stack([forward, backward])
