"""Sequences of similar length, padded together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dwiml.ops import ragged

# Lengths in a bucket differ by at most this factor: on average about 10% of the rows are padding.
_GROWTH = 1.25
# Shorter sequences share one bucket.
_SHORT = 16


@dataclass(frozen=True)
class Bucket:
    """Consecutive sequences, in the order of :class:`LengthBuckets`, padded to the longest of them.

    Attributes
    ----------
    rows
        Their rows among all sorted rows.
    shape
        Number of sequences (B), and of rows of the longest (L).
    slots
        Place of each row in the padded (B * L) rows, int64; None: all sequences have L rows.
    """

    rows: slice
    shape: tuple[int, int]
    slots: Tensor | None

    def pad(self, rows: Tensor) -> Tensor:
        """Return the bucket's rows of all sorted rows (N, H, D) as (B, H, L, D), with zeros after each sequence."""
        own = rows[self.rows]
        if self.slots is not None:
            nb, longest = self.shape
            own = own.new_zeros(nb * longest, *own.shape[1:]).index_copy(0, self.slots, own)
        return own.view(*self.shape, *own.shape[1:]).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """Return padded rows (B, H, L, D) as the bucket's rows, (n, H, D)."""
        flat = padded.transpose(1, 2).flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


class LengthBuckets:
    """The sequences of a batch, sorted by length and grouped.

    Parameters
    ----------
    lengths
        Shape (S,), int64, on the CPU: the number of rows of each sequence.
    device
        Where the rows are.

    Attributes
    ----------
    lengths, longest
        The lengths, and the largest one; 0 without sequences.
    order
        Shape (S,), int64, on the CPU: the sequences from the shortest to the longest.
    positions
        Shape (N,), int64: the position of each sorted row in its sequence.
    buckets
        The groups; sequences without a row are in none.
    """

    def __init__(self, lengths: Tensor, device: torch.device) -> None:
        self.lengths = lengths
        self.longest = int(lengths.max()) if len(lengths) else 0
        self.order = torch.argsort(lengths, stable=True)
        self._device = device
        sorted_lengths = lengths[self.order].numpy()
        rows = ragged.run_rows(ragged.offsets(lengths.numpy())[self.order.numpy()], sorted_lengths)
        is_sorted = bool((rows == np.arange(len(rows))).all())
        self._rows = None if is_sorted else self._on_device(rows)
        self._back = None if is_sorted else self._on_device(np.argsort(rows))
        self.positions = self._on_device(ragged.positions(sorted_lengths))
        self.buckets = self._grouped(sorted_lengths)

    @property
    def nb_places(self) -> int:
        """Number of rows of all buckets, once they are padded."""
        return sum(nb * longest for nb, longest in (bucket.shape for bucket in self.buckets))

    def sort(self, rows: Tensor) -> Tensor:
        """Return rows (N, ...) of the sequences in the order given as rows of the sorted sequences."""
        return rows if self._rows is None else rows.index_select(0, self._rows)

    def unsort(self, rows: Tensor) -> Tensor:
        """Return rows (N, ...) of the sorted sequences as rows of the sequences in the order given."""
        return rows if self._back is None else rows.index_select(0, self._back)

    def _grouped(self, lengths: np.ndarray) -> list[Bucket]:
        borders = ragged.borders(lengths)
        size_class = np.floor(np.log(np.maximum(lengths, _SHORT)) / np.log(_GROWTH))
        size_class[lengths == 0] = -1
        starts = [0, *(np.flatnonzero(np.diff(size_class)) + 1).tolist(), len(lengths)]
        buckets = []
        for start, stop in pairwise(starts):
            longest = int(lengths[stop - 1]) if stop > start else 0
            if longest == 0:
                continue
            own = lengths[start:stop]
            slots = ragged.run_rows(np.arange(stop - start) * longest, own)
            full = len(slots) == (stop - start) * longest
            rows = slice(int(borders[start]), int(borders[stop]))
            buckets.append(Bucket(rows, (stop - start, longest), None if full else self._on_device(slots)))
        return buckets

    def _on_device(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self._device, non_blocking=True)
