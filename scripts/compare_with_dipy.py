"""Track a subject with a trained model and with dipy's LocalTracking, from the same seeds, and score both.

dipy is run with many settings (order of the deconvolution, angle, step size, mask interpolation). For each algorithm,
the setting with the highest sum of valid connections and overlap is reported; the JSON file has all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.scoring.ground_truth import GroundTruth

# Where the response of a single fiber is looked for, in voxels around the middle of the volume.
ROI_RADIUS = 20
MEASURES = ("valid_connections", "invalid_connections", "no_connections", "overlap", "overreach", "f1")


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, help="folder of the experiment")
    parser.add_argument("subject", help="subject of the experiment's HDF5 file")
    parser.add_argument("subject_dir", type=Path, help="the subject's folder, as dwiml phantom makes it")
    parser.add_argument("--hdf5_file", help="where the experiment's data are now [where they were]")
    parser.add_argument("--tracking_mask", default="wm_mask", help="volume group of the HDF5 file [%(default)s]")
    parser.add_argument("--dwi", type=Path, help="folder of dwi.nii.gz, dwi.bval, dwi.bvec [SUBJECT_DIR/dwi]")
    parser.add_argument(
        "--archive", type=Path, help="tractseg-2.10.tar.gz, to take the images from, for the real brain"
    )
    parser.add_argument("--ground_truth", type=Path, help="folder of the true bundles [SUBJECT_DIR]")
    parser.add_argument(
        "--seeds",
        choices=["ends", "mask"],
        default="ends",
        help="in the ends of the bundles (labels/endpoints.nii.gz), or in the whole mask [%(default)s]",
    )
    parser.add_argument("--seeds_per_voxel", type=int, default=5, help="[%(default)s]")
    parser.add_argument(
        "--min_length", type=float, default=20.0, help="of streamlines, mm, both trackers [%(default)g]"
    )
    parser.add_argument("--algo", choices=["det", "prob"], default="det", help="of the model [%(default)s]")
    parser.add_argument("--only_model", action="store_true", help="leave dipy out")
    parser.add_argument("--end_tolerance", type=float, default=0.0, help="of the true bundles, mm [%(default)g]")
    parser.add_argument("--sh_orders", type=int, nargs="+", default=[6, 8], help="of dipy's deconvolution [6 8]")
    parser.add_argument("--angles", type=float, nargs="+", default=[15, 20, 30, 45, 60], help="[15 20 30 45 60]")
    parser.add_argument("--steps", type=float, nargs="+", default=[0.5, 1.0], metavar="MM", help="[0.5 1]")
    parser.add_argument("--json", type=Path, help="write all figures there")
    return parser


def compare(arguments: argparse.Namespace) -> None:
    """Track, score and print."""
    from comparison.checks import check_dipy_step
    from comparison.model_tracking import THETA, scores_of, seeds_in_ends, track_with_model

    from dwiml.data.dataset import MultiSubjectDataset
    from dwiml.ops.masks import as_mask
    from dwiml.scoring.ground_truth_files import read_ground_truth
    from dwiml.tracking.seeds import Seeds
    from dwiml.training.loading import load_best_model, recorded_parameters

    for step_size in arguments.steps:
        check_dipy_step("--steps", step_size)
    recorded = recorded_parameters(arguments.experiment)
    dataset = MultiSubjectDataset(arguments.hdf5_file or recorded["data"]["hdf5_file"])
    group = recorded["loader"]["input_group_name"]
    dataset.load_data(subj_id=arguments.subject, volume_groups=[group, arguments.tracking_mask], streamline_groups=[])
    (subject,) = [*dataset.training_set, *dataset.validation_set, *dataset.testing_set]
    volume = subject.volumes[group]
    mask = as_mask(subject.volumes[arguments.tracking_mask].as_tensor()[..., 0].numpy(), arguments.tracking_mask).inside
    truth = read_ground_truth(arguments.ground_truth or arguments.subject_dir, end_tolerance=arguments.end_tolerance)
    if arguments.seeds == "mask":
        seeds = Seeds(mask, per_voxel=arguments.seeds_per_voxel, seed=1)
    else:
        seeds = seeds_in_ends(arguments.subject_dir, mask, arguments.seeds_per_voxel)
    print(f"{arguments.subject}: {len(seeds)} seeds, streamlines of {arguments.min_length:g} mm or more.")
    model = load_best_model(arguments.experiment)
    begin = time.perf_counter()
    points, lengths = track_with_model(
        model,
        volume,
        mask,
        seeds,
        min_length=arguments.min_length,
        forward_only=arguments.seeds == "ends",
        algo=arguments.algo,
    )
    ours = {
        "tracker": "dwiml",
        "settings": f"{arguments.algo}, {model.step_size:g} mm, {THETA:g} degrees, trilinear mask",
        "seconds": time.perf_counter() - begin,
        **scores_of(points, lengths, truth),
    }
    rows = [ours]
    if not arguments.only_model:
        rows += _track_with_dipy(mask, seeds, volume.affine, truth, arguments)
    best = {name: max((row for row in rows if row["tracker"] == name), key=_merit) for name in _trackers(rows)}
    print(table(list(best.values())))
    if arguments.json:
        arguments.json.write_text(json.dumps({"best": best, "all": rows}, indent=2) + "\n", encoding="utf-8")


def _track_with_dipy(
    mask: NDArray[np.bool_], seeds: Any, affine: NDArray[np.float64], truth: GroundTruth, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    import numpy as np
    from comparison.acquisition import read_acquisition_of
    from comparison.dipy_tracking import all_settings, track
    from comparison.model_tracking import MAX_LENGTH_MM, scores_of
    from real_brain.diffusion import fit_fodf
    from real_brain.progress import progress

    from dwiml.ops.spaces import from_vox_corner, to_vox_corner

    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    with tempfile.TemporaryDirectory() as temporary:
        folder, archive = arguments.subject_dir, arguments.archive
        acquisition = read_acquisition_of(folder, archive, Path(temporary), dwi=arguments.dwi)
    fodfs = {order: fit_fodf(acquisition, mask, sh_order=order, roi_radius=ROI_RADIUS) for order in arguments.sh_orders}
    starts = from_vox_corner(
        seeds.points(0, len(seeds)).numpy(), space="rasmm", origin="center", affine=affine, voxel_sizes=sizes
    )
    rows = []
    for settings in progress(all_settings(arguments.sh_orders, arguments.angles, arguments.steps), "dipy"):
        begin = time.perf_counter()
        lines = track(
            settings,
            fodfs[settings.sh_order],
            mask,
            starts.astype(np.float64),
            affine,
            min_length=arguments.min_length,
            max_length=MAX_LENGTH_MM,
        )
        seconds = time.perf_counter() - begin
        stored = np.concatenate(lines) if lines else np.zeros((0, 3), dtype=np.float32)
        points = to_vox_corner(stored, space="rasmm", origin="center", affine=affine, voxel_sizes=sizes)
        scores = scores_of(points, np.array([len(line) for line in lines], dtype=np.int64), truth)
        rows.append({"tracker": f"dipy {settings.algorithm}", "settings": str(settings), "seconds": seconds, **scores})
    return rows


def _merit(row: dict[str, Any]) -> float:
    return float(row.get("valid_connections", 0.0) + row["overlap"])


def _trackers(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["tracker"] for row in rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures of some trackers, in percent, for people."""
    names = [name for name in MEASURES if any(name in row for row in rows)]
    lines = [
        f"{'':<11}{'lines':>7}{'bundles':>9}" + "".join(f"{name.replace('_connections', ''):>11}" for name in names)
    ]
    for row in rows:
        shares = "".join(f"{100 * row[name]:>9.1f} %" if name in row else f"{'-':>11}" for name in names)
        lines.append(
            f"{row['tracker']:<11}{row['nb_streamlines']:>7}{row['valid_bundles']:>9.0f}{shares}   {row['settings']}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; bad input gives one sentence and exit code 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_command(lambda: compare(arguments), parser=parser)


if __name__ == "__main__":
    sys.exit(main())
