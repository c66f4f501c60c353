"""Seeds of streamlines: points that depend only on a random seed and on their own number."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwiml.arguments import check_choice, check_whole, grouped
from dwiml.ops.masks import border_voxels
from dwiml.ops.randomness import check_seed, draw_seed, keyed_generator, keyed_uniform
from dwiml.params import checks_arguments

PLACEMENTS = ("random", "center")
"""Placements of a point in its voxel."""
SEEDINGS = ("volume", "interface")
"""Which voxels of the mask have seeds."""

_VOXEL, _FIRST_AXIS = 0, 1
# The number of a seed in a voxel combines the index of the voxel (high bits) and its index in the voxel (low bits).
_BITS_WITHIN = 32


@checks_arguments
class Seeds:
    """Starting points of streamlines, computed on demand and not stored.

    With ``total``, point i is a function of (seed, i) and the mask: the first points stay the same if more are
    requested. With ``per_voxel``, point i of a voxel is a function of (seed, voxel, i): it depends neither on the rest
    of the mask nor on the number per voxel.

    Parameters
    ----------
    mask
        Shape (X, Y, Z), bool: the voxels in which seeds are placed.
    per_voxel
        Number of starting points in each voxel of the mask; voxels are in C order (z varies fastest).
    total
        Number of starting points in total, each in a voxel of the mask drawn uniformly with replacement.
    placement
        ``"random"``: uniform in the voxel; ``"center"``: at its center.
    seeding
        ``"volume"``: in all voxels of the mask; ``"interface"``: in its border voxels only, which share a face with a
        voxel outside the mask or with the edge of the volume.
    seed
        Random seed, from 0 to 2**63 - 1; None: drawn, see the attribute.

    Attributes
    ----------
    seed
        The seed, drawn or given.
    per_voxel
        Number of starting points per voxel; None if the total number was given.
    placement
        Where in its voxel a point is.
    seeding
        In which voxels of the mask the points are.

    Raises
    ------
    ValueError
        If the mask is empty, not bool or not 3D, when a number is below 1, or unless exactly one of ``per_voxel`` and
        ``total`` is given.
    """

    def __init__(
        self,
        mask: Tensor | NDArray[np.bool_],
        *,
        per_voxel: int | None = None,
        total: int | None = None,
        placement: str = "random",
        seeding: str = "volume",
        seed: int | None = None,
    ) -> None:
        if (per_voxel is None) == (total is None):
            raise ValueError(
                "Give either the number of seeds per voxel or the total number, "
                f"got {per_voxel} per voxel and {total} in total."
            )
        if placement not in PLACEMENTS:
            raise ValueError(f"placement must be 'random' or 'center', got {placement!r}.")
        self.per_voxel = None if per_voxel is None else check_whole("per_voxel", per_voxel, low=1)
        self.placement = placement
        self.seeding = check_choice("seeding", seeding, SEEDINGS)
        self._voxels = _voxels_of(mask, seeding)
        self._shape: tuple[int, ...] = tuple(mask.shape)
        if self.per_voxel is None:
            self._nb = check_whole("total", total, low=1)
        else:
            self._nb = self.per_voxel * len(self._voxels)
        if (self.per_voxel or 0) >= 2**_BITS_WITHIN or self._nb >= 2**63:
            raise ValueError(f"{grouped(self._nb)} seeds are too many to be numbered; request fewer.")
        checked = check_seed(seed)
        self.seed = draw_seed() if checked is None else checked
        # Independent of the draws of the streamlines, which have the same seed and keys.
        self._stream = int(keyed_generator(self.seed, "tracking seeds").integers(2**63))

    def __len__(self) -> int:
        return self._nb

    def keys(self, start: int, stop: int) -> Tensor:
        """Return the key of each point: a unique number on which the draws of its streamline can depend.

        With ``total`` it is the point's number, with ``per_voxel`` it combines the voxel and the number within it.

        Parameters
        ----------
        start, stop
            The points, as in a slice.

        Returns
        -------
        Tensor
            Shape (K,), int64, on the mask's device.
        """
        numbers = self._numbers(start, stop)
        if self.per_voxel is None:
            return numbers
        return (self._voxels_under(numbers) << _BITS_WITHIN) | (numbers % self.per_voxel)

    def points(self, start: int, stop: int) -> Tensor:
        """Return some of the points.

        Parameters
        ----------
        start, stop
            The points, as in a slice.

        Returns
        -------
        Tensor
            Shape (K, 3), float32, voxel space, corner origin, on the mask's device: in voxel i, coordinates are in
            [i, i + 1).
        """
        voxels = self._voxels_under(self._numbers(start, stop))
        _, size_y, size_z = self._shape
        corners = torch.stack([voxels // (size_y * size_z), voxels // size_z % size_y, voxels % size_z], dim=1)
        if self.placement == "center":
            return corners.to(torch.float32) + 0.5
        keys = self.keys(start, stop)
        within = [keyed_uniform(self._stream, keys, _FIRST_AXIS + axis) for axis in range(3)]
        points = (corners + torch.stack(within, dim=1)).to(torch.float32)
        # Rounding to float32 may reach the next voxel.
        return torch.minimum(points, torch.nextafter((corners + 1).to(torch.float32), corners.to(torch.float32)))

    def _numbers(self, start: int, stop: int) -> Tensor:
        numbers = range(self._nb)[start:stop]
        return torch.arange(
            numbers.start, max(numbers.stop, numbers.start), dtype=torch.int64, device=self._voxels.device
        )

    def _voxels_under(self, numbers: Tensor) -> Tensor:
        """Return the voxel, as its index in the flat volume, of each numbered point."""
        if self.per_voxel is not None:
            return self._voxels[numbers // self.per_voxel]
        drawn = keyed_uniform(self._stream, numbers, _VOXEL) * len(self._voxels)
        return self._voxels[drawn.to(torch.int64)]


def _voxels_of(mask: Tensor | NDArray[np.bool_], seeding: str) -> Tensor:
    """Return the voxels of a mask that have seeds, as their indices in the flat volume, in C order."""
    kind = str(mask.dtype).removeprefix("torch.")
    if kind != "bool" or mask.ndim != 3:
        raise ValueError(f"A seeding mask must be bool of shape (X, Y, Z), got {kind} of shape {tuple(mask.shape)}.")
    # A copy: torch warns about arrays that cannot be written.
    volume = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    if seeding == "interface":
        volume = torch.from_numpy(border_voxels(volume.cpu().numpy())).to(volume.device)
    voxels = volume.reshape(-1).nonzero()[:, 0]
    if not len(voxels):
        raise ValueError(
            f"The seeding mask, {' x '.join(map(str, volume.shape))} voxels, is empty: it has no voxel for a seed."
        )
    if volume.numel() >= 2 ** (63 - _BITS_WITHIN):
        raise ValueError(
            f"A seeding mask of {grouped(volume.numel())} voxels is too large: its voxels cannot be numbered."
        )
    return voxels
