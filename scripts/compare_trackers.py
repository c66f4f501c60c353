"""Compare trained models with dipy's deterministic, probabilistic and parallel transport trackers.

All trackers have the same seeds, the same mask and the same step size, and the same number of settings are tried for
each: on one subject (--choose_on), the settings with the highest mean F1 of the bundles are chosen. They are then
scored on another subject (--score_on), with several seeds of the random numbers. Rows that are already in the JSON file
are not repeated, so the script continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.scoring.ground_truth import GroundTruth
    from dwiml.tracking.seeds import Seeds

MAX_LENGTH_MM = 250.0
# Where the response of a single fiber is looked for, in voxels around the middle of the volume.
ROI_RADIUS = 20
MASKS = ("trilinear", "nearest")
# As many settings for each tracker: angles x readings of the mask, and for dipy two orders and half the angles.
MODEL_THETAS = (20.0, 30.0, 45.0, 60.0)
DIPY_THETAS = {"det": (20.0, 30.0), "prob": (20.0, 30.0), "ptt": (10.0, 20.0)}
DIPY_ORDERS = (6, 8)
MEASURES = ("valid_connections", "invalid_connections", "no_connections", "overlap", "overreach", "f1")


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", type=Path, metavar="EXPERIMENT", help="trained models")
    parser.add_argument(
        "--subjects_dir", type=Path, required=True, help="folder of the subjects, with the true bundles"
    )
    parser.add_argument("--choose_on", required=True, metavar="SUBJECT", help="subject on which settings are chosen")
    parser.add_argument("--score_on", required=True, metavar="SUBJECT", help="subject that is scored")
    parser.add_argument(
        "--json", type=Path, required=True, help="file of all figures; each row is added when it is done"
    )
    parser.add_argument("--hdf5_file", help="where the experiments' data are now [where they were]")
    parser.add_argument("--tracking_mask", default="wm_mask", help="volume group of the HDF5 file [%(default)s]")
    parser.add_argument(
        "--archive", type=Path, help="tractseg-2.10.tar.gz: the real brain, whose images are in this file"
    )
    parser.add_argument("--seeds_per_voxel", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--random_seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="[1 2 3]")
    parser.add_argument("--end_tolerance", type=float, default=0.0, help="of the true bundles, mm [%(default)g]")
    parser.add_argument("--min_length", type=float, default=20.0, help="of streamlines, mm [%(default)g]")
    parser.add_argument(
        "--dipy", nargs="*", choices=["det", "prob", "ptt"], default=["det", "prob", "ptt"], help="[det prob ptt]"
    )
    parser.add_argument("--algos", nargs="+", choices=["det", "prob"], default=["prob"], help="of the models [prob]")
    parser.add_argument("--quick", action="store_true", help="one setting for each tracker, to see that all runs")
    return parser


@dataclass(frozen=True)
class Tracker:
    """A tracker, its settings to try, and how it tracks.

    Attributes
    ----------
    name
        Its name in the table.
    settings
        The settings to try; each is shown by ``str``.
    track
        Returns points (N, 3), voxel space, corner origin, and lengths (S,), for a subject, a setting and a random seed.
    """

    name: str
    settings: Sequence[Any]
    track: Callable[[SubjectData, Any, int], tuple[NDArray[np.float32], NDArray[np.int64]]]


class SubjectData:
    """The volumes, seeds and true bundles of a subject."""

    def __init__(self, name: str, recorded: dict[str, Any], arguments: argparse.Namespace) -> None:
        from dwiml.data.dataset import MultiSubjectDataset
        from dwiml.ops.masks import as_mask
        from dwiml.scoring.ground_truth_files import read_ground_truth

        self.name, self._arguments = name, arguments
        dataset = MultiSubjectDataset(arguments.hdf5_file or recorded["data"]["hdf5_file"])
        group, masks = recorded["loader"]["input_group_name"], arguments.tracking_mask
        dataset.load_data(subj_id=name, volume_groups=[group, masks], streamline_groups=[])
        (subject,) = [*dataset.training_set, *dataset.validation_set, *dataset.testing_set]
        self.volume = subject.volumes[group]
        self.mask = as_mask(subject.volumes[masks].as_tensor()[..., 0].numpy(), masks).inside
        self.truth: GroundTruth = read_ground_truth(
            arguments.subjects_dir / name, end_tolerance=arguments.end_tolerance
        )

    def seeds(self, random_seed: int) -> Seeds:
        """Return the seeds of all trackers."""
        from dwiml.tracking.seeds import Seeds

        return Seeds(self.mask, per_voxel=self._arguments.seeds_per_voxel, seed=random_seed)

    @cached_property
    def fodfs(self) -> dict[int, Any]:
        """{order: fiber orientation distributions}, for dipy."""
        from comparison.acquisition import read_acquisition_of
        from real_brain.diffusion import fit_fodf

        with tempfile.TemporaryDirectory() as temporary:
            folder = self._arguments.subjects_dir / self.name
            acquisition = read_acquisition_of(folder, self._arguments.archive, Path(temporary))
        orders = DIPY_ORDERS[:1] if self._arguments.quick else DIPY_ORDERS
        return {order: fit_fodf(acquisition, self.mask, sh_order=order, roi_radius=ROI_RADIUS) for order in orders}


def trackers_of(arguments: argparse.Namespace) -> Iterator[Tracker]:
    """Yield dipy's trackers and the models, each with the same number of settings."""
    from comparison.dipy_trackers import dipy_settings
    from comparison.model_tracking import ModelSettings

    from dwiml.training.loading import load_best_model

    models = {path: load_best_model(path) for path in arguments.experiments}
    step_sizes = {model.step_size for model in models.values()}
    if len(step_sizes) > 1:
        raise ValueError(f"The models have different step sizes ({step_sizes} mm); compare those with the same one.")
    step_size = step_sizes.pop()
    for algorithm in arguments.dipy:
        settings = dipy_settings(DIPY_ORDERS, DIPY_THETAS[algorithm], MASKS)
        yield Tracker(f"dipy {algorithm}", settings, _dipy(algorithm, step_size, arguments.min_length))
    for path, model in models.items():
        for algo in arguments.algos:
            choices = [ModelSettings(algo, theta, mask) for theta in MODEL_THETAS for mask in MASKS]
            yield Tracker(f"{path.name} {algo}", choices, _model(model, arguments.min_length))


def _dipy(algorithm: str, step_size: float, min_length: float) -> Callable[..., Any]:
    def track(data: SubjectData, settings: Any, random_seed: int) -> Any:
        import numpy as np
        from comparison.dipy_trackers import track_with_dipy

        from dwiml.ops.spaces import from_vox_corner, to_vox_corner

        seeds, affine = data.seeds(random_seed), data.volume.affine
        space: dict[str, Any] = {"space": "rasmm", "origin": "center", "affine": affine}
        sizes = data.volume.voxel_sizes
        starts = from_vox_corner(seeds.points(0, len(seeds)).numpy(), voxel_sizes=sizes, **space).astype(np.float64)
        lengths = {"step_size": step_size, "min_length": min_length, "max_length": MAX_LENGTH_MM}
        fodf = data.fodfs[settings.sh_order]
        lines = track_with_dipy(algorithm, settings, fodf, data.mask, starts, affine, seed=random_seed, **lengths)
        stored = np.concatenate(lines) if lines else np.zeros((0, 3), dtype=np.float32)
        counts = np.array([len(line) for line in lines], dtype=np.int64)
        return to_vox_corner(stored, voxel_sizes=sizes, **space), counts

    return track


def _model(model: Any, min_length: float) -> Callable[..., Any]:
    def track(data: SubjectData, settings: Any, random_seed: int) -> Any:
        from comparison.model_tracking import track_with_model

        seeds = data.seeds(random_seed)
        options = {"min_length": min_length, "forward_only": False, "algo": settings.algo, "theta": settings.theta}
        return track_with_model(
            model, data.volume, data.mask, seeds, mask_interpolation=settings.mask, seed=random_seed, **options
        )

    return track


def measured(tracker: Tracker, data: SubjectData, settings: Any, random_seed: int) -> dict[str, Any]:
    """Track, score, and return a row of the JSON file."""
    from comparison.model_tracking import scores_of

    if tracker.name.startswith("dipy"):
        # Not in the time of the tracking.
        _ = data.fodfs
    begin = time.process_time()
    points, lengths = tracker.track(data, settings, random_seed)
    seconds = time.process_time() - begin
    row = {"tracker": tracker.name, "subject": data.name, "settings": str(settings), "random_seed": random_seed}
    return {**row, "nb_seeds": len(data.seeds(random_seed)), "cpu_s": seconds, **scores_of(points, lengths, data.truth)}


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all rows of the JSON file must have in common."""
    names = ("end_tolerance", "min_length", "seeds_per_voxel", "tracking_mask", "quick")
    weights = {path.name: (path / "best_model" / "model_state.pt").stat().st_mtime for path in arguments.experiments}
    folder = str(arguments.subjects_dir.resolve())
    return {name: getattr(arguments, name) for name in names} | {"subjects_dir": folder, "weights": weights}


def read_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows that were measured before, with the same options; check the output.

    Raises
    ------
    ValueError
        If two experiments have the same name, or the JSON file is not one of this script with the same options.
    """
    from dwiml.files import check_outputs, read_json

    names = [path.name for path in arguments.experiments]
    if len(set(names)) < len(names):
        raise ValueError(f"The experiments must have different names, got {', '.join(names)}.")
    check_outputs({"--json": arguments.json}, inputs=[], experiments=arguments.experiments, overwrite=True)
    if not arguments.json.exists():
        return []
    found = read_json(arguments.json, "--json")
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise ValueError(f"--json: '{arguments.json}' is not a file of this script; give another name.")
    if found.get("options") != options_of(arguments):
        raise ValueError(f"--json: '{arguments.json}' was made with other options or weights; give another name.")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def compare(arguments: argparse.Namespace) -> None:
    """Choose settings, score, print and write."""
    from dwiml.files import write_json
    from dwiml.trained.ensemble import check_same_inputs
    from dwiml.training.loading import recorded_parameters

    every = [recorded_parameters(path) for path in arguments.experiments]
    check_same_inputs(every, arguments.experiments)
    recorded, rows = every[0], read_rows(arguments)
    subjects: dict[str, SubjectData] = {}

    def row_of(tracker: Tracker, subject: str, settings: Any, random_seed: int) -> dict[str, Any]:
        key = (tracker.name, subject, str(settings), random_seed)
        for row in rows:
            if (row["tracker"], row["subject"], row["settings"], row["random_seed"]) == key:
                return row
        if subject not in subjects:
            subjects[subject] = SubjectData(subject, recorded, arguments)
        row = measured(tracker, subjects[subject], settings, random_seed)
        rows.append(row)
        write_json(arguments.json, {"options": options_of(arguments), "rows": rows})
        shown = ", ".join(f"{name} {100 * row.get(name, 0):.1f}%" for name in ("valid_connections", "overlap", "f1"))
        print(f"{tracker.name} on {subject}, {settings}, seed {random_seed}: {shown}", flush=True)
        return row

    final = []
    for tracker in trackers_of(arguments):
        settings = tracker.settings[:1] if arguments.quick else tracker.settings
        first = arguments.random_seeds[0]
        best = max(settings, key=lambda each: float(row_of(tracker, arguments.choose_on, each, first)["f1"]))
        final.append([row_of(tracker, arguments.score_on, best, seed) for seed in arguments.random_seeds])
    print(f"\n{arguments.score_on}, settings chosen on {arguments.choose_on}:\n{table(final)}")


def table(trackers: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Return the mean and the standard deviation over the random seeds, one line for each tracker."""
    import numpy as np

    titles = [name.replace("_connections", "") for name in MEASURES]
    lines = [f"{'':<28}{'lines':>8}" + "".join(f"{title:>14}" for title in titles) + f"{'lines/CPU s':>13}  settings"]
    for rows in trackers:
        cells = ""
        for name in MEASURES:
            values = 100 * np.array([row.get(name, 0.0) for row in rows])
            spread = values.std(ddof=1) if len(values) > 1 else float("nan")
            cells += f"{values.mean():>8.1f} ±{spread:>4.1f}"
        count = np.mean([row["nb_streamlines"] for row in rows])
        speed = np.mean([row["nb_streamlines"] / max(row["cpu_s"], 1e-9) for row in rows])
        lines.append(f"{rows[0]['tracker']:<28}{count:>8.0f}{cells}{speed:>13.0f}  {rows[0]['settings']}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; bad input gives one sentence and exit code 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_command(lambda: compare(arguments), parser=parser)


if __name__ == "__main__":
    sys.exit(main())
