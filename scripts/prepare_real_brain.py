"""Create a folder of subjects from one real brain, the diffusion example of the Python package tractseg 2.10.

The left hemisphere and its mirror image become training subjects, a part of its streamlines a validation subject, and
the right hemisphere a testing subject; see ``docs/real_brain.rst``.
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
    from real_brain.diffusion import Acquisition
    from real_brain.streamlines import BoolArray, FloatArray

ANGLE_LIMIT = 15.0
PILOT_SEEDS = 1000
WHOLE = "whole_brain"
CONFIG = {
    "input": {
        "type": "volume",
        "files": ["metrics/sh.nii.gz", "metrics/positions.nii.gz"],
        "standardization": "independent",
        "std_mask": ["masks/wm.nii.gz"],
    },
    "wm_mask": {"type": "volume", "files": ["masks/wm.nii.gz"], "standardization": "none"},
    "streamlines": {"type": "streamlines", "files": ["tractograms/curated.trk"], "dps_keys": ["bundle_id"]},
    "labelled": {"type": "streamlines", "files": ["tractograms/labelled.trk"], "dps_keys": ["valid"]},
}
MIRRORED = "left_mirrored"
SETS = {"training": ("left", MIRRORED), "validation": ("left_validation",), "testing": ("right",)}


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("out_dir", type=Path, help="folder to write; it must not exist yet")
    parser.add_argument("--archive", type=Path, required=True, help="tractseg-2.10.tar.gz, the source distribution")
    parser.add_argument(
        "--seeds_per_voxel", type=int, default=8, help="seeds in each voxel of the left white matter [%(default)s]"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random draws [%(default)s]")
    return parser


def prepare(archive: Path, out_dir: Path, *, seeds_per_voxel: int, seed: int) -> None:
    """Write the whole folder beside ``out_dir`` and rename it when complete: a folder of that name is never half full.

    Raises
    ------
    ValueError
        If the folder exists, the archive is not the expected one, or a check of the data fails.
    """
    from real_brain.archive import check_sha256

    if seeds_per_voxel < 1:
        raise ValueError(f"--seeds_per_voxel must be at least 1, got {seeds_per_voxel}.")
    if out_dir.exists():
        newest = out_dir / "subjects" / MIRRORED / "tractograms" / "labelled.trk"
        older = "" if newest.exists() else " with other subjects or streamlines (an older version's)"
        raise ValueError(f"{out_dir} exists already{older}; remove it to prepare the data again.")
    check_sha256(archive)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as folder:
        work, source = Path(folder, "work"), Path(folder, "source")
        work.mkdir()
        source.mkdir()
        report = _prepare_in(work, source, archive, seeds_per_voxel, seed)
        (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        work.rename(out_dir)
    print(f"Wrote {out_dir}.")


def _prepare_in(work: Path, source: Path, archive: Path, seeds_per_voxel: int, seed: int) -> dict[str, Any]:
    from real_brain.archive import NEEDED, unpack
    from real_brain.bundles import SIDES, bundle_files
    from real_brain.diffusion import fit_fa, read_acquisition
    from real_brain.streamlines import STOP_FA, find_midline, hemisphere_masks
    from real_brain.subjects import write_subjects

    begin = time.perf_counter()
    paths = unpack(archive, source, needed={**NEEDED, **bundle_files()})
    brain = read_acquisition(*(paths[name] for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "brain_mask.nii.gz")))
    fa = fit_fa(brain)
    report: dict[str, Any] = {"fa_median_difference": _compare_fa(fa, brain.mask, paths["reference_fa.nii.gz"])}
    midline, overlap = find_midline(brain.mask, brain.affine)
    print(f"Midline at x = {midline:g} mm (mirror overlap {overlap:.3f}).")
    masks = dict(zip(SIDES, hemisphere_masks(brain.mask & (fa > STOP_FA), brain.affine, midline), strict=True))
    bundles = _write_ground_truths(work, paths, brain, fa > STOP_FA, midline)
    lines, tracked = _track_left(brain, fa, masks["left"], paths["reference_peaks.nii.gz"], seeds_per_voxel, seed)
    report |= {**tracked, **write_subjects(work, brain, fa, masks, lines, midline=midline, seed=seed)}
    (work / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    for name, subjects in SETS.items():
        (work / f"{name}.txt").write_text("".join(f"{subject}\n" for subject in subjects), encoding="utf-8")
    seconds = round(time.perf_counter() - begin, 1)
    print(f"Prepared in {seconds:g} s.")
    return {**report, "midline_mm": midline, "bundles": bundles, "seconds_in_all": seconds}


def _compare_fa(fa: FloatArray, mask: BoolArray, reference: Path) -> float:
    """Compare FA to the package's own: they differ when the volume, the b-values or the mask were misread."""
    import nibabel as nib
    import numpy as np

    difference = float(np.median(np.abs(fa - nib.load(reference).get_fdata())[mask]))
    print(f"FA: median difference from the package's own {difference:.1e}.")
    if not difference < 0.01:
        raise ValueError(f"FA differs from the package's own by {difference:.3f} (median), expected less than 0.01.")
    return difference


def _track_left(
    brain: Acquisition, fa: FloatArray, left: BoolArray, reference_peaks: Path, seeds_per_voxel: int, seed: int
) -> tuple[list[Any], dict[str, Any]]:
    """Track the left hemisphere probabilistically, after a deterministic pilot that checks the orientation.

    Returns
    -------
    The streamlines, and figures for the report.
    """
    import nibabel as nib
    from real_brain.diffusion import fit_fodf
    from real_brain.streamlines import check_orientation, draw_seeds, median_angle_to_peaks, track

    begin = time.perf_counter()
    fodf = fit_fodf(brain, left)
    after_csd = time.perf_counter()
    peaks = nib.load(reference_peaks).get_fdata(dtype="float32")
    seeds = draw_seeds(left, brain.affine, per_voxel=seeds_per_voxel, seed=seed)

    pilot = track(seeds[:PILOT_SEEDS], fodf, fa * left, brain.affine, seed=seed, label="tracking, pilot")
    # Directions that are drawn are further from the peaks.
    angle = median_angle_to_peaks(pilot, peaks, brain.affine)
    print(f"Median angle to the package's reference peaks: {angle:.1f} degrees (limit {ANGLE_LIMIT:g}).")
    check_orientation(angle, ANGLE_LIMIT)
    start = time.perf_counter()
    streamlines = track(seeds, fodf, fa * left, brain.affine, seed=seed, algorithm="prob")
    end = time.perf_counter()
    print(f"Deconvolution {after_csd - begin:.0f} s; tracking {end - start:.0f} s.")
    print(f"{len(streamlines)} streamlines of 20 to 250 mm from {len(seeds)} seeds.")
    return streamlines, {
        "nb_seeds": len(seeds),
        "nb_streamlines": len(streamlines),
        "median_angle_to_peaks_deg": angle,
        "seconds_deconvolution": round(after_csd - begin, 1),
        "seconds_tracking": round(end - start, 1),
    }


def _write_ground_truths(
    work: Path, paths: dict[str, Path], brain: Acquisition, wm: BoolArray, midline: float
) -> dict[str, int]:
    """Write the true bundles of each side, cut at the midline, and of the whole brain; return how many."""
    import nibabel as nib
    import numpy as np
    from real_brain.bundles import BUNDLES, SIDES, bundles_of, write_ground_truth
    from real_brain.streamlines import hemisphere_masks

    everywhere = np.ones(brain.mask.shape, dtype=bool)
    halves = hemisphere_masks(everywhere, brain.affine, midline)
    for side, half in zip(SIDES, halves, strict=True):
        write_ground_truth(work / "subjects" / side, bundles_of(side), paths, brain.affine, half)
    write_ground_truth(work / WHOLE, BUNDLES, paths, brain.affine, everywhere)
    (work / WHOLE / "masks").mkdir()
    nib.save(nib.Nifti1Image((brain.mask & wm).astype("uint8"), brain.affine), work / WHOLE / "masks" / "wm.nii.gz")
    counts = {**{side: len(bundles_of(side)) for side in SIDES}, WHOLE: len(BUNDLES)}
    print(f"True bundles: {counts['left']} left, {counts['right']} right, {counts[WHOLE]} in the whole brain.")
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; bad input gives one sentence and exit code 2."""
    parser = build_parser()
    args = parser.parse_args(argv)
    return run_command(
        lambda: prepare(args.archive, args.out_dir, seeds_per_voxel=args.seeds_per_voxel, seed=args.seed),
        parser=parser,
    )


if __name__ == "__main__":
    sys.exit(main())
