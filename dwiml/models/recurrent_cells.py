"""GRU and LSTM layers over time-major rows of sequences of different lengths, with a backward pass by hand.

Why not ``torch.nn.GRU``: on the CPU, its backward pass over a ``PackedSequence`` adds up the weights' gradients and
pads a gradient of the whole input once a time step, and over a padded batch it computes on the padding.

Here the rows are sorted by time (see :class:`dwiml.models.recurrent.TimeMajor`): those of a step are one slice, and
the slice shrinks as sequences end. What does not depend on the previous step is one large matrix product for all rows:
the inputs' projection and, in the backward pass, the gradients of weights and inputs. A time step is left with one
product by the hidden weights and a few elementwise kernels into buffers made beforehand.

Parameters have the layout of torch's layers (gates in the order r, z, n and i, f, g, o), so that weights interchange.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class RaggedGRU(torch.autograd.Function):
    """One GRU layer: ``h = (1 - z) n + z h_prev``, with ``n = tanh(W x + b + r (W_h h_prev + b_h))``."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        initial: Tensor,
        w_input: Tensor,
        w_hidden: Tensor,
        b_input: Tensor,
        b_hidden: Tensor,
        sizes: list[int],
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Parameters
        ----------
        ctx
            Torch's context.
        rows
            Shape (N, F), time-major.
        initial
            Shape (S, H): the hidden states before the first step; S = sizes[0].
        w_input, w_hidden, b_input, b_hidden
            Shapes (3H, F), (3H, H), (3H,), (3H,).
        sizes
            How many sequences are alive at each step, never increasing; their sum is N.

        Returns
        -------
        tuple
            The hidden states under each row, (N, H), and each sequence's last one, (S, H).
        """
        size = w_hidden.shape[1]
        bias = b_input.clone()
        bias[: 2 * size] += b_hidden[: 2 * size]
        gates = torch.addmm(bias[: 2 * size], rows, w_input[: 2 * size].t())
        new = torch.addmm(bias[2 * size :], rows, w_input[2 * size :].t())
        recurrent = torch.empty_like(new)
        hidden = torch.empty_like(new)
        w_gates, w_new, b_new = w_hidden[: 2 * size].t(), w_hidden[2 * size :].t(), b_hidden[2 * size :]
        previous, last = initial, initial.clone()
        steps = zip(*(torch.split(buffer, sizes) for buffer in (gates, new, recurrent, hidden)), strict=True)
        for alive, (gates_t, new_t, recurrent_t, hidden_t) in zip(sizes, steps, strict=True):
            previous = previous[:alive]
            gates_t.addmm_(previous, w_gates).sigmoid_()
            torch.addmm(b_new, previous, w_new, out=recurrent_t)
            new_t.addcmul_(gates_t[:, :size], recurrent_t).tanh_()
            torch.lerp(new_t, previous, gates_t[:, size:], out=hidden_t)
            previous = hidden_t
        _copy_last(last, hidden, sizes)
        ctx.save_for_backward(rows, initial, w_input, w_hidden, gates, new, recurrent, hidden)
        ctx.sizes = sizes
        return hidden, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through time, then form the gradients of inputs and weights from all rows at once."""
        rows, initial, w_input, w_hidden, gates, new, recurrent, hidden = ctx.saved_tensors
        sizes, size = ctx.sizes, w_hidden.shape[1]
        before = _previous_states(initial, hidden, sizes)
        carry = grad_last.clone()
        # Of the pre-activations: `grad_gates` on the hidden side, `grad_new` on the input side of gate n.
        grad_gates = gates.new_empty(len(rows), 3 * size)
        grad_new = torch.empty_like(new)
        scratch = torch.empty_like(initial)
        buffers = (grad_hidden, gates, new, recurrent, before, grad_gates, grad_new)
        steps = list(zip(*(torch.split(buffer, sizes) for buffer in buffers), strict=True))
        for alive, (grad_t, gates_t, new_t, recurrent_t, before_t, grad_gates_t, delta) in zip(
            reversed(sizes), reversed(steps), strict=True
        ):
            reset, update = gates_t[:, :size], gates_t[:, size:]
            carried, work = carry[:alive], scratch[:alive]
            torch.add(grad_t, carried, out=delta)
            torch.sub(before_t, new_t, out=work).mul_(delta)
            _sigmoid_backward(work, update, out=grad_gates_t[:, size : 2 * size])
            torch.mul(delta, update, out=carried)
            delta.sub_(carried)
            _tanh_backward(delta, new_t, out=delta)
            torch.mul(delta, reset, out=grad_gates_t[:, 2 * size :])
            torch.mul(delta, recurrent_t, out=work)
            _sigmoid_backward(work, reset, out=grad_gates_t[:, :size])
            carried.addmm_(grad_gates_t, w_hidden)
        grad_w_hidden, grad_b_hidden = grad_gates.t() @ before, grad_gates.sum(0)
        grad_gates[:, 2 * size :] = grad_new
        grad_rows = grad_gates @ w_input if ctx.needs_input_grad[0] else None
        grad_w_input, grad_b_input = grad_gates.t() @ rows, grad_gates.sum(0)
        return grad_rows, carry, grad_w_input, grad_w_hidden, grad_b_input, grad_b_hidden, None


class RaggedLSTM(torch.autograd.Function):
    """One LSTM layer: ``c = f c_prev + i g``, ``h = o tanh(c)``."""

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
        sizes: list[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer.

        Parameters
        ----------
        ctx
            Torch's context.
        rows
            Shape (N, F), time-major.
        initial, initial_cell
            Shape (S, H): the hidden and cell states before the first step; S = sizes[0].
        w_input, w_hidden, b_input, b_hidden
            Shapes (4H, F), (4H, H), (4H,), (4H,).
        sizes
            How many sequences are alive at each step, never increasing; their sum is N.

        Returns
        -------
        tuple
            The hidden states under each row, (N, H), and each sequence's last hidden and cell states, (S, H).
        """
        size = w_hidden.shape[1]
        gates = torch.addmm(b_input + b_hidden, rows, w_input.t())
        cells, squashed, hidden = (gates.new_empty(len(rows), size) for _ in range(3))
        w_recurrent = w_hidden.t()
        previous, cell = initial, initial_cell
        steps = zip(*(torch.split(buffer, sizes) for buffer in (gates, cells, squashed, hidden)), strict=True)
        for alive, (gates_t, cell_t, squashed_t, hidden_t) in zip(sizes, steps, strict=True):
            gates_t.addmm_(previous[:alive], w_recurrent)
            gates_t[:, : 2 * size].sigmoid_()
            gates_t[:, 2 * size : 3 * size].tanh_()
            gates_t[:, 3 * size :].sigmoid_()
            torch.mul(gates_t[:, size : 2 * size], cell[:alive], out=cell_t)
            cell_t.addcmul_(gates_t[:, :size], gates_t[:, 2 * size : 3 * size])
            torch.tanh(cell_t, out=squashed_t)
            torch.mul(gates_t[:, 3 * size :], squashed_t, out=hidden_t)
            previous, cell = hidden_t, cell_t
        last, last_cell = initial.clone(), initial_cell.clone()
        _copy_last(last, hidden, sizes)
        _copy_last(last_cell, cells, sizes)
        ctx.save_for_backward(rows, initial, initial_cell, w_input, w_hidden, gates, cells, squashed, hidden)
        ctx.sizes = sizes
        return hidden, last, last_cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_last: Tensor, grad_cell: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through time, then form the gradients of inputs and weights from all rows at once."""
        rows, initial, initial_cell, w_input, w_hidden, gates, cells, squashed, hidden = ctx.saved_tensors
        sizes, size = ctx.sizes, w_hidden.shape[1]
        cells_before = _previous_states(initial_cell, cells, sizes)
        carry, carry_cell = grad_last.clone(), grad_cell.clone()
        grad_gates = torch.empty_like(gates)
        scratch, scratch_cell = torch.empty_like(initial), torch.empty_like(initial)
        buffers = (grad_hidden, gates, squashed, cells_before, grad_gates)
        steps = list(zip(*(torch.split(buffer, sizes) for buffer in buffers), strict=True))
        for alive, (grad_t, gates_t, squashed_t, before_t, grad_gates_t) in zip(
            reversed(sizes), reversed(steps), strict=True
        ):
            entry, forget, proposal, output = torch.split(gates_t, size, dim=1)
            grad_entry, grad_forget, grad_proposal, grad_output = torch.split(grad_gates_t, size, dim=1)
            carried, carried_cell = carry[:alive], carry_cell[:alive]
            delta, work = scratch[:alive], scratch_cell[:alive]
            torch.add(grad_t, carried, out=delta)
            torch.mul(delta, squashed_t, out=work)
            _sigmoid_backward(work, output, out=grad_output)
            _tanh_backward(delta.mul_(output), squashed_t, out=work)
            carried_cell.add_(work)
            torch.mul(carried_cell, proposal, out=work)
            _sigmoid_backward(work, entry, out=grad_entry)
            torch.mul(carried_cell, entry, out=work)
            _tanh_backward(work, proposal, out=grad_proposal)
            torch.mul(carried_cell, before_t, out=work)
            _sigmoid_backward(work, forget, out=grad_forget)
            carried_cell.mul_(forget)
            torch.mm(grad_gates_t, w_hidden, out=carried)
        grad_w_hidden = grad_gates.t() @ _previous_states(initial, hidden, sizes)
        grad_rows = grad_gates @ w_input if ctx.needs_input_grad[0] else None
        grad_w_input, grad_bias = grad_gates.t() @ rows, grad_gates.sum(0)
        return grad_rows, carry, carry_cell, grad_w_input, grad_w_hidden, grad_bias, grad_bias.clone(), None


def _previous_states(initial: Tensor, states: Tensor, sizes: list[int]) -> Tensor:
    """Shape (N, H): under each row, the state before its step."""
    steps = torch.split(states, sizes)
    return torch.cat([initial, *(step[:alive] for step, alive in zip(steps, sizes[1:], strict=False))])


def _copy_last(last: Tensor, states: Tensor, sizes: list[int]) -> None:
    """Write each sequence's state at its own last step into ``last``, (S, H)."""
    for step, alive, staying in zip(torch.split(states, sizes), sizes, [*sizes[1:], 0], strict=True):
        if staying < alive:
            last[staying:alive] = step[staying:]


def _sigmoid_backward(grad: Tensor, output: Tensor, *, out: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.sigmoid_backward.grad_input(grad, output, grad_input=out))


def _tanh_backward(grad: Tensor, output: Tensor, *, out: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.tanh_backward.grad_input(grad, output, grad_input=out))
