"""Compare trained models with dipy's deterministic, probabilistic and parallel transport trackers.

All trackers have the same seeds and the same mask, the same step size (unless --dipy_step_size is given), and the same
number of settings to try: on one subject (--choose_on), the settings with the highest mean F1 of the bundles (or the
highest sum of the scores of --choose_by) are chosen. They are then scored on other subjects (--score_on), of the same
HDF5 file or of others (--score_in), with several seeds of the random numbers. With --classifier, each tracker is also
scored with the same settings and only the streamlines that the classifier accepts; those that it rejects are tracked
again by models (--max_attempts), but not by dipy's trackers. Rows that are already in the JSON file are not repeated,
so the script continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command

if TYPE_CHECKING:
    import numpy as np
    from comparison.rows_file import RowsFile
    from comparison.subjects import DataSet, SubjectData
    from numpy.typing import NDArray

    from dwiml.tracking.acceptance import Acceptance

MAX_LENGTH_MM = 250.0
MASKS = ("trilinear", "nearest")
# As many settings for each tracker: angles x readings of the mask, and for dipy two orders and half the angles.
MODEL_THETAS = (20.0, 30.0, 40.0, 50.0, 60.0, 75.0, 90.0, 120.0)
DIPY_THETAS = {"det": (10.0, 20.0, 30.0, 45.0), "prob": (20.0, 30.0, 45.0, 60.0), "ptt": (5.0, 10.0, 20.0, 30.0)}
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
    parser.add_argument("--score_on", required=True, nargs="+", metavar="SUBJECT", help="subjects that are scored")
    parser.add_argument(
        "--score_in",
        nargs=2,
        action="append",
        type=Path,
        metavar=("HDF5", "SUBJECTS_DIR"),
        help="other data of the subjects that are scored, for one table; may be repeated [those of the experiments]",
    )
    parser.add_argument(
        "--choose_by", nargs="+", choices=MEASURES, default=["f1"], help="scores whose sum is highest [f1]"
    )
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
    parser.add_argument("--dipy_step_size", type=float, metavar="MM", help="of dipy's trackers [that of the models]")
    parser.add_argument("--algos", nargs="+", choices=["det", "prob"], default=["prob"], help="of the models [prob]")
    parser.add_argument("--classifier", type=Path, metavar="EXPERIMENT", help="trained classifier of streamlines")
    parser.add_argument(
        "--min_plausibility", type=float, default=0.5, help="of an accepted streamline, 0 to 1 [%(default)s]"
    )
    parser.add_argument("--max_attempts", type=int, default=1, help="of a model at a seed [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="one setting for each tracker, to see that all runs")
    return parser


# Points and lengths, from a subject, a setting and a random seed.
Track = Callable[["SubjectData", Any, int], "tuple[NDArray[np.float32], NDArray[np.int64]]"]


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
    like
        Name of an earlier tracker whose chosen settings are used; None: they are chosen.
    """

    name: str
    settings: Sequence[Any]
    track: Track
    like: str | None = None


def trackers_of(arguments: argparse.Namespace) -> Iterator[Tracker]:
    """Yield dipy's trackers and the models, each with the same number of settings."""
    from comparison.checks import common_step_size
    from comparison.dipy_trackers import dipy_settings
    from comparison.model_tracking import ModelSettings

    from dwiml.training.loading import load_best_model

    models = {path: load_best_model(path) for path in arguments.experiments}
    step_size = common_step_size(list(models.values()), arguments.algos)
    acceptance = _acceptance(arguments)
    for algorithm in arguments.dipy:
        settings = dipy_settings(DIPY_ORDERS, DIPY_THETAS[algorithm], MASKS)
        name, own_step = f"dipy {algorithm}", arguments.dipy_step_size or step_size
        track = _dipy(algorithm, own_step, arguments.min_length)
        yield Tracker(name, settings, track)
        if acceptance is not None:
            yield Tracker(f"{name}, plausible", settings, _filtered(track, acceptance), like=name)
    for path, model in models.items():
        for algo in arguments.algos:
            choices = [ModelSettings(algo, theta, mask) for theta in MODEL_THETAS for mask in MASKS]
            name = f"{path.name} {algo}"
            yield Tracker(name, choices, _model(model, arguments.min_length))
            if acceptance is not None:
                once = acceptance if algo == "prob" else replace(acceptance, max_attempts=1)
                track = _model(model, arguments.min_length, once)
                yield Tracker(f"{name}, plausible", choices, track, like=name)


def _acceptance(arguments: argparse.Namespace) -> Acceptance | None:
    from dwiml.tracking.acceptance import Acceptance
    from dwiml.training.loading import load_best_model

    if arguments.classifier is None:
        return None
    classifier = load_best_model(arguments.classifier)
    limits = {"min_plausibility": arguments.min_plausibility, "max_attempts": arguments.max_attempts}
    return Acceptance(classifier.eval(), **limits)


def _filtered(track: Track, acceptance: Acceptance) -> Track:
    """Return a tracker whose implausible streamlines are left out."""

    def filtered(data: SubjectData, settings: Any, random_seed: int) -> Any:
        import torch

        from dwiml.ops.sequences import TensorSequence
        from dwiml.tracking.acceptance import plausibility_of

        points, lengths = track(data, settings, random_seed)
        lines = TensorSequence(torch.from_numpy(points), torch.from_numpy(lengths))
        volume, sizes = data.volume.as_tensor(), torch.from_numpy(data.volume.voxel_sizes)
        found = plausibility_of(acceptance.classifier, lines, volume, sizes).numpy()
        kept = found >= acceptance.min_plausibility
        return points[kept.repeat(lengths)], lengths[kept]

    return filtered


def _dipy(algorithm: str, step_size: float, min_length: float) -> Track:
    def track(data: SubjectData, settings: Any, random_seed: int) -> Any:
        import numpy as np
        from comparison.dipy_trackers import track_with_dipy

        from dwiml.ops.spaces import from_vox_corner, to_vox_corner

        seeds, affine = data.seeds(random_seed), data.volume.affine
        space: dict[str, Any] = {"space": "rasmm", "origin": "center", "affine": affine}
        sizes = data.volume.voxel_sizes
        starts = from_vox_corner(seeds.points(0, len(seeds)).numpy(), voxel_sizes=sizes, **space).astype(np.float64)
        lengths = {"step_size": step_size, "min_length": min_length, "max_length": MAX_LENGTH_MM}
        fodf = data.fodf(settings.sh_order)
        lines = track_with_dipy(algorithm, settings, fodf, data.mask, starts, affine, seed=random_seed, **lengths)
        stored = np.concatenate(lines) if lines else np.zeros((0, 3), dtype=np.float32)
        counts = np.array([len(line) for line in lines], dtype=np.int64)
        return to_vox_corner(stored, voxel_sizes=sizes, **space), counts

    return track


def _model(model: Any, min_length: float, acceptance: Acceptance | None = None) -> Track:
    def track(data: SubjectData, settings: Any, random_seed: int) -> Any:
        from comparison.model_tracking import track_with_model

        seeds = data.seeds(random_seed)
        options = {"min_length": min_length, "forward_only": False, "algo": settings.algo, "theta": settings.theta}
        options |= {"mask_interpolation": settings.mask, "seed": random_seed, "acceptance": acceptance}
        return track_with_model(model, data.volume, data.mask, seeds, **options)

    return track


def measured(tracker: Tracker, data: SubjectData, settings: Any, random_seed: int) -> dict[str, Any]:
    """Track, score, and return a row of the JSON file."""
    from comparison.model_tracking import scores_of

    if tracker.name.startswith("dipy"):
        # Not in the time of the tracking.
        data.fodf(settings.sh_order)
    begin = time.process_time()
    points, lengths = tracker.track(data, settings, random_seed)
    seconds = time.process_time() - begin
    return {
        **key_of(tracker, data.data, data.name, settings, random_seed),
        "nb_seeds": len(data.seeds(random_seed)),
        "cpu_s": seconds,
        **scores_of(points, lengths, data.truth),
    }


def key_of(tracker: Tracker, data: DataSet, subject: str, settings: Any, random_seed: int) -> dict[str, Any]:
    """Return what a row of the JSON file is found by."""
    row = {"tracker": tracker.name, "data": data.name, "subjects_dir": str(data.subjects_dir.resolve())}
    return {**row, "subject": subject, "settings": str(settings), "random_seed": random_seed}


def options_of(arguments: argparse.Namespace, own: DataSet) -> dict[str, Any]:
    """Return what all rows of the JSON file must have in common; `own` are the data on which settings are chosen."""
    names = ["dipy_step_size", "end_tolerance", "min_length", "seeds_per_voxel", "tracking_mask", "quick"]
    used = [*arguments.experiments]
    if arguments.classifier is not None:
        names += ["min_plausibility", "max_attempts"]
        used.append(arguments.classifier)
    weights = {path.name: (path / "best_model" / "model_state.pt").stat().st_mtime for path in used}
    files = {"hdf5_file": own.hdf5_file, "subjects_dir": own.subjects_dir, "archive": arguments.archive}
    data = {name: None if path is None else str(path.resolve()) for name, path in files.items()}
    return {name: getattr(arguments, name) for name in names} | data | {"weights": weights}


def read_rows(arguments: argparse.Namespace, own: DataSet) -> RowsFile:
    """Return the rows that were measured before, with the same options; check the output.

    Raises
    ------
    ValueError
        If two experiments have the same name, a subject or a seed is given twice, the step size is out of range, or the
        JSON file is not one of this script with the same options.
    """
    from comparison.checks import check_different, check_dipy_step
    from comparison.rows_file import RowsFile

    from dwiml.files import check_outputs

    names = [path.name for path in [*arguments.experiments, arguments.classifier] if path is not None]
    if len(set(names)) < len(names):
        raise ValueError(f"The experiments must have different names, got {', '.join(names)}.")
    check_different("--score_on", arguments.score_on)
    check_different("--random_seeds", arguments.random_seeds)
    check_dipy_step("--dipy_step_size", arguments.dipy_step_size)
    used = [*arguments.experiments, *([] if arguments.classifier is None else [arguments.classifier])]
    folders = [arguments.subjects_dir, *(path for pair in arguments.score_in or () for path in pair)]
    check_outputs({"--json": arguments.json}, inputs=folders, experiments=used, overwrite=True)
    return RowsFile(arguments.json, options_of(arguments, own))


class Rows:
    """The rows of the JSON file: read, or measured and added to the file.

    Parameters
    ----------
    arguments
        The command line.
    recorded
        Recorded parameters of one of the experiments.
    own
        The data on which the settings are chosen.
    """

    def __init__(self, arguments: argparse.Namespace, recorded: dict[str, Any], own: DataSet) -> None:
        from comparison.subjects import SubjectOptions

        self._rows = read_rows(arguments, own)
        self._subjects: dict[tuple[DataSet, str], SubjectData] = {}
        self._options = SubjectOptions(
            input_group=recorded["loader"]["input_group_name"],
            mask_group=arguments.tracking_mask,
            seeds_per_voxel=arguments.seeds_per_voxel,
            end_tolerance=arguments.end_tolerance,
            archive=arguments.archive,
        )

    def load(self, data: DataSet, subject: str) -> None:
        """Read a subject, which is needed before its rows are measured."""
        from comparison.subjects import SubjectData

        self._subjects[data, subject] = SubjectData(subject, data, self._options)

    def get(self, tracker: Tracker, data: DataSet, subject: str, settings: Any, random_seed: int) -> dict[str, Any]:
        """Return a row."""
        known = self._rows.find(**key_of(tracker, data, subject, settings, random_seed))
        if known is not None:
            return known
        row = measured(tracker, self._subjects[data, subject], settings, random_seed)
        self._rows.add(row)
        shown = ", ".join(f"{name} {100 * row.get(name, 0):.1f}%" for name in ("valid_connections", "overlap", "f1"))
        where = f"{subject} of {data.name}" if data.name else subject
        print(f"{tracker.name} on {where}, {settings}, seed {random_seed}: {shown}", flush=True)
        return row


def compare(arguments: argparse.Namespace) -> None:
    """Choose settings, score, print and write."""
    from comparison.subjects import DataSet

    from dwiml.trained.ensemble import check_same_inputs
    from dwiml.training.loading import recorded_parameters

    used = [*arguments.experiments, *([] if arguments.classifier is None else [arguments.classifier])]
    every = [recorded_parameters(path) for path in used]
    check_same_inputs(every, used)
    own = DataSet("", Path(arguments.hdf5_file or every[0]["data"]["hdf5_file"]), arguments.subjects_dir)
    others = [DataSet(str(hdf5.resolve()), hdf5, folder) for hdf5, folder in arguments.score_in or ()] or [own]
    rows, trackers = Rows(arguments, every[0], own), list(trackers_of(arguments))
    for data, subject in [
        (own, arguments.choose_on),
        *((data, name) for data in others for name in arguments.score_on),
    ]:
        rows.load(data, subject)
    first = arguments.random_seeds[0]

    def quality(tracker: Tracker, settings: Any) -> float:
        row = rows.get(tracker, own, arguments.choose_on, settings, first)
        return sum(float(row.get(name, 0.0)) for name in arguments.choose_by)

    final: dict[DataSet, list[list[dict[str, Any]]]] = {data: [] for data in others}
    chosen: dict[str, Any] = {}
    for tracker in trackers:
        settings = tracker.settings[:1] if arguments.quick else tracker.settings
        chosen[tracker.name] = chosen.get(tracker.like or "") or max(settings, key=lambda each: quality(tracker, each))
        best = chosen[tracker.name]
        for data in others:
            every_pair = [(subject, seed) for subject in arguments.score_on for seed in arguments.random_seeds]
            final[data].append([rows.get(tracker, data, subject, best, seed) for subject, seed in every_pair])
    for data, measured_rows in final.items():
        where = ", ".join(arguments.score_on) + (f" of {data.name}" if data.name else "")
        print(f"\n{where}, settings chosen on {arguments.choose_on}:\n{table(measured_rows)}")


def table(trackers: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Return means and standard deviations, one line for each tracker.

    The standard deviation is over the subjects (each the mean of its random seeds), or over the random seeds if there
    is one subject.
    """
    import numpy as np

    titles = [name.replace("_connections", "") for name in MEASURES]
    lines = [f"{'':<28}{'lines':>8}" + "".join(f"{title:>14}" for title in titles) + f"{'lines/CPU s':>13}  settings"]
    for rows in trackers:
        cells = ""
        subjects = list(dict.fromkeys(row["subject"] for row in rows))
        for name in MEASURES:
            values = [[100 * row.get(name, 0.0) for row in rows if row["subject"] == subject] for subject in subjects]
            each = np.mean(values, axis=1) if len(subjects) > 1 else np.array(values[0])
            spread = each.std(ddof=1) if len(each) > 1 else float("nan")
            cells += f"{each.mean():>8.1f} ±{spread:>4.1f}"
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
