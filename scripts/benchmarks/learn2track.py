"""A training step of Learn2Track, beside two usual ways to run a recurrent network on ragged batches.

A step is all that training does with a batch once its inputs are there: embedding, forward, loss, backward, clipping,
Adam. The same weights, the same batch: dwiml's own layers, ``torch.nn.GRU`` on a ``PackedSequence``, and
``torch.nn.GRU`` on padded batches of streamlines of similar length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from measuring import Figure, compare
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.models.allocator import keep_freed_memory

NB_BUCKETS = 5


class PackedLearn2Track(Learn2TrackModel):
    """Learn2Track on torch's packed sequences."""

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence, *_: Any) -> Tensor:
        """Pack, run torch's layers, unpack."""
        packed = pack_sequence(inputs.mapped(self.embed_inputs(inputs)).split(), enforce_sorted=False)

        def run(layer: nn.Module, rows: Tensor) -> Tensor:
            return cast(Tensor, layer(PackedSequence(rows, packed.batch_sizes))[0].data)

        outputs = PackedSequence(
            self.direction_getter(stack(self, packed.data, run)),
            packed.batch_sizes,
            packed.sorted_indices,
            packed.unsorted_indices,
        )
        padded, _lengths = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
        return torch.cat([row[:length] for row, length in zip(padded, inputs.lengths.tolist(), strict=True)])


class PaddedLearn2Track(Learn2TrackModel):
    """Learn2Track on padded batches of streamlines of similar length."""

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence, *_: Any) -> Tensor:
        """Sort by length, run torch's layers on each padded bucket, put the rows back in order."""
        lines = inputs.mapped(self.embed_inputs(inputs)).split()
        outputs: list[Tensor] = [torch.empty(0)] * len(lines)
        for bucket in torch.argsort(inputs.lengths).chunk(NB_BUCKETS):
            chosen = bucket.tolist()
            padded = pad_sequence([lines[i] for i in chosen])
            hidden = stack(self, padded, lambda layer, rows: cast(Tensor, layer(rows)[0]))
            for column, i in enumerate(chosen):
                outputs[i] = hidden[: len(lines[i]), column]
        directions: Tensor = self.direction_getter(torch.cat(outputs))
        return directions


def stack(model: Learn2TrackModel, rows: Tensor, run: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    """Run the layers of a model's StackedRNN, whatever form the rows have."""
    outputs: list[Tensor] = []
    below = rows
    for i, layer in enumerate(model.rnn.layers):
        output = run(layer, below)
        if i < len(model.rnn.layers) - 1:
            output = model.rnn.norms[i](output)
            below = torch.cat([output, rows], dim=-1)
        outputs.append(output)
    return torch.cat(outputs, dim=-1)


def make_batch(nb_streamlines: int, nb_features: int) -> tuple[TensorSequence, TensorSequence]:
    """Return inputs and streamlines of 30 to 200 points."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 201, (nb_streamlines,), generator=generator)
    targets = TensorSequence(torch.randn(int(lengths.sum()), 3, generator=generator).cumsum(0), lengths)
    trimmed = targets.trimmed_last()
    return trimmed.mapped(torch.randn(trimmed.total_points, nb_features, generator=generator)), targets


def training_step(model: Learn2TrackModel, inputs: TensorSequence, targets: TensorSequence) -> Callable[[], float]:
    """Return a function that trains on the batch once, and returns the loss before."""
    optimizer = torch.optim.Adam(model.parameters())
    streamlines = targets.trimmed_last()

    def step() -> float:
        optimizer.zero_grad()
        loss, _n = model.compute_loss(cast(Tensor, model(inputs, streamlines)), targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def measure_step(name: str, *, quick: bool, device: torch.device, baseline: str) -> Figure:
    """Time a whole step on 2 threads of the CPU, or on a GPU; checks that both ways compute the same losses."""
    torch.set_num_threads(2)
    if device.type == "cpu":
        keep_freed_memory()
    nb_streamlines, sizes, nb_features = (20, (16, 16), 8) if quick else (500, (256, 256), 28)
    inputs, targets = (part.to(device) for part in make_batch(nb_streamlines, nb_features))
    other = {"packed": PackedLearn2Track, "padded": PaddedLearn2Track}[baseline]
    steps = []
    for model_class in (Learn2TrackModel, other):
        torch.manual_seed(0)
        model = model_class(nb_features=nb_features, rnn_layer_sizes=sizes).to(device)
        steps.append(training_step(model, inputs, targets))
    if abs(steps[0]() - steps[1]()) > 1e-3:
        raise RuntimeError(f"The {baseline} model computes something else than dwiml.")
    seconds, slow_seconds, peak = compare(
        steps[0], steps[1], repeats=5, baseline_repeats=2 if baseline == "packed" else 5, device=device
    )
    names = {"packed": "torch.nn.GRU on packed sequences", "padded": f"torch.nn.GRU, padded in {NB_BUCKETS} buckets"}
    nb_points = inputs.total_points
    return Figure(name, nb_points / seconds, "points/s", nb_points / slow_seconds, names[baseline], peak)
