"""Track changed versions of a subject with a trained model and with DIPY's probabilistic tracker, and score both.

Noise is added to the diffusion images of an example subject (dwiml phantom), directions are left out, or the images are
resampled to a rotated grid or to other voxel sizes; or the white matter mask is that of a threshold of FA. The maps
that the model reads are recomputed from the changed images. Both trackers start from the same points, as many in each
version: random points in the mask, SEEDS_PER_VOXEL times the number of voxels of the unchanged mask. Streamlines are
scored on the grid of the unchanged subject. Rows that are already in the JSON file are not repeated, so the script
continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command

if TYPE_CHECKING:
    from comparison.changed_images import Images
    from comparison.changed_subject import Streamlines
    from comparison.rows_file import RowsFile

    from dwiml.scoring.ground_truth import GroundTruth
    from dwiml.tracking.sources import TrackingData
    from dwiml.trained.experiment import TrainedExperiment

MEASURES = ("valid_connections", "invalid_connections", "no_connections", "overlap", "overreach", "f1")
MODEL, DIPY = "dwiml", "dipy prob"


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="trained on SH or FA of example subjects")
    parser.add_argument("subject_dir", type=Path, metavar="SUBJECT_DIR", help="the subject, as dwiml phantom makes it")
    parser.add_argument(
        "--json", type=Path, required=True, help="file of all figures; each row is added when it is done"
    )
    changes = parser.add_argument_group("changes (give an option without a value to leave it out)")
    numbers: dict[str, Any] = {"type": float, "nargs": "*"}
    changes.add_argument("--snr", default=[20.0, 10.0], help="noise to this signal-to-noise ratio [20 10]", **numbers)
    changes.add_argument(
        "--directions", default=[1 / 2, 1 / 3], metavar="SHARE", help="share of the directions [0.5 0.333]", **numbers
    )
    changes.add_argument("--rotations", default=[20.0], metavar="DEGREES", help="of the grid [20]", **numbers)
    changes.add_argument("--voxel_sizes", default=[1.25, 2.5], metavar="MM", help="[1.25 2.5]", **numbers)
    changes.add_argument(
        "--fa_thresholds", default=[0.15, 0.3], metavar="FA", help="of the white matter mask [0.15 0.3]", **numbers
    )
    parser.add_argument("--seeds_per_voxel", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--random_seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="[1 2 3]")
    parser.add_argument("--min_length", type=float, default=20.0, help="of streamlines, mm [%(default)g]")
    parser.add_argument("--algo", choices=["det", "prob"], default="det", help="of the model [%(default)s]")
    parser.add_argument("--theta", type=float, default=45.0, help="of the model, degrees [%(default)g]")
    parser.add_argument("--dipy_order", type=int, default=8, help="of the deconvolution [%(default)s]")
    parser.add_argument("--dipy_theta", type=float, default=30.0, help="degrees [%(default)g]")
    parser.add_argument("--dipy_step", type=float, default=0.5, help="mm [%(default)g]")
    parser.add_argument("--only_model", action="store_true", help="leave dipy out")
    return parser


@dataclass(frozen=True)
class Change:
    """A change, its exact value (None if it has none), and the images that it gives."""

    name: str
    make: Callable[[Images], Images]
    value: float | None = None


def changes_of(arguments: argparse.Namespace) -> list[Change]:
    """Return the changes that were asked for; the first leaves the images as they are."""
    import numpy as np
    from comparison import changed_images
    from comparison.changed_subject import fa_of

    def with_noise(images: Images, snr: float) -> Images:
        return changed_images.with_noise(images, snr, np.random.default_rng(1))

    def with_mask(images: Images, threshold: float) -> Images:
        return changed_images.with_mask_of_fa(images, fa_of(images), threshold)

    found = [Change("unchanged", lambda images: images)]
    kinds: list[tuple[str, Sequence[float], Callable[..., Images]]] = [
        ("noise to SNR {:g}", arguments.snr, with_noise),
        ("{:.0%} of the directions", arguments.directions, changed_images.with_fewer_directions),
        ("rotated by {:g} degrees", arguments.rotations, changed_images.rotated),
        ("voxels of {:g} mm", arguments.voxel_sizes, changed_images.with_voxel_size),
        ("mask: FA of {:g} or more", arguments.fa_thresholds, with_mask),
    ]
    for name, values, make in kinds:
        found += [Change(name.format(value), partial(_changed, make, value), value) for value in values]
    return found


def _changed(make: Callable[..., Images], value: float, images: Images) -> Images:
    return make(images, value)


class Version:
    """A changed version of the subject; what is costly is computed when it is first needed."""

    def __init__(self, images: Images, trained: TrainedExperiment, arguments: argparse.Namespace) -> None:
        self.images, self._trained, self._arguments = images, trained, arguments

    @cached_property
    def data(self) -> tuple[TrackingData, list[str]]:
        """The model's input, and the warnings about it."""
        from comparison.changed_subject import read_version, write_version

        with tempfile.TemporaryDirectory() as temporary:
            write_version(self.images, Path(temporary))
            return read_version(self._trained, Path(temporary))

    @cached_property
    def fodf(self) -> Any:
        """The fiber orientation distributions, for dipy."""
        from comparison.changed_subject import fodf_of

        return fodf_of(self.images, self._arguments.dipy_order)

    def track(self, tracker: str, nb_seeds: int, seed: int) -> Streamlines:
        """Return the streamlines of a tracker, in rasmm."""
        from comparison.changed_subject import track_version, track_version_with_dipy
        from comparison.dipy_trackers import DipySettings

        given = self._arguments
        common = {"nb_seeds": nb_seeds, "seed": seed, "min_length": given.min_length}
        if tracker == MODEL:
            return track_version(self._trained, self.data[0], theta=given.theta, algo=given.algo, **common)
        settings = DipySettings(given.dipy_order, given.dipy_theta, "trilinear")
        return track_version_with_dipy(self.images, self.fodf, settings, step_size=given.dipy_step, **common)


def measured(version: Version, tracker: str, nb_seeds: int, seed: int, truth: GroundTruth) -> dict[str, Any]:
    """Track, score on the grid of the truth, and return the figures of a row."""
    import numpy as np
    from comparison.model_tracking import scores_of

    from dwiml.ops.spaces import to_vox_corner

    # Not in the time of the tracking.
    told = version.data[1] if tracker == MODEL else []
    _ = version.fodf if tracker == DIPY else None
    begin = time.process_time()
    lines = version.track(tracker, nb_seeds, seed)
    seconds = time.process_time() - begin
    stored = np.concatenate(lines) if lines else np.zeros((0, 3), dtype=np.float32)
    grid = truth.grid
    points = to_vox_corner(stored, space="rasmm", origin="center", affine=grid.affine, voxel_sizes=grid.voxel_sizes)
    scores = scores_of(points, np.array([len(line) for line in lines], dtype=np.int64), truth)
    facts = {"nb_seeds": nb_seeds, "nb_voxels": int(version.images.mask.sum()), "cpu_s": seconds}
    return {**facts, "warnings": told, **scores}


def check_options(arguments: argparse.Namespace) -> None:
    """Check the changes and the numbers, before anything is tracked.

    Raises
    ------
    ValueError
        If a number is out of range, or is given twice.
    """
    from comparison.checks import check_different, check_dipy_step

    from dwiml.arguments import check_number

    limits = {"snr": (0.0, 1e6), "directions": (0.0, 1.0), "voxel_sizes": (0.1, 100.0), "fa_thresholds": (0.0, 1.0)}
    for name, (low, high) in {**limits, "rotations": (-360.0, 360.0)}.items():
        for value in getattr(arguments, name):
            check_number(f"--{name}", value, low=low, high=high, low_included=low != 0)
    check_different("The changes", [change.name for change in changes_of(arguments)])
    check_different("--random_seeds", arguments.random_seeds)
    check_dipy_step("--dipy_step", arguments.dipy_step)


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all rows of the JSON file must have in common."""
    names = ("seeds_per_voxel", "min_length", "algo", "theta", "dipy_order", "dipy_theta", "dipy_step")
    weights = (arguments.experiment / "best_model" / "model_state.pt").stat().st_mtime
    folders = {name: str(getattr(arguments, name).resolve()) for name in ("experiment", "subject_dir")}
    return {**{name: getattr(arguments, name) for name in names}, **folders, "weights": weights}


def read_rows(arguments: argparse.Namespace) -> RowsFile:
    """Return the rows that were measured before, with the same options; check the output.

    Raises
    ------
    ValueError
        If the JSON file is not one of this script with the same options.
    """
    from comparison.rows_file import RowsFile

    from dwiml.files import check_outputs

    check_options(arguments)
    inputs, experiments = [arguments.subject_dir], [arguments.experiment]
    check_outputs({"--json": arguments.json}, inputs=inputs, experiments=experiments, overwrite=True)
    return RowsFile(arguments.json, options_of(arguments))


def compare(arguments: argparse.Namespace) -> None:
    """Change, track, score, print and write."""
    from comparison.changed_subject import read_images_of

    from dwiml.scoring.ground_truth_files import read_ground_truth
    from dwiml.trained.experiment import load_experiment

    trained = load_experiment(arguments.experiment)
    rows = read_rows(arguments)
    images, truth = read_images_of(arguments.subject_dir), read_ground_truth(arguments.subject_dir)
    nb_seeds = arguments.seeds_per_voxel * int(images.mask.sum())
    final: list[list[dict[str, Any]]] = []
    for change in changes_of(arguments):
        version: Version | None = None
        for tracker in (MODEL,) if arguments.only_model else (MODEL, DIPY):
            final.append([])
            for seed in arguments.random_seeds:
                key = {"change": change.name, "value": change.value, "tracker": tracker, "random_seed": seed}
                row = rows.find(**key)
                if row is None:
                    version = version or Version(change.make(images), trained, arguments)
                    row = {**key, **measured(version, tracker, nb_seeds, seed, truth)}
                    rows.add(row)
                    shown = ", ".join(f"{name} {100 * row.get(name, 0.0):.1f}%" for name in ("valid_connections", "f1"))
                    print(f"{change.name}, {tracker}, seed {seed}: {shown}", flush=True)
                final[-1].append(row)
    print(f"\n{arguments.subject_dir.name}, {nb_seeds} seeds:\n{table(final)}")


def table(groups: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Return the means over the random seeds, one line for each change and tracker, and the warnings."""
    import numpy as np

    titles = [name.replace("_connections", "") for name in MEASURES]
    lines = [f"{'':<26}{'':<11}{'voxels':>8}{'lines':>8}" + "".join(f"{title:>11}" for title in titles)]
    notes = []
    for rows in groups:
        cells = ""
        for name in MEASURES:
            cells += f"{100 * np.mean([row.get(name, 0.0) for row in rows]):>9.1f} %"
        count = np.mean([row["nb_streamlines"] for row in rows])
        lines.append(f"{rows[0]['change']:<26}{rows[0]['tracker']:<11}{rows[0]['nb_voxels']:>8}{count:>8.0f}{cells}")
        notes += [f"{rows[0]['change']}: {message}" for message in rows[0]["warnings"]]
    return "\n".join([*lines, "Warnings of dwiml before tracking:", *(notes or ["none"])])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; bad input gives one sentence and exit code 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_command(lambda: compare(arguments), parser=parser)


if __name__ == "__main__":
    sys.exit(main())
