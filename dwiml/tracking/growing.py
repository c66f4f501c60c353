"""Streamlines during propagation, in tensors that are allocated once; later steps exclude ended streamlines."""

from __future__ import annotations

import torch
from torch import Tensor

from dwiml.ops.sequences import TensorSequence


class GrowingStreamlines:
    """Streamlines that a tracking algorithm extends point by point, thousands at once.

    All coordinates are in voxel space, corner origin, in the dtype and on the device of the first segments. Below, S is
    the number of streamlines and A the number of those that are still growing, in increasing order.

    Parameters
    ----------
    first_segments
        Points (N, 3) that the streamlines start with; each has at least one.
    max_steps
        Largest number of points that can be added to a streamline; memory is allocated for all of them.
    nb_recent
        Maximum number of points per streamline that :meth:`recent_points` returns, at least 2.

    Attributes
    ----------
    reasons
        Shape (S,), int64: why each streamline stopped, as given to :meth:`add`; 0 while it is growing.
    growing
        Shape (A,), int64: the indices of the streamlines that are still growing.
    """

    def __init__(self, first_segments: TensorSequence, *, max_steps: int, nb_recent: int) -> None:
        self._first = first_segments
        device, nb = first_segments.device, len(first_segments)
        self._added = first_segments.data.new_empty((nb, max_steps, 3))
        self._nb_added = torch.zeros(nb, dtype=torch.int64, device=device)
        self.reasons = torch.zeros(nb, dtype=torch.int64, device=device)
        self.growing = torch.arange(nb, device=device)
        self._nb_known = first_segments.lengths.clamp(max=nb_recent).to(device)
        # Right-aligned: the last point is the last column. Where a streamline has fewer points, its first is repeated.
        last = first_segments.offsets + first_segments.lengths - 1
        rows = torch.maximum(last[:, None] - torch.arange(nb_recent - 1, -1, -1), first_segments.offsets[:, None])
        self._recent = first_segments.data[rows.to(device)]

    @property
    def nb_growing(self) -> int:
        """Number of streamlines that are still growing (A)."""
        return len(self.growing)

    @property
    def last_points(self) -> Tensor:
        """Last point of each growing streamline: shape (A, 3), voxel space, corner origin."""
        return self._recent[:, -1]

    @property
    def last_steps(self) -> Tensor:
        """Step that led to each last point: shape (A, 3), in voxels; zeros for a streamline of one point."""
        return self._recent[:, -1] - self._recent[:, -2]

    def recent_points(self) -> TensorSequence:
        """Return the last points of each growing streamline: ``nb_recent`` points, or all if it has fewer.

        Returns
        -------
        TensorSequence
            A sequences of points, (M, 3), voxel space, corner origin.
        """
        nb_recent = self._recent.shape[1]
        known = torch.arange(nb_recent - 1, -1, -1, device=self._recent.device) < self._nb_known[:, None]
        return TensorSequence(self._recent[known], self._nb_known)

    def add(self, points: Tensor, reasons: Tensor) -> Tensor:
        """Add a point to the streamlines that continue, and stop the others.

        Parameters
        ----------
        points
            Shape (A, 3), voxel space, corner origin: the next point of each growing streamline. It is not added to a
            streamline that stops.
        reasons
            Shape (A,), int64: 0 for a streamline that continues, otherwise why it stops.

        Returns
        -------
        Tensor
            Shape (A',), int64: positions, among the A streamlines, of those that continue.
        """
        self.reasons[self.growing] = reasons
        kept = (reasons == 0).nonzero()[:, 0]
        self.growing = self.growing[kept]
        self._added[self.growing, self._nb_added[self.growing]] = points[kept]
        self._nb_added[self.growing] += 1
        self._recent = torch.cat([self._recent[kept, 1:], points[kept, None]], dim=1)
        self._nb_known = (self._nb_known[kept] + 1).clamp(max=self._recent.shape[1])
        return kept

    def streamlines(self) -> TensorSequence:
        """Return all streamlines: points (N, 3), voxel space, corner origin, including the first segments."""
        device, (nb, max_steps, _) = self._added.device, self._added.shape
        both = torch.stack([self._first.lengths.to(device), self._nb_added], dim=1)
        is_added = torch.tensor([False, True], device=device).repeat(nb).repeat_interleave(both.flatten())
        data = self._added.new_empty((len(is_added), 3))
        data[~is_added] = self._first.data
        data[is_added] = self._added[torch.arange(max_steps, device=device) < self._nb_added[:, None]]
        return TensorSequence(data, both.sum(dim=1))
