"""Stacked recurrent layers over sequences of different lengths, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dwiml.arguments import check_choice, check_dropout, check_sizes
from dwiml.models.embeddings import ACTIVATIONS, MAX_UNITS
from dwiml.models.recurrent.cells import RaggedGRU, RaggedLSTM
from dwiml.ops import ragged
from dwiml.params import checks_arguments

HiddenStates = list[tuple[Tensor, ...]]
"""For each layer (h,) of a GRU or (h, c) of an LSTM, each of shape (S, layer size), in the order of the streamlines."""

SEQUENCES_PER_THREAD = 64
"""Minimum number of sequences for which a separate thread is worthwhile."""

RNN_LAYERS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class TimeMajor:
    """Time-major order of rows: step 0 of all sequences, then step 1, the longest sequence first.

    With one group it is the order of torch's ``PackedSequence``. With several, sequences are distributed round-robin,
    longest first, and each group has its own block of rows in that order.

    Parameters
    ----------
    lengths
        Shape (S,), int64, on the CPU: number of rows of each sequence.
    device
        Device of the rows.
    nb_groups
        Number of groups; None: as many as :func:`run_layer` can use.
    """

    def __init__(self, lengths: Tensor, device: torch.device, nb_groups: int | None = None) -> None:
        self.nb_sequences = len(lengths)
        self.nb_started = int(lengths.count_nonzero())
        """Number of sequences that are not empty."""
        if nb_groups is None:
            threads = torch.get_num_threads() if device.type == "cpu" else 1
            nb_groups = min(threads, self.nb_started // SEQUENCES_PER_THREAD)
        nb_groups = max(1, min(nb_groups, self.nb_started))
        descending = torch.argsort(lengths, descending=True, stable=True)
        started, empty = descending[: self.nb_started], descending[self.nb_started :]
        offsets = torch.from_numpy(ragged.offsets(lengths))
        members = [started[first::nb_groups] for first in range(nb_groups)] if self.nb_started else []
        blocks = [_time_major_rows(lengths[group], offsets[group]) for group in members]
        self.sizes: list[list[int]] = [alive for _, alive in blocks]
        """For each group, the number of its sequences that reach each time step."""
        rows = torch.cat([block for block, _ in blocks]) if blocks else torch.empty(0, dtype=torch.int64)
        order = torch.cat([*members, empty])
        self._rows = rows.to(device, non_blocking=True)
        self._inverse = torch.argsort(rows).to(device, non_blocking=True)
        self._order = order.to(device, non_blocking=True)
        self._inverse_order = torch.argsort(order).to(device, non_blocking=True)

    def pack(self, rows: Tensor) -> Tensor:
        """Reorder rows (N, F), one sequence after the other, to time-major order."""
        return _permute(rows, self._rows, self._inverse)

    def unpack(self, rows: Tensor) -> Tensor:
        """Undo :meth:`pack`."""
        return _permute(rows, self._inverse, self._rows)

    def sort_states(self, states: Tensor) -> Tensor:
        """Reorder the states of the sequences, (S, H), to the order of the groups, empty sequences last."""
        return states.index_select(0, self._order)

    def unsort_states(self, states: Tensor) -> Tensor:
        """Undo :meth:`sort_states`."""
        return states.index_select(0, self._inverse_order)


def _time_major_rows(lengths: Tensor, offsets: Tensor) -> tuple[Tensor, list[int]]:
    """Return the time-major rows of sequences sorted by decreasing length, and how many reach each step."""
    longest = int(lengths[0])
    alive = len(lengths) - torch.cumsum(torch.bincount(lengths), dim=0)[:longest]
    steps, rank = map(torch.from_numpy, (ragged.sequence_ids(alive), ragged.positions(alive)))
    return offsets[rank] + steps, alive.tolist()


class _Permute(torch.autograd.Function):
    """``rows[permutation]`` whose gradient is gathered with the inverse permutation, faster than torch's scatter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, permutation: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, permutation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def _permute(rows: Tensor, permutation: Tensor, inverse: Tensor) -> Tensor:
    return cast(Tensor, _Permute.apply(rows, permutation, inverse))  # type: ignore[no-untyped-call]


class StackedRNN(nn.Module):
    """Stacked recurrent layers, optionally with skip connections and layer normalization.

    Layer 1 receives the input. Layer i receives the output of layer i - 1 (after layer normalization, then dropout),
    with skip connections concatenated with the input. The result is the last layer's output; with skip connections the
    concatenation of all layers' outputs (after normalization, before dropout), first layer first.

    With an activation, it is applied to the output of each layer but the last, after dropout, and the concatenation
    has the outputs after it; so with ``skip_to_output`` and ``normalize_last`` the layers are those of dwi_ml 1.0.

    The layers are ``torch.nn.GRU`` (Cho et al., 2014, arXiv:1406.1078) or ``torch.nn.LSTM`` (Hochreiter and
    Schmidhuber, "Long short-term memory", 1997, doi:10.1162/neco.1997.9.8.1735). On a CUDA device, cuDNN runs them on
    packed rows. Elsewhere, :mod:`dwiml.models.recurrent.cells` computes the same result from the same weights.

    Parameters
    ----------
    input_size
        Number of features of each row.
    rnn_key
        'gru' or 'lstm'.
    layer_sizes
        Number of units of each layer.
    use_skip_connection
        Whether each layer receives the input, and the result includes all layers.
    use_layer_normalization
        Whether the output of each layer but the last is normalized over its units (Ba, Kiros and Hinton, "Layer
        normalization", 2016, arXiv:1607.06450).
    dropout
        Probability that a value is set to zero between two layers, in training.
    activation
        Activation between two layers: 'relu' or 'gelu'; None for none.
    normalize_last
        Whether the output of the last layer is normalized too; only with ``use_layer_normalization``.
    skip_to_output
        Whether the result also includes the input, after the layers; only with ``use_skip_connection``.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        *,
        rnn_key: str,
        layer_sizes: Sequence[int],
        use_skip_connection: bool,
        use_layer_normalization: bool,
        dropout: float,
        activation: str | None = None,
        normalize_last: bool = False,
        skip_to_output: bool = False,
    ) -> None:
        super().__init__()
        check_choice("rnn_key", rnn_key, RNN_LAYERS)
        if activation is not None:
            check_choice("rnn_args: activation", activation, ACTIVATIONS)
        if normalize_last and not use_layer_normalization:
            raise ValueError("rnn_args: normalize_last needs use_layer_normalization.")
        if skip_to_output and not use_skip_connection:
            raise ValueError("rnn_args: skip_to_output needs use_skip_connection.")
        self.layer_sizes = check_sizes("rnn_layer_sizes", layer_sizes, high=MAX_UNITS)
        dropout = check_dropout("dropout", dropout)
        if dropout and len(self.layer_sizes) == 1:
            raise ValueError(f"dropout acts between two layers: with a single layer it must be 0, got {dropout}.")
        self.use_skip_connection = use_skip_connection
        self._activation = None if activation is None else ACTIVATIONS[activation]
        self._nb_skipped_to_output = input_size if skip_to_output else 0
        skipped = input_size if use_skip_connection else 0
        input_sizes = [input_size, *(size + skipped for size in self.layer_sizes[:-1])]
        layer = RNN_LAYERS[rnn_key]
        self.layers = nn.ModuleList([layer(*sizes) for sizes in zip(input_sizes, self.layer_sizes, strict=True)])
        normalized = self.layer_sizes if normalize_last else self.layer_sizes[:-1]
        norms: list[nn.Module] = [
            nn.LayerNorm(size) if use_layer_normalization else nn.Identity() for size in normalized
        ]
        self.norms = nn.ModuleList(norms)
        self.dropout = nn.Dropout(dropout)

    @property
    def output_size(self) -> int:
        """Number of features of each row of the result."""
        size = sum(self.layer_sizes) if self.use_skip_connection else self.layer_sizes[-1]
        return size + self._nb_skipped_to_output

    def forward(
        self, rows: Tensor, order: TimeMajor, hidden_states: HiddenStates | None = None
    ) -> tuple[Tensor, HiddenStates]:
        """Run all layers.

        Parameters
        ----------
        rows
            Shape (N, input_size), in time-major order (``order.pack``).
        order
            The order of the rows.
        hidden_states
            The states that a previous call returned; None: zeros.

        Returns
        -------
        tuple
            The result, shape (N, output_size), time-major, and the hidden states after the last row of each sequence.
        """
        outputs: list[Tensor] = []
        new_states: HiddenStates = []
        layer_input = rows
        for i, layer in enumerate(self.layers):
            states = None if hidden_states is None else hidden_states[i]
            output, state = run_layer(cast(nn.RNNBase, layer), layer_input, order, states)
            new_states.append(state)
            if i < len(self.norms):
                output = self.norms[i](output)
            if i < len(self.layers) - 1:
                below = self.dropout(output)
                if self._activation is not None:
                    output = below = self._activation(below)
                layer_input = torch.cat([below, rows], dim=1) if self.use_skip_connection else below
            outputs.append(output)
        if not self.use_skip_connection:
            return outputs[-1], new_states
        return torch.cat([*outputs, rows] if self._nb_skipped_to_output else outputs, dim=1), new_states


def run_layer(
    layer: nn.RNNBase,
    rows: Tensor,
    order: TimeMajor,
    states: tuple[Tensor, ...] | None = None,
    *,
    use_cudnn: bool | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one ``nn.GRU`` or ``nn.LSTM`` of one layer over time-major rows.

    Parameters
    ----------
    layer
        The layer.
    rows
        Shape (N, F), time-major.
    order
        The order of the rows.
    states
        (h,) or (h, c), each of shape (S, H), in the order of the sequences; None: zeros.
    use_cudnn
        Whether to run torch's own layer, on packed rows (of one group); None: on a CUDA device.

    Returns
    -------
    tuple
        The hidden states after each row, (N, H), and the last states of each sequence, in the form of ``states``.
    """
    is_lstm = isinstance(layer, nn.LSTM)
    started = order.nb_started
    if states is None:
        states = (rows.new_zeros(order.nb_sequences, layer.hidden_size),) * (2 if is_lstm else 1)
    if not started:
        return rows.new_zeros(0, layer.hidden_size), states
    ordered = [order.sort_states(part) for part in states]
    initial = [part[:started] for part in ordered]
    if rows.is_cuda if use_cudnn is None else use_cudnn:
        (sizes,) = order.sizes
        packed = PackedSequence(rows, torch.tensor(sizes))
        before = [part.unsqueeze(0) for part in initial]
        result, after = layer(packed, tuple(before) if is_lstm else before[0])
        hidden, last = result.data, [part.squeeze(0) for part in (after if is_lstm else (after,))]
    else:
        cell = RaggedLSTM if is_lstm else RaggedGRU
        weights: tuple[Any, ...] = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
        # In float32: rounding errors of a lower precision would accumulate over the steps.
        with torch.autocast(rows.device.type, enabled=False):
            inputs = [part.to(weights[0]) for part in (rows, *initial)]
            hidden, *last = cell.apply(*inputs, *weights, order.sizes)  # type: ignore[no-untyped-call]
    ends = [torch.cat([done, part[started:]]) for done, part in zip(last, ordered, strict=True)]
    return hidden, tuple(order.unsort_states(part) for part in ends)
