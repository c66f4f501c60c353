"""Training speed of Learn2Track on the CPU, beside two usual ways to run a recurrent network on ragged batches.

A step is all that training does with a batch once its inputs are there: embedding, forward, loss, backward, clipping,
Adam. The same weights, the same batch: dwiml's own layers, ``torch.nn.GRU`` on a ``PackedSequence``, and
``torch.nn.GRU`` on padded batches of streamlines of similar length.

Use: python scripts/benchmarks/learn2track.py [--threads 2] [--json FILE]. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
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


def time_steps(
    model: Learn2TrackModel, inputs: TensorSequence, targets: TensorSequence, reps: int
) -> tuple[float, float]:
    """Return the shortest duration of a training step, in seconds, and the first step's loss."""
    optimizer = torch.optim.Adam(model.parameters())
    streamlines = targets.trimmed_last()
    durations, losses = [], []
    for _ in range(reps):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss, _n = model.compute_loss(cast(Tensor, model(inputs, streamlines)), targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        durations.append(time.perf_counter() - start)
    return min(durations), losses[0]


def build_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Training speed of Learn2Track on the CPU, in points a second.")
    parser.add_argument("--nb_streamlines", type=int, default=500, help="Streamlines a batch. [%(default)s]")
    parser.add_argument("--nb_features", type=int, default=28, help="Input features. [%(default)s]")
    parser.add_argument("--layer_sizes", type=int, nargs="+", default=[256, 256], help="Units. [%(default)s]")
    parser.add_argument("--rnn_key", choices=["gru", "lstm"], default="gru")
    parser.add_argument("--threads", type=int, default=2, help="Processor cores to use. [%(default)s]")
    parser.add_argument("--reps", type=int, default=5, help="Steps; the shortest counts. [%(default)s]")
    parser.add_argument("--packed_reps", type=int, default=2, help="The same for packed sequences. [%(default)s]")
    parser.add_argument("--skip_packed", action="store_true", help="Leave out packed sequences, which take minutes.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write the figures to this file too.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    kept = keep_freed_memory()
    inputs, targets = make_batch(args.nb_streamlines, args.nb_features)
    variants: list[tuple[str, type[Learn2TrackModel], int]] = [("dwiml", Learn2TrackModel, args.reps)]
    variants.append(("padded", PaddedLearn2Track, args.reps))
    if not args.skip_packed:
        variants.append(("packed", PackedLearn2Track, args.packed_reps))
    speed: dict[str, float] = {}
    print(f"{inputs.total_points} points, {args.threads} threads, {args.rnn_key} {args.layer_sizes}")
    first_loss = None
    for name, model_class, reps in variants:
        torch.manual_seed(0)
        model = model_class(nb_features=args.nb_features, rnn_key=args.rnn_key, rnn_layer_sizes=args.layer_sizes)
        duration, loss = time_steps(model, inputs, targets, reps)
        first_loss = loss if first_loss is None else first_loss
        if abs(loss - first_loss) > 1e-4:
            raise RuntimeError(f"{name} computes something else: loss {loss}, not {first_loss}.")
        speed[name] = inputs.total_points / duration
        ratio = speed["dwiml"] / speed[name]
        print(f"{name:7} {speed[name]:9.0f} points/s   {duration:7.2f} s a step   dwiml is {ratio:.1f}x", flush=True)
    if args.json:
        figures = {
            "points": inputs.total_points,
            "threads": args.threads,
            "rnn_key": args.rnn_key,
            "layer_sizes": args.layer_sizes,
            "torch": torch.__version__,
            "freed_memory_kept": kept,
            "points_per_s": speed,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
