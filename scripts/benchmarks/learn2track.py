"""A training step of Learn2Track, beside two usual ways to run a recurrent network on ragged batches.

The same weights, the same batch: dwiml's own layers, ``torch.nn.GRU`` on a ``PackedSequence``, and ``torch.nn.GRU`` on
padded batches of streamlines of similar length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from measuring import Figure
from steps import compare_steps, make_batch, prepare
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence

from dwiml import Learn2TrackModel, TensorSequence

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


def measure_step(name: str, *, quick: bool, device: torch.device, baseline: str) -> Figure:
    """Time a whole step on 2 threads of the CPU, or on a GPU; checks that both ways compute the same."""
    prepare(device, quick=quick)
    nb_streamlines, sizes, nb_features = (20, (16, 16), 8) if quick else (500, (256, 256), 28)
    torch.manual_seed(0)
    model = Learn2TrackModel(nb_features=nb_features, rnn_layer_sizes=sizes)
    other = {"packed": PackedLearn2Track, "padded": PaddedLearn2Track}[baseline](**model.params)
    other.load_state_dict(model.state_dict())
    names = {"packed": "torch.nn.GRU on packed sequences", "padded": f"torch.nn.GRU, padded in {NB_BUCKETS} buckets"}
    return compare_steps(
        name,
        model.to(device),
        other.to(device),
        partial(make_batch, nb_features=nb_features),
        nb_streamlines,
        baseline=names[baseline],
        device=device,
        baseline_repeats=3 if baseline == "packed" else 5,
    )
