"""The streamlines that are being grown: all in tensors made once, those that have ended left out of every step."""

from __future__ import annotations

import torch
from torch import Tensor

from dwiml.ops.sequences import TensorSequence


class GrowingLines:
    """Streamlines of which some still grow.

    Parameters
    ----------
    first_segments
        What they begin with, at least one point each, voxel space.
    most_steps
        How many points may be added to one.
    nb_recent
        How many of the last points :meth:`recent` gives, at least 2.
    """

    def __init__(self, first_segments: TensorSequence, *, most_steps: int, nb_recent: int) -> None:
        self._first = first_segments
        device, nb = first_segments.device, len(first_segments)
        self._added = first_segments.data.new_empty((nb, most_steps, 3))
        self._nb_added = torch.zeros(nb, dtype=torch.int64, device=device)
        self.reasons = torch.zeros(nb, dtype=torch.int64, device=device)
        self.alive = torch.arange(nb, device=device)
        self._nb_known = first_segments.lengths.clamp(max=nb_recent).to(device)
        # Right-aligned: the last point is the last column. Where a streamline has fewer points, its first is repeated.
        last = first_segments.offsets + first_segments.lengths - 1
        rows = torch.maximum(last[:, None] - torch.arange(nb_recent - 1, -1, -1), first_segments.offsets[:, None])
        self._recent = first_segments.data[rows.to(device)]

    @property
    def nb_alive(self) -> int:
        """How many still grow."""
        return len(self.alive)

    @property
    def last_points(self) -> Tensor:
        """Shape (A, 3): the last point of each that grows, voxel space."""
        return self._recent[:, -1]

    @property
    def last_steps(self) -> Tensor:
        """Shape (A, 3): the step that led to the last point of each that grows, in voxels; zero where there is none."""
        return self._recent[:, -1] - self._recent[:, -2]

    def recent(self) -> TensorSequence:
        """Return the last points of each that grows, as many as are asked for or as there are."""
        nb_recent = self._recent.shape[1]
        known = torch.arange(nb_recent - 1, -1, -1, device=self._recent.device) < self._nb_known[:, None]
        return TensorSequence(self._recent[known], self._nb_known)

    def add(self, points: Tensor, reasons: Tensor) -> Tensor:
        """Add a point to those that go on, and leave out those that have ended.

        Parameters
        ----------
        points
            Shape (A, 3), voxel space.
        reasons
            Shape (A,), int64: 0 for those that go on.

        Returns
        -------
        Tensor
            The numbers, among those that grew, of those that go on.
        """
        self.reasons[self.alive] = reasons
        kept = (reasons == 0).nonzero()[:, 0]
        self.alive = self.alive[kept]
        self._added[self.alive, self._nb_added[self.alive]] = points[kept]
        self._nb_added[self.alive] += 1
        self._recent = torch.cat([self._recent[kept, 1:], points[kept, None]], dim=1)
        self._nb_known = (self._nb_known[kept] + 1).clamp(max=self._recent.shape[1])
        return kept

    def joined(self) -> TensorSequence:
        """Return the first segments, each followed by the points that were added to it."""
        device, (nb, most_steps, _) = self._added.device, self._added.shape
        both = torch.stack([self._first.lengths.to(device), self._nb_added], dim=1)
        is_added = torch.tensor([False, True], device=device).repeat(nb).repeat_interleave(both.flatten())
        data = self._added.new_empty((len(is_added), 3))
        data[~is_added] = self._first.data
        data[is_added] = self._added[torch.arange(most_steps, device=device) < self._nb_added[:, None]]
        return TensorSequence(data, both.sum(dim=1))
