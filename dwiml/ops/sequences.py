"""Ragged sequences of rows, like the ArraySequence of nibabel, for torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_sequence

from dwiml.ops import ragged

if TYPE_CHECKING:
    import numpy.typing as npt


class TensorSequence(Sequence[Tensor]):
    """Sequences of different lengths, kept as one flat tensor.

    It can be used as a list of tensors (``len``, iteration, ``seq[i]``, slices). Only two tensors are transferred
    between processes or devices, whatever the number of sequences.

    Parameters
    ----------
    data
        Shape (total_points, F): the rows of all sequences, one sequence after the other.
    lengths
        Shape (S,), integers: the number of rows of each sequence; their sum is total_points.

    Raises
    ------
    ValueError
        If `data` is not 2D, or the lengths are negative or do not add up to the number of rows.
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
        """Concatenate tensors of shape (n_i, F); an empty list gives zero sequences, with data of shape (0, 3).

        Raises
        ------
        RuntimeError
            If the tensors differ in F or in their device.
        """
        tensors = list(sequences)
        if not tensors:
            return cls(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
        return cls(torch.cat(tensors), torch.tensor([len(tensor) for tensor in tensors]))

    @classmethod
    def from_numpy(cls, points: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> TensorSequence:
        """Create sequences from flat arrays: `points` (total_points, F), whose memory is shared, and `lengths` (S,).

        Raises
        ------
        ValueError
            If the lengths are invalid, as in the constructor.
        """
        return cls(torch.from_numpy(points), torch.from_numpy(np.asarray(lengths, dtype=np.int64)))

    @property
    def offsets(self) -> Tensor:
        """Shape (S,), int64: the row at which each sequence starts (always on the CPU, like the lengths)."""
        return torch.cumsum(self.lengths, dim=0) - self.lengths

    @property
    def total_points(self) -> int:
        """The total number of rows."""
        return self.data.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
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
        """Return a sequence (a view), or a TensorSequence for a slice (a view if its step is 1).

        Raises
        ------
        IndexError
            If there is no such sequence.
        """
        if isinstance(index, slice):
            return self._slice(index)
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"Sequence {index} is out of range: there are {size} sequences.")
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
        """Return a copy in page-locked memory, whose transfer to a GPU can overlap with computation."""
        return self.mapped(self.data.pin_memory())

    def mapped(self, data: Tensor) -> TensorSequence:
        """Return sequences with the same lengths and other rows, `data` of shape (total_points, G).

        Raises
        ------
        ValueError
            If the number of rows differs.
        """
        return TensorSequence(data, self.lengths)

    def sequence_ids(self) -> Tensor:
        """Return the index of the sequence that each row belongs to.

        Returns
        -------
        Tensor
            Shape (total_points,), int64, on the device of the rows.
        """
        return self._on_device(ragged.sequence_ids(self.lengths))

    def positions(self) -> Tensor:
        """Return the position of each row in its sequence, 0 for the first row.

        Returns
        -------
        Tensor
            Shape (total_points,), int64, on the device of the rows.
        """
        return self._on_device(ragged.positions(self.lengths))

    def positions_from_end(self) -> Tensor:
        """Return the position of each row counted from the end of its sequence, 0 for the last row.

        Returns
        -------
        Tensor
            Shape (total_points,), int64, on the device of the rows.
        """
        return self._on_device(ragged.positions_from_end(self.lengths))

    def is_first(self) -> Tensor:
        """Return which rows are the first of their sequence: shape (total_points,), bool, on the device of the rows."""
        return self.positions() == 0

    def is_last(self) -> Tensor:
        """Return which rows are the last of their sequence: shape (total_points,), bool, on the device of the rows."""
        return self.positions_from_end() == 0

    def first_points(self) -> Tensor:
        """Return the first row of each sequence, shape (S, F).

        Raises
        ------
        ValueError
            If a sequence has no row.
        """
        self._check_none_empty("first")
        return self.data.index_select(0, self._on_device(ragged.first_rows(self.lengths)))

    def last_points(self) -> Tensor:
        """Return the last row of each sequence, shape (S, F).

        Raises
        ------
        ValueError
            If a sequence has no row.
        """
        self._check_none_empty("last")
        return self.data.index_select(0, self._on_device(ragged.last_rows(self.lengths)))

    def head(self, nb: int | Tensor) -> TensorSequence:
        """Return the first rows of each sequence, or all of its rows if it has fewer.

        Parameters
        ----------
        nb
            Number of rows, at least 0: one number for all sequences, or shape (S,), integers, one for each.

        Returns
        -------
        TensorSequence
            S sequences of rows of shape (F,).
        """
        counts = torch.minimum(self.lengths, torch.as_tensor(nb, device="cpu"))
        return self._runs(self.offsets, counts)

    def tail(self, nb: int | Tensor) -> TensorSequence:
        """Return the last rows of each sequence, or all of its rows if it has fewer.

        Parameters
        ----------
        nb
            Number of rows, at least 0: one number for all sequences, or shape (S,), integers, one for each.

        Returns
        -------
        TensorSequence
            S sequences of rows of shape (F,).
        """
        counts = torch.minimum(self.lengths, torch.as_tensor(nb, device="cpu"))
        return self._runs(self.offsets + self.lengths - counts, counts)

    def rows_but_last(self) -> Tensor:
        """Return the numbers of all rows except the last of each sequence: the rows at which :meth:`diff` starts.

        Returns
        -------
        Tensor
            Shape (sum(max(n_i - 1, 0)),), int64, increasing, on the device of the rows.
        """
        return self._on_device(ragged.run_rows(self.offsets, (self.lengths - 1).clamp(min=0)))

    def trimmed_last(self) -> TensorSequence:
        """Return the sequences without their last row (an empty sequence stays empty)."""
        return self.head((self.lengths - 1).clamp(min=0))

    def diff(self) -> TensorSequence:
        """Return the differences between consecutive rows, as rows of shape (F,) in the unit of the data.

        A sequence of n rows gives n - 1 differences, and none if n is 0.
        """
        rows = self.rows_but_last()
        differences = self.data.index_select(0, rows + 1) - self.data.index_select(0, rows)
        return TensorSequence(differences, (self.lengths - 1).clamp(min=0))

    def select(self, ids: Tensor) -> TensorSequence:
        """Return some sequences, in a given order.

        Parameters
        ----------
        ids
            Shape (K,), int64, on any device: numbers of the sequences, from 0 to S - 1; repeats are allowed.

        Returns
        -------
        TensorSequence
            K sequences of rows of shape (F,).

        Raises
        ------
        IndexError
            If a number is out of range.
        """
        ids = ids.to("cpu")
        return self._runs(self.offsets[ids], self.lengths[ids])

    def joined(self, other: TensorSequence) -> TensorSequence:
        """Return each sequence, (n_i, F), followed by the rows of the same one of another TensorSequence, (m_i, F).

        Raises
        ------
        ValueError
            If the two differ in their number of sequences.
        """
        if len(other) != len(self):
            raise ValueError(f"Only as many sequences can be joined: got {len(self)} and {len(other)}.")
        rows = torch.cat([self.data, other.data])
        order = torch.argsort(torch.cat([self.sequence_ids(), other.sequence_ids()]), stable=True)
        return TensorSequence(rows.index_select(0, order), self.lengths + other.lengths)

    def reversed(self) -> TensorSequence:
        """Return the sequences with their rows in reverse order."""
        return self.mapped(self.data.index_select(0, self._on_device(ragged.reversed_rows(self.lengths))))

    def _runs(self, starts: Tensor, lengths: Tensor) -> TensorSequence:
        """Return runs of consecutive rows as sequences."""
        return TensorSequence(self.data.index_select(0, self._on_device(ragged.run_rows(starts, lengths))), lengths)

    def _on_device(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Copy row numbers from the CPU to the device of the rows, without waiting for the device."""
        return torch.from_numpy(rows).to(self.device, non_blocking=True)

    def _check_none_empty(self, which: str) -> None:
        if not bool(self.lengths.all()):
            empty = int((self.lengths == 0).nonzero()[0])
            raise ValueError(f"Sequence {empty} of {len(self)} has no row, so it has no {which} point; remove it.")

    def padded(self, fill: float = 0.0) -> Tensor:
        """Return a tensor of shape (S, longest length, F), with `fill` after the end of each sequence."""
        if not len(self):
            return self.data.new_zeros(0, 0, self.data.shape[1])
        return pad_sequence(self.split(), batch_first=True, padding_value=fill)

    def packed(self) -> PackedSequence:
        """Return torch's packed sequence, sorted by length. Its backward pass is slow on a CPU: prefer ``padded``."""
        return torch.nn.utils.rnn.pack_sequence(self.split(), enforce_sorted=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return (TensorSequence, (self.data, self.lengths))

    def __repr__(self) -> str:
        return f"TensorSequence({len(self)} sequences, {self.total_points} rows of {self.data.shape[1]})"
