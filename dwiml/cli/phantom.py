"""``dwiml phantom``: simulate the built-in example subjects."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml phantom",
        allow_abbrev=False,
        description="Simulate example subjects with known ground truth: diffusion images, input volumes, masks, "
        "endpoint labels and one tractogram per bundle, ready for 'dwiml create_hdf5'. Nothing is downloaded.",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to create; its README.txt lists the next commands")
    parser.add_argument(
        "--nb_subjects", type=int, metavar="N", default=6, help="number of subjects, at least 3 [%(default)s]"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", default=1, help="the same seed gives the same subjects [%(default)s]"
    )
    parser.add_argument(
        "--size",
        default="medium",
        metavar="{small,medium,large}",
        help="voxels of 3, 2 or 1.6 mm; 40, 300 or 600 streamlines per bundle [%(default)s]",
    )
    parser.add_argument(
        "--snr",
        type=_snr,
        metavar="X|LOW-HIGH",
        help="signal-to-noise ratio of the images: one for all subjects, or a range in which each has its own [25-35]",
    )
    add_overwrite(parser, "replace OUT_DIR if it is a phantom folder")
    add_verbose(parser)
    return parser


def _snr(text: str) -> list[float]:
    """Return the numbers of ``X`` or ``LOW-HIGH``."""
    try:
        return [float(part) for part in text.split("-")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or a range such as 12-35, got '{text}'") from None


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from dwiml.phantom.create import create_phantom

    start = time.perf_counter()
    quiet = arguments.verbose or not sys.stderr.isatty()
    with tqdm(total=arguments.nb_subjects, unit="subject", disable=quiet) as bar:

        def show_progress(done: int, total: int, name: str) -> None:
            bar.update(done - bar.n)
            if bar.disable:
                print(f"{name} done ({done} of {total})", flush=True)

        folder = create_phantom(
            arguments.out_dir,
            nb_subjects=arguments.nb_subjects,
            seed=arguments.seed,
            size=arguments.size,
            snr=arguments.snr,
            overwrite=arguments.overwrite,
            on_progress=show_progress,
        )
    seconds = time.perf_counter() - start
    print(f"{arguments.nb_subjects} subjects in {folder} ({seconds:.0f} s). Next: see {folder / 'README.txt'}.")
