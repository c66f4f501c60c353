"""Ragged sequences of rows: nibabel's ArraySequence, in torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_sequence

if TYPE_CHECKING:
    import numpy.typing as npt


class TensorSequence(Sequence[Tensor]):
    """Sequences of different lengths, kept as one flat tensor.

    It behaves as a list of tensors (``len``, iteration, ``seq[i]``, slices), and crosses processes and devices as two
    tensors however many sequences it holds.

    Parameters
    ----------
    data
        Shape (total_points, F): the rows of all sequences, one sequence after the other.
    lengths
        Shape (S,), integers: the number of rows of each sequence; their sum is total_points.

    Raises
    ------
    ValueError
        When the lengths do not add up to the number of rows, or are negative.
    """

    def __init__(self, data: Tensor, lengths: Tensor) -> None:
        if data.ndim != 2:
            raise ValueError(f"data must have shape (total_points, F), got {tuple(data.shape)}.")
        lengths = lengths.to(device="cpu", dtype=torch.int64)
        if lengths.ndim != 1 or int(lengths.sum()) != data.shape[0] or (len(lengths) and int(lengths.min()) < 0):
            raise ValueError(
                f"lengths must be counts that add up to the {data.shape[0]} rows of data, got {lengths.tolist()[:10]}."
            )
        self.data = data
        self.lengths = lengths

    @classmethod
    def from_list(cls, sequences: Iterable[Tensor]) -> TensorSequence:
        """Join tensors of shape (n_i, F); no tensor at all gives an empty (0, 3) sequence."""
        tensors = list(sequences)
        if not tensors:
            return cls(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
        return cls(torch.cat(tensors), torch.tensor([len(tensor) for tensor in tensors]))

    @classmethod
    def from_numpy(cls, points: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> TensorSequence:
        """Wrap flat arrays, sharing their memory where numpy's and torch's layouts agree."""
        return cls(torch.from_numpy(points), torch.from_numpy(np.asarray(lengths, dtype=np.int64)))

    @property
    def offsets(self) -> Tensor:
        """Shape (S,), int64: the row at which each sequence starts (always on the CPU, as the lengths)."""
        return torch.cumsum(self.lengths, dim=0) - self.lengths

    @property
    def total_points(self) -> int:
        """The number of rows of all sequences together."""
        return self.data.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.data.device

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.split())

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> TensorSequence: ...

    def __getitem__(self, index: int | slice) -> Tensor | TensorSequence:
        """Return a view of one sequence, or another TensorSequence for a slice (a view too when its step is 1)."""
        if isinstance(index, slice):
            return self._slice(index)
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"Sequence {index} asked for; there are {size}.")
        index %= size
        start = int(self.lengths[:index].sum())
        return self.data[start : start + int(self.lengths[index])]

    def _slice(self, index: slice) -> TensorSequence:
        start, stop, step = index.indices(len(self))
        if step == 1:
            first = int(self.lengths[:start].sum())
            lengths = self.lengths[start : max(start, stop)]
            return TensorSequence(self.data[first : first + int(lengths.sum())], lengths)
        chosen = [self[i] for i in range(start, stop, step)]
        return TensorSequence.from_list(chosen) if chosen else TensorSequence(self.data[:0], self.lengths[:0])

    def split(self) -> list[Tensor]:
        """Return the sequences as a list of views of shape (n_i, F)."""
        return list(torch.split(self.data, self.lengths.tolist()))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TensorSequence:
        """Return the sequences with their rows on another device."""
        if torch.device(device) == self.data.device:
            return self
        return self.mapped(self.data.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TensorSequence:
        """Return a copy in page-locked memory, from which a transfer to a GPU overlaps with its work."""
        return self.mapped(self.data.pin_memory())

    def mapped(self, data: Tensor) -> TensorSequence:
        """Return sequences of the same lengths that hold other rows, of shape (total_points, G)."""
        return TensorSequence(data, self.lengths)

    def sequence_ids(self) -> Tensor:
        """Shape (total_points,), int64, on the rows' device: the index of the sequence that each row belongs to."""
        ids = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        return ids.to(self.data.device, non_blocking=True)

    def _rows_but_last(self) -> Tensor:
        """Return the number of each row that is not its sequence's last, on the rows' device."""
        keep = torch.ones(self.total_points, dtype=torch.bool)
        ends = torch.cumsum(self.lengths, dim=0) - 1
        keep[ends[self.lengths > 0]] = False
        return keep.nonzero().squeeze(1).to(self.data.device, non_blocking=True)

    def trimmed_last(self) -> TensorSequence:
        """Return the sequences without their last row (an empty one stays empty)."""
        rows = self._rows_but_last()
        return TensorSequence(self.data.index_select(0, rows), (self.lengths - 1).clamp(min=0))

    def diff(self) -> TensorSequence:
        """Return the differences of consecutive rows: n - 1 rows a sequence, none for those of 0 or 1 row."""
        rows = self._rows_but_last()
        differences = self.data.index_select(0, rows + 1) - self.data.index_select(0, rows)
        return TensorSequence(differences, (self.lengths - 1).clamp(min=0))

    def select(self, ids: Tensor) -> TensorSequence:
        """Return some sequences, by number (S,) int64, in that order."""
        ids = ids.to("cpu")
        lengths = self.lengths[ids]
        shifts = torch.repeat_interleave(self.offsets[ids] - (torch.cumsum(lengths, 0) - lengths), lengths)
        rows = torch.arange(len(shifts)) + shifts
        return TensorSequence(self.data[rows.to(self.device)], lengths)

    def reversed(self) -> TensorSequence:
        """Return each sequence with its last row first."""
        ends = torch.repeat_interleave(2 * self.offsets + self.lengths - 1, self.lengths)
        rows = ends - torch.arange(self.total_points)
        return TensorSequence(self.data[rows.to(self.device)], self.lengths)

    def padded(self, fill: float = 0.0) -> Tensor:
        """Return a tensor of shape (S, longest length, F), filled after each sequence's end."""
        if not len(self):
            return self.data.new_zeros(0, 0, self.data.shape[1])
        return pad_sequence(self.split(), batch_first=True, padding_value=fill)

    def packed(self) -> PackedSequence:
        """Return torch's packed form, sorted by length. On the CPU its backward pass is slow: prefer ``padded``."""
        return torch.nn.utils.rnn.pack_sequence(self.split(), enforce_sorted=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return (TensorSequence, (self.data, self.lengths))

    def __repr__(self) -> str:
        return f"TensorSequence({len(self)} sequences, {self.total_points} rows of {self.data.shape[1]})"
