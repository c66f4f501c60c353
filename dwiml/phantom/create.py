"""Create the folder of example subjects that ``dwiml create_hdf5`` reads."""

from __future__ import annotations

import json
import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.streamlines import Field, Tractogram
from nibabel.streamlines.trk import TrkFile

from dwiml import __version__
from dwiml.files import write_json
from dwiml.params import checks_arguments
from dwiml.phantom.anatomy import SNR_RANGE, Subject, draw_streamlines, draw_subject
from dwiml.phantom.geometry import Bundle, Floats, template_bundles
from dwiml.phantom.output import new_folder
from dwiml.phantom.simulate import Protocol, make_protocol, simulate_dwi, to_fsl
from dwiml.phantom.tensor_maps import fractional_anisotropy, signal_harmonics
from dwiml.phantom.voxelize import FiberMap, map_fibers

logger = logging.getLogger(__name__)

STEP_MM = 1.0
# A voxel is white matter when fibers occupy at least this fraction of its volume.
WM_FRACTION = 0.25
MIN_SUBJECTS = 3


@dataclass(frozen=True)
class Size:
    """Resolution of a phantom.

    Attributes
    ----------
    voxel_size
        Mean voxel size, mm.
    streamlines_per_bundle
        Number of streamlines in each bundle.
    """

    voxel_size: float
    streamlines_per_bundle: int


SIZES = {"small": Size(3.0, 40), "medium": Size(2.0, 300), "large": Size(1.6, 600)}

GROUPS_CONFIG = {
    "input": {
        "type": "volume",
        "files": ["metrics/sh.nii.gz"],
        "standardization": "independent",
        "std_mask": ["masks/wm.nii.gz"],
    },
    "wm_mask": {"type": "volume", "files": ["masks/wm.nii.gz"], "standardization": "none"},
    "streamlines": {"type": "streamlines", "files": ["bundles/*.trk"]},
}

README = """\
{nb_subjects} example subjects created by dwiml {dwiml_version}:
    dwiml phantom --nb_subjects {nb_subjects} --seed {seed} --size {size}{snr_option} OUT_DIR

subjects/sub-XX/dwi/dwi.nii.gz, dwi.bval, dwi.bvec   simulated diffusion images, bvecs in the FSL convention
subjects/sub-XX/metrics/sh.nii.gz, fa.nii.gz         spherical harmonics of the signal (voxel axes), FA
subjects/sub-XX/masks/wm.nii.gz                      white matter mask
subjects/sub-XX/labels/endpoints.nii.gz              labels of the ends of each bundle (values below)
subjects/sub-XX/bundles/NAME.trk                     streamlines of a bundle
subjects/sub-XX/ground_truth.json                    files and labels of each bundle, for dwiml score
config.json                                          groups of the HDF5 file
training.txt, validation.txt, testing.txt            subjects for training, validation and testing

Endpoint labels (start, end):
{labels}

Next steps, from this folder:

    dwiml create_hdf5 subjects ../phantom.hdf5 config.json training.txt validation.txt testing.txt
    dwiml train learn2track ../phantom.hdf5 ../experiments phantom_l2t \\
        --input_group_name input --streamline_group_name streamlines \\
        --step_size 2 --nb_previous_dirs 1 --neighborhood_type axes --neighborhood_radius 1 \\
        --reverse_ratio 0.5 --noise_gaussian_size_forward 0.08 --noise_correlated_size 0.4 \\
        --batch_size_training 300 --max_epochs 4 --learning_rates 0.002 0.002 0.001 0.0005
    dwiml track ../experiments/phantom_l2t {testing} ../tracked.trk --tracking_mask wm_mask --nb_seeds 2000 \\
        --min_length 20
    dwiml score ../tracked.trk --ground_truth subjects/{testing}

The first command writes the subjects to one HDF5 file. The second trains a model on it ('dwiml train learn2track
--help' lists the options). The third tracks a test subject, and the last scores the tractogram against the true
bundles.
"""


@dataclass(frozen=True)
class SimulatedSubject:
    """The simulated data of a subject.

    Attributes
    ----------
    subject
        Its deformation and voxel grid.
    fiber_map
        The true fibers in each voxel.
    dwi
        Shape (X, Y, Z, N), int16: the diffusion images.
    in_head
        Shape (X, Y, Z), bool: mask of the head.
    streamlines
        For each bundle of the template, its streamlines: shape (n, 3), float64, rasmm.
    """

    subject: Subject
    fiber_map: FiberMap
    dwi: npt.NDArray[np.int16]
    in_head: npt.NDArray[np.bool_]
    streamlines: list[list[Floats]]


@checks_arguments
def create_phantom(
    out_dir: str | Path,
    *,
    nb_subjects: int = 6,
    seed: int = 1,
    size: str = "medium",
    snr: float | Sequence[float] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Simulate example subjects with known bundles and write them in a folder that ``dwiml create_hdf5`` reads.

    One subject in six (and at least one) is for validation, as many are for testing, and the others for training.

    Parameters
    ----------
    out_dir
        Folder to create. It is created atomically: it appears when all files are written.
    nb_subjects
        Number of subjects, at least 3. The first subjects are the same whatever the number.
    seed
        Seed of the random generators, an integer of at least 0. The same seed gives the same subjects.
    size
        ``small`` (voxels of 3 mm and 40 streamlines per bundle, for tests), ``medium`` (2 mm, 300) or ``large``
        (1.6 mm, 600).
    snr
        Signal-to-noise ratio of the images: one number for all subjects, or the lowest and the highest, between which
        each subject has its own. None: 25 to 35. It changes only the noise: anatomy and streamlines stay the same.
    overwrite
        Replace `out_dir` if it is a phantom folder without any other file.
    on_progress
        Called after each subject with the number of subjects done, the total number and the name of this subject.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If there are too few subjects, the seed is negative, the size is unknown or the SNR is invalid.
    FileExistsError
        If `out_dir` is not empty and `overwrite` is False, or if it contains files that are not part of a phantom.
    NotADirectoryError
        If `out_dir` is a file.
    """
    nb_subjects, seed = operator.index(nb_subjects), operator.index(seed)
    _check(nb_subjects, seed, size)
    snr_range = _snr_range(snr)
    out_dir = Path(out_dir)
    bundles = template_bundles()
    description: dict[str, Any] = {"dwiml_version": __version__, "nb_subjects": nb_subjects, "seed": seed, "size": size}
    if snr is not None:
        description["snr"] = list(snr_range)
    with new_folder(out_dir, overwrite=overwrite, description=description) as folder:
        protocol = make_protocol()
        names = []
        for index in range(nb_subjects):
            simulated = simulate_subject(
                index, seed=seed, size=size, bundles=bundles, protocol=protocol, snr_range=snr_range
            )
            name = simulated.subject.name
            _write_subject(folder / "subjects" / name, simulated, bundles, protocol)
            logger.info("%s: %s voxels, SNR %.0f.", name, simulated.subject.shape, simulated.subject.snr)
            names.append(name)
            if on_progress is not None:
                on_progress(index + 1, nb_subjects, name)
        _write_root(folder, names, bundles, description)
    return out_dir


def simulate_subject(
    index: int,
    *,
    seed: int,
    size: str,
    bundles: Sequence[Bundle],
    protocol: Protocol,
    snr_range: tuple[float, float] = SNR_RANGE,
) -> SimulatedSubject:
    """Simulate one subject.

    The seed sequence is keyed by the index, so that a subject does not depend on the number of subjects. The anatomy,
    the streamlines and the noise have separate random generators, so that the anatomy is the same in all sizes.

    Parameters
    ----------
    index
        Index of the subject, from 0.
    seed, size
        As in :func:`create_phantom`.
    bundles
        Bundles of the template.
    protocol
        The acquisition scheme.
    snr_range
        Lowest and highest signal-to-noise ratio, without unit.

    Returns
    -------
    SimulatedSubject
    """
    head, paths, noise = np.random.SeedSequence(seed, spawn_key=(index,)).spawn(3)
    subject = draw_subject(index, SIZES[size].voxel_size, np.random.default_rng(head), snr_range)
    fiber_map = map_fibers(subject, bundles, protocol.directions)
    in_head = subject.in_head()
    in_head.flat[fiber_map.voxels] = True
    dwi = simulate_dwi(protocol, fiber_map, in_head, snr=subject.snr, rng=np.random.default_rng(noise))
    streamlines = draw_streamlines(
        bundles, subject.deformation, SIZES[size].streamlines_per_bundle, STEP_MM, np.random.default_rng(paths)
    )
    return SimulatedSubject(subject, fiber_map, dwi, in_head, streamlines)


def _check(nb_subjects: int, seed: int, size: str) -> None:
    if nb_subjects < MIN_SUBJECTS:
        raise ValueError(
            f"nb_subjects must be at least {MIN_SUBJECTS} (training, validation, testing), got {nb_subjects}."
        )
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    if size not in SIZES:
        raise ValueError(f"Unknown size '{size}'; choose one of: {', '.join(map(repr, SIZES))}.")


def _snr_range(snr: float | Sequence[float] | None) -> tuple[float, float]:
    """Return the lowest and the highest signal-to-noise ratio.

    Raises
    ------
    ValueError
        If they are not one or two positive numbers in this order.
    """
    if snr is None:
        return SNR_RANGE
    values = np.atleast_1d(np.asarray(snr, dtype=np.float64))
    if values.shape not in ((1,), (2,)) or not np.isfinite(values).all() or values.min() <= 0:
        raise ValueError(f"snr must be one or two positive numbers, got {snr}.")
    low, high = float(values[0]), float(values[-1])
    if low > high:
        raise ValueError(f"snr must be the lowest value and then the highest one, got {low:g} and {high:g}.")
    return low, high


def _write_subject(folder: Path, simulated: SimulatedSubject, bundles: Sequence[Bundle], protocol: Protocol) -> None:
    affine, gtab, in_head = simulated.subject.affine, protocol.gtab, simulated.in_head
    for name in ("dwi", "metrics", "masks", "labels", "bundles"):
        (folder / name).mkdir(parents=True)
    save_acquisition(folder / "dwi", simulated.dwi, affine, bvals=gtab.bvals, directions=gtab.bvecs)
    _save_volume(folder / "metrics" / "fa.nii.gz", fractional_anisotropy(simulated.dwi, gtab, in_head), affine)
    _save_volume(folder / "metrics" / "sh.nii.gz", signal_harmonics(simulated.dwi, gtab, in_head), affine)
    wm = np.zeros(simulated.subject.shape, dtype=np.uint8)
    wm.flat[simulated.fiber_map.voxels] = simulated.fiber_map.fractions.sum(axis=1) >= WM_FRACTION
    _save_volume(folder / "masks" / "wm.nii.gz", wm, affine)
    _save_volume(folder / "labels" / "endpoints.nii.gz", simulated.fiber_map.labels, affine)
    for bundle, streamlines in zip(bundles, simulated.streamlines, strict=True):
        _save_streamlines(folder / "bundles" / f"{bundle.name}.trk", streamlines, simulated.subject)
    write_json(folder / "ground_truth.json", ground_truth_config(bundles))


def ground_truth_config(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Return the ground truth configuration of ``dwiml score``: the files and the endpoint labels of each bundle.

    Paths are relative to the folder of a subject.
    """
    endpoints = "labels/endpoints.nii.gz"
    return {
        bundle.name: {
            "tractogram": f"bundles/{bundle.name}.trk",
            "head": {"file": endpoints, "label": 2 * k + 1},
            "tail": {"file": endpoints, "label": 2 * k + 2},
        }
        for k, bundle in enumerate(bundles)
    }


def save_acquisition(
    folder: Path, dwi: npt.NDArray[np.int16], affine: Floats, *, bvals: Floats, directions: Floats
) -> None:
    """Write ``dwi.nii.gz``, ``dwi.bval`` and ``dwi.bvec`` (in the FSL convention, see :func:`to_fsl`).

    Parameters
    ----------
    folder
        An existing folder.
    dwi
        Shape (X, Y, Z, N), int16: the diffusion images.
    affine
        Shape (4, 4), float64: from voxel space (center origin) to rasmm.
    bvals
        Shape (N,), float64: b-values, s/mm2.
    directions
        Shape (N, 3), float64: gradient directions, unit vectors along the voxel axes.
    """
    _save_volume(folder / "dwi.nii.gz", dwi, affine)
    np.savetxt(folder / "dwi.bval", bvals[None], fmt="%d")
    # Adding 0 turns -0 into 0.
    np.savetxt(folder / "dwi.bvec", to_fsl(directions, affine).T + 0.0, fmt="%.8f")


def _save_volume(path: Path, volume: npt.NDArray[np.generic], affine: Floats) -> None:
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _save_streamlines(path: Path, streamlines: list[Floats], subject: Subject) -> None:
    tractogram = Tractogram([points.astype(np.float32) for points in streamlines], affine_to_rasmm=np.eye(4))
    header = {
        Field.VOXEL_TO_RASMM: subject.affine.astype(np.float32),
        Field.VOXEL_SIZES: subject.voxel_sizes.astype(np.float32),
        Field.DIMENSIONS: np.array(subject.shape, dtype=np.int16),
        Field.VOXEL_ORDER: "".join(nib.aff2axcodes(subject.affine)),
    }
    nib.streamlines.save(TrkFile(tractogram, header=header), str(path))


def _write_root(folder: Path, names: list[str], bundles: Sequence[Bundle], description: Mapping[str, Any]) -> None:
    nb_held_out = max(1, len(names) // 6)
    texts = {
        "training.txt": "\n".join(names[: -2 * nb_held_out]),
        "validation.txt": "\n".join(names[-2 * nb_held_out : -nb_held_out]),
        "testing.txt": "\n".join(names[-nb_held_out:]),
        "config.json": json.dumps(GROUPS_CONFIG, indent=2),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    labels = "\n".join(f"  {bundle.name:<12}{2 * k + 1:>3}{2 * k + 2:>4}" for k, bundle in enumerate(bundles))
    snr = "-".join(f"{value:.12g}" for value in dict.fromkeys(description.get("snr", ())))
    readme = README.format(**description, snr_option=f" --snr {snr}" if snr else "", labels=labels, testing=names[-1])
    (folder / "README.txt").write_text(readme, encoding="utf-8")
