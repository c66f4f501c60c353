"""Times dwiml's batches, interpolation, training steps and tracking, each beside a plain way with the same libraries.

    python scripts/benchmarks/run.py [--json FILE] [--device cuda] [--only NAME ...]

Every figure is the least time of five repeats, in a process of its own, in turns with its baseline. Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from autoencoder import measure_autoencoder
from interpolation import measure_interpolation
from learn2track import measure_step
from loading import measure_loader
from measuring import Figure
from sampling import measure_sampler
from tracking import measure_tracking
from transformers import measure_transformer

augmented_loader = functools.partial(measure_loader, reverse_ratio=0.5, split_ratio=0.2)

# These know the CPU only.
BATCHES: dict[str, Callable[..., Figure]] = {
    "sampler_2m": measure_sampler,
    "sampler_2m_mm": functools.partial(measure_sampler, in_mm=True),
    "sampler_2m_100_subjects": functools.partial(measure_sampler, nb_subjects=100),
    "loader_lazy_plain": functools.partial(measure_loader, lazy=True, step_size=None),
    "loader_lazy_step1": functools.partial(measure_loader, lazy=True),
    "loader_lazy_augmented": functools.partial(augmented_loader, lazy=True),
    "loader_eager_step1": functools.partial(measure_loader, lazy=False),
    "loader_eager_augmented": functools.partial(augmented_loader, lazy=False),
}
# These take a device.
STEPS: dict[str, Callable[..., Figure]] = {
    "trilinear_1thread": measure_interpolation,
    "nearest_1thread": functools.partial(measure_interpolation, mode="nearest", baseline="index"),
    "trilinear_1thread_grid_sample": functools.partial(measure_interpolation, baseline="grid_sample"),
    "trilinear_1thread_random": functools.partial(measure_interpolation, random=True),
    "trilinear_1thread_float16": functools.partial(measure_interpolation, dtype=torch.float16),
    "axes1_1thread": functools.partial(measure_interpolation, neighborhood="axes"),
    "axes1_1thread_new_memory": functools.partial(measure_interpolation, neighborhood="axes", keeps_memory=False),
    "grid1_1thread": functools.partial(measure_interpolation, neighborhood="grid"),
    "learn2track_step": functools.partial(measure_step, baseline="packed"),
    "learn2track_step_padded": functools.partial(measure_step, baseline="padded"),
    "transformer_step": measure_transformer,
    "transformer_src_and_tgt_step": functools.partial(measure_transformer, kind="src-and-tgt"),
    "transformer_src_and_tgt_step_masks": functools.partial(
        measure_transformer, kind="src-and-tgt", padding_masks=True
    ),
    "transformer_src_tgt_concat_step": functools.partial(measure_transformer, kind="src-tgt-concat"),
    "autoencoder_step": measure_autoencoder,
    "tracking": measure_tracking,
    "tracking_10000": functools.partial(measure_tracking, nb_seeds=10_000),
}
BENCHMARKS = {**BATCHES, **STEPS}
# On a GPU, grid_sample is the baseline of all, and there is no allocator to choose.
ON_GPU = [name for name in STEPS if not name.endswith(("_grid_sample", "_new_memory"))]


def build_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--rst", action="store_true", help="print the table as the documentation has it")
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: interpolation, training steps and tracking on the GPU, the others not at all [%(default)s]",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        metavar="NAME",
        choices=list(BENCHMARKS),
        help=f"some of {', '.join(BENCHMARKS)}",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny work, to see that all runs; the figures mean nothing",
    )
    return parser


def measure(names: Sequence[str], *, quick: bool, device: torch.device) -> list[Figure]:
    """Run benchmarks, one after the other, each in a new process; quick ones share a process."""
    figures = []
    for some in [names] if quick else [[name] for name in names]:
        # A process of its own: its memory is that of this benchmark.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            for name in some:
                print(f"{name} ...", file=sys.stderr, flush=True)
                options: dict[str, Any] = {"quick": quick, **({"device": device} if name in STEPS else {})}
                figures.append(process.submit(BENCHMARKS[name], name, **options).result())
    return figures


def table(figures: Sequence[Figure]) -> list[list[str]]:
    """Return the table's rows, the header first."""
    rows = [["name", "dwiml", "baseline", "ratio", "what the baseline does", "peak MB", "bandwidth"]]
    for figure in figures:
        share = "" if figure.bandwidth_share is None else f"{figure.bandwidth_share:.0%}"
        speeds = [f"{_short(speed)} {figure.unit}" for speed in (figure.value, figure.baseline)]
        ratio = f"{figure.value / figure.baseline:.1f}"
        rows.append([figure.name, *speeds, ratio, figure.baseline_name, f"{figure.peak_mb:.0f}", share])
    return rows


def as_text(rows: list[list[str]]) -> str:
    """Return the rows in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def as_rst(rows: list[list[str]]) -> str:
    """Return the rows as a list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'*' if column == 0 else ' '} - {cell}".rstrip() for column, cell in enumerate(row)]
    return "\n".join(lines)


def _short(speed: float) -> str:
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if speed >= size:
            return f"{speed / size:.3g}{suffix}"
    return f"{speed:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda was asked for, but torch finds no GPU here.", file=sys.stderr)
        return 2
    possible = list(BENCHMARKS) if args.device == "cpu" else ON_GPU
    names = list(dict.fromkeys(args.only or possible))
    if args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        print(f"--json must be a file in a folder that exists, got '{args.json}'.", file=sys.stderr)
        return 2
    if not set(names) <= set(possible):
        unknown = ", ".join(name for name in names if name not in possible)
        print(f"{unknown}: for the CPU only. With --device cuda, choose among {', '.join(possible)}.", file=sys.stderr)
        return 2
    figures = measure(names, quick=args.quick, device=torch.device(args.device))
    rows = table(figures)
    print(as_rst(rows) if args.rst else as_text(rows))
    if args.json:
        args.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
