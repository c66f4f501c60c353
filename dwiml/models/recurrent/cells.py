"""GRU and LSTM layers over time-major rows of sequences of different lengths, with an explicit backward pass.

On the CPU, the backward pass of ``torch.nn.GRU`` is slow. Over a ``PackedSequence``, it accumulates the gradients of
the weights, and pads a gradient of the whole input, at each time step; over a padded batch, it computes the padding.

Here the rows are sorted by time (see :class:`dwiml.models.recurrent.stacked.TimeMajor`): those of a step are one slice,
which shrinks as sequences end. Everything that does not depend on the previous step is one large matrix product over
all rows: the projection of the inputs and, in the backward pass, the gradients of weights and inputs. Only the product
with the hidden weights and a few elementwise operations, in preallocated buffers, are computed at each time step. The
sequences are divided into one group per thread (see :func:`dwiml.models.recurrent.parallel.map_parts`).

Parameters have the layout of torch's layers (gates in the order r, z, n and i, f, g, o), so weights are compatible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dwiml.models.recurrent.parallel import map_parts


@dataclass(frozen=True)
class _Group:
    """The slices of all buffers that belong to one group of sequences."""

    sizes: list[int]
    """Number of sequences that reach each step (never increases)."""
    rows: list[Tensor]
    """Buffers with a row for each point, shape (N, ...)."""
    states: list[Tensor]
    """Buffers with a row for each sequence, shape (S, H)."""

    def steps(self, *buffers: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over the rows of each time step."""
        return zip(*(torch.split(buffer, self.sizes) for buffer in buffers), strict=True)


def _groups(sizes: list[list[int]], rows: Sequence[Tensor], states: Sequence[Tensor]) -> list[_Group]:
    row_slices = zip(*(torch.split(buffer, [sum(group) for group in sizes]) for buffer in rows), strict=True)
    state_slices = zip(*(torch.split(buffer, [group[0] for group in sizes]) for buffer in states), strict=True)
    parts = zip(sizes, row_slices, state_slices, strict=True)
    return [_Group(group, list(of_rows), list(of_states)) for group, of_rows, of_states in parts]


class RaggedGRU(torch.autograd.Function):
    """One GRU layer: ``h = (1 - z) n + z h_prev``, with ``n = tanh(W x + b + r (W_h h_prev + b_h))``.

    Cho et al., 2014, arXiv:1406.1078, in the form of ``torch.nn.GRU`` (the reset gate after the matrix product).
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        initial: Tensor,
        w_input: Tensor,
        w_hidden: Tensor,
        b_input: Tensor,
        b_hidden: Tensor,
        sizes: list[list[int]],
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Parameters
        ----------
        ctx
            Torch's context.
        rows
            Shape (N, F): the rows of one group after the other, each in time-major order.
        initial
            Shape (S, H): the hidden states before the first step, in the same order of groups.
        w_input, w_hidden, b_input, b_hidden
            Shapes (3H, F), (3H, H), (3H,), (3H,).
        sizes
            For each group, the number of its sequences that reach each step (never increases).

        Returns
        -------
        tuple
            The hidden states after each row, (N, H), and the last one of each sequence, (S, H).
        """
        size = w_hidden.shape[1]
        gates, new, recurrent, hidden = (rows.new_empty(len(rows), width * size) for width in (2, 1, 1, 1))
        last = initial.clone()
        weights = (w_input, w_hidden, b_input, b_hidden)
        groups = _groups(sizes, (rows, gates, new, recurrent, hidden), (initial, last))
        map_parts(lambda group: _gru_forward(group, *weights), groups)
        ctx.save_for_backward(rows, initial, w_input, w_hidden, gates, new, recurrent, hidden)
        ctx.sizes = sizes
        return hidden, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        """Backpropagate through time, then compute the gradients of inputs and weights from all rows at once."""
        rows, initial, w_input, w_hidden, gates, new, recurrent, hidden = ctx.saved_tensors
        carry = grad_last.clone()
        grad_gates = gates.new_empty(len(rows), len(w_hidden))
        grad_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        buffers = [rows, gates, new, recurrent, hidden, grad_hidden, grad_gates]
        groups = _groups(ctx.sizes, buffers + ([] if grad_rows is None else [grad_rows]), (initial, carry))
        parts = map_parts(lambda group: _gru_backward(group, w_input, w_hidden), groups)
        return (grad_rows, carry, *_added(parts), None)


def _gru_forward(group: _Group, w_input: Tensor, w_hidden: Tensor, b_input: Tensor, b_hidden: Tensor) -> None:
    rows, gates, new, recurrent, hidden = group.rows
    initial, last = group.states
    size = w_hidden.shape[1]
    gates_bias = b_input[: 2 * size] + b_hidden[: 2 * size]
    torch.addmm(gates_bias, rows, w_input[: 2 * size].t(), out=gates)
    torch.addmm(b_input[2 * size :], rows, w_input[2 * size :].t(), out=new)
    w_gates, w_new, b_new = w_hidden[: 2 * size].t(), w_hidden[2 * size :].t(), b_hidden[2 * size :]
    previous = initial
    for gates_t, new_t, recurrent_t, hidden_t in group.steps(gates, new, recurrent, hidden):
        previous = previous[: len(hidden_t)]
        gates_t.addmm_(previous, w_gates).sigmoid_()
        torch.addmm(b_new, previous, w_new, out=recurrent_t)
        new_t.addcmul_(gates_t[:, :size], recurrent_t).tanh_()
        torch.lerp(new_t, previous, gates_t[:, size:], out=hidden_t)
        previous = hidden_t
    _copy_last(last, hidden, group.sizes)


def _gru_backward(group: _Group, w_input: Tensor, w_hidden: Tensor) -> tuple[Tensor, ...]:
    rows, gates, new, recurrent, hidden, grad_hidden, grad_gates, *grad_rows = group.rows
    initial, carry = group.states
    size = w_hidden.shape[1]
    before = _previous_states(initial, hidden, group.sizes)
    # Of the pre-activations: `grad_gates` on the hidden side, `grad_new` on the input side of gate n.
    grad_new = torch.empty_like(new)
    scratch = torch.empty_like(initial)
    steps = list(group.steps(grad_hidden, gates, new, recurrent, before, grad_gates, grad_new))
    for grad_t, gates_t, new_t, recurrent_t, before_t, grad_gates_t, delta in reversed(steps):
        reset, update = gates_t[:, :size], gates_t[:, size:]
        carried, work = carry[: len(delta)], scratch[: len(delta)]
        torch.add(grad_t, carried, out=delta)
        torch.sub(before_t, new_t, out=work).mul_(delta)
        _sigmoid_backward(work, update, out=grad_gates_t[:, size : 2 * size])
        torch.mul(delta, update, out=carried)
        _tanh_backward(delta.sub_(carried), new_t, out=delta)
        torch.mul(delta, reset, out=grad_gates_t[:, 2 * size :])
        torch.mul(delta, recurrent_t, out=work)
        _sigmoid_backward(work, reset, out=grad_gates_t[:, :size])
        carried.addmm_(grad_gates_t, w_hidden)
    grad_w_hidden, grad_b_hidden = grad_gates.t() @ before, grad_gates.sum(0)
    grad_gates[:, 2 * size :] = grad_new
    if grad_rows:
        torch.mm(grad_gates, w_input, out=grad_rows[0])
    return grad_gates.t() @ rows, grad_w_hidden, grad_gates.sum(0), grad_b_hidden


class RaggedLSTM(torch.autograd.Function):
    """One LSTM layer: ``c = f c_prev + i g``, ``h = o tanh(c)``.

    Hochreiter and Schmidhuber, "Long short-term memory", 1997, doi:10.1162/neco.1997.9.8.1735, with the forget gate of
    ``torch.nn.LSTM``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        initial: Tensor,
        initial_cell: Tensor,
        w_input: Tensor,
        w_hidden: Tensor,
        b_input: Tensor,
        b_hidden: Tensor,
        sizes: list[list[int]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer.

        Parameters
        ----------
        ctx
            Torch's context.
        rows
            Shape (N, F): the rows of one group after the other, each in time-major order.
        initial, initial_cell
            Shape (S, H): the hidden and cell states before the first step, in the same order of groups.
        w_input, w_hidden, b_input, b_hidden
            Shapes (4H, F), (4H, H), (4H,), (4H,).
        sizes
            For each group, the number of its sequences that reach each step (never increases).

        Returns
        -------
        tuple
            The hidden states after each row, (N, H), and the last hidden and cell states of each sequence, (S, H).
        """
        size = w_hidden.shape[1]
        gates, cells, tanh_cell, hidden = (rows.new_empty(len(rows), width * size) for width in (4, 1, 1, 1))
        last, last_cell = initial.clone(), initial_cell.clone()
        weights = (w_input, w_hidden, b_input + b_hidden)
        states = (initial, initial_cell, last, last_cell)
        groups = _groups(sizes, (rows, gates, cells, tanh_cell, hidden), states)
        map_parts(lambda group: _lstm_forward(group, *weights), groups)
        ctx.save_for_backward(rows, initial, initial_cell, w_input, w_hidden, gates, cells, tanh_cell, hidden)
        ctx.sizes = sizes
        return hidden, last, last_cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_last: Tensor, grad_cell: Tensor) -> tuple[Tensor | None, ...]:
        """Backpropagate through time, then compute the gradients of inputs and weights from all rows at once."""
        rows, initial, initial_cell, w_input, w_hidden, gates, cells, tanh_cell, hidden = ctx.saved_tensors
        carry, carry_cell = grad_last.clone(), grad_cell.clone()
        grad_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        buffers = [rows, gates, cells, tanh_cell, hidden, grad_hidden, torch.empty_like(gates)]
        states = (initial, initial_cell, carry, carry_cell)
        groups = _groups(ctx.sizes, buffers + ([] if grad_rows is None else [grad_rows]), states)
        parts = map_parts(lambda group: _lstm_backward(group, w_input, w_hidden), groups)
        grad_w_input, grad_w_hidden, grad_bias = _added(parts)
        return grad_rows, carry, carry_cell, grad_w_input, grad_w_hidden, grad_bias, grad_bias.clone(), None


def _lstm_forward(group: _Group, w_input: Tensor, w_hidden: Tensor, bias: Tensor) -> None:
    rows, gates, cells, tanh_cell, hidden = group.rows
    previous, cell, last, last_cell = group.states
    size = w_hidden.shape[1]
    torch.addmm(bias, rows, w_input.t(), out=gates)
    w_recurrent = w_hidden.t()
    for gates_t, cell_t, tanh_cell_t, hidden_t in group.steps(gates, cells, tanh_cell, hidden):
        alive = len(hidden_t)
        gates_t.addmm_(previous[:alive], w_recurrent)
        gates_t[:, : 2 * size].sigmoid_()
        gates_t[:, 2 * size : 3 * size].tanh_()
        gates_t[:, 3 * size :].sigmoid_()
        torch.mul(gates_t[:, size : 2 * size], cell[:alive], out=cell_t)
        cell_t.addcmul_(gates_t[:, :size], gates_t[:, 2 * size : 3 * size])
        torch.tanh(cell_t, out=tanh_cell_t)
        torch.mul(gates_t[:, 3 * size :], tanh_cell_t, out=hidden_t)
        previous, cell = hidden_t, cell_t
    _copy_last(last, hidden, group.sizes)
    _copy_last(last_cell, cells, group.sizes)


def _lstm_backward(group: _Group, w_input: Tensor, w_hidden: Tensor) -> tuple[Tensor, ...]:
    rows, gates, cells, tanh_cell, hidden, grad_hidden, grad_gates, *grad_rows = group.rows
    initial, initial_cell, carry, carry_cell = group.states
    size = w_hidden.shape[1]
    cells_before = _previous_states(initial_cell, cells, group.sizes)
    scratch, scratch_cell = torch.empty_like(initial), torch.empty_like(initial)
    steps = list(group.steps(grad_hidden, gates, tanh_cell, cells_before, grad_gates))
    for grad_t, gates_t, tanh_cell_t, before_t, grad_gates_t in reversed(steps):
        input_gate, forget, candidate, output = torch.split(gates_t, size, dim=1)
        grad_input_gate, grad_forget, grad_candidate, grad_output = torch.split(grad_gates_t, size, dim=1)
        alive = len(grad_t)
        carried, carried_cell, delta, work = carry[:alive], carry_cell[:alive], scratch[:alive], scratch_cell[:alive]
        torch.add(grad_t, carried, out=delta)
        torch.mul(delta, tanh_cell_t, out=work)
        _sigmoid_backward(work, output, out=grad_output)
        _tanh_backward(delta.mul_(output), tanh_cell_t, out=work)
        carried_cell.add_(work)
        torch.mul(carried_cell, candidate, out=work)
        _sigmoid_backward(work, input_gate, out=grad_input_gate)
        torch.mul(carried_cell, input_gate, out=work)
        _tanh_backward(work, candidate, out=grad_candidate)
        torch.mul(carried_cell, before_t, out=work)
        _sigmoid_backward(work, forget, out=grad_forget)
        carried_cell.mul_(forget)
        torch.mm(grad_gates_t, w_hidden, out=carried)
    if grad_rows:
        torch.mm(grad_gates, w_input, out=grad_rows[0])
    before = _previous_states(initial, hidden, group.sizes)
    return grad_gates.t() @ rows, grad_gates.t() @ before, grad_gates.sum(0)


def _added(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Add up the gradients of the groups, in their order, so that two runs agree to the last bit."""
    total = list(parts[0])
    for part in parts[1:]:
        total = [whole.add_(addition) for whole, addition in zip(total, part, strict=True)]
    return total


def _previous_states(initial: Tensor, states: Tensor, sizes: list[int]) -> Tensor:
    """Return the state before the step of each row, shape (N, H)."""
    steps = torch.split(states, sizes)
    return torch.cat([initial, *(step[:alive] for step, alive in zip(steps, sizes[1:], strict=False))])


def _copy_last(last: Tensor, states: Tensor, sizes: list[int]) -> None:
    """Write the state of each sequence at its last step into ``last``, (S, H)."""
    for step, alive, staying in zip(torch.split(states, sizes), sizes, [*sizes[1:], 0], strict=True):
        if staying < alive:
            last[staying:alive] = step[staying:]


def _sigmoid_backward(grad: Tensor, output: Tensor, *, out: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.sigmoid_backward.grad_input(grad, output, grad_input=out))


def _tanh_backward(grad: Tensor, output: Tensor, *, out: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.tanh_backward.grad_input(grad, output, grad_input=out))
