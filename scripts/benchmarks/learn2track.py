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


def measure(args: argparse.Namespace) -> tuple[int, dict[str, float]]:
    """Return the number of points, and the shortest duration in seconds of a step of each variant.

    The variants take turns, so that whatever else the machine does slows them alike.
    """
    inputs, targets = make_batch(args.nb_streamlines, args.nb_features)
    reps = {"dwiml": args.reps, "padded": args.reps, "packed": args.packed_reps}
    classes = {"dwiml": Learn2TrackModel, "padded": PaddedLearn2Track, "packed": PackedLearn2Track}
    steps = {}
    for name, model_class in classes.items():
        torch.manual_seed(0)
        options: dict[str, Any] = {"rnn_key": args.rnn_key, "rnn_layer_sizes": args.layer_sizes}
        steps[name] = training_step(model_class(nb_features=args.nb_features, **options), inputs, targets)
    durations: dict[str, float] = {}
    losses: dict[tuple[str, int], float] = {}
    for rep in range(max(reps.values())):
        for name, step in steps.items():
            if rep < reps[name]:
                start = time.perf_counter()
                losses[name, rep] = step()
                duration = time.perf_counter() - start
                durations[name] = min(duration, durations.get(name, duration))
                if abs(losses[name, rep] - losses["dwiml", rep]) > 1e-3:
                    raise RuntimeError(f"{name} computes something else than dwiml at step {rep}: {losses}.")
    return inputs.total_points, durations


def build_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Training speed of Learn2Track on the CPU, in points a second.")
    parser.add_argument("--nb_streamlines", type=int, default=500, help="Streamlines a batch. [%(default)s]")
    parser.add_argument("--nb_features", type=int, default=28, help="Input features. [%(default)s]")
    parser.add_argument("--layer_sizes", type=int, nargs="+", default=[256, 256], help="Units. [%(default)s]")
    parser.add_argument("--rnn_key", choices=["gru", "lstm"], default="gru")
    parser.add_argument("--threads", type=int, default=2, help="Processor cores to use. [%(default)s]")
    parser.add_argument("--reps", type=int, default=5, help="Steps; the shortest counts. [%(default)s]")
    packed_help = "The same for packed sequences, which take a minute each; 0: leave them out. [%(default)s]"
    parser.add_argument("--packed_reps", type=int, default=2, help=packed_help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write the figures to this file too.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    kept = keep_freed_memory()
    points, durations = measure(args)
    speed = {name: points / duration for name, duration in durations.items()}
    print(f"{points} points, {args.threads} threads, {args.rnn_key} {args.layer_sizes}")
    for name, duration in durations.items():
        ratio = speed["dwiml"] / speed[name]
        print(f"{name:7} {speed[name]:9.0f} points/s   {duration:7.2f} s a step   dwiml is {ratio:.1f}x")
    if args.json:
        figures = {
            "points": points,
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
