"""A maker of real subjects' folders: NIfTI volumes and tractograms, oblique and anisotropic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from dwiml.hdf5.creator import CreationSummary, create_hdf5

SHAPE = (8, 7, 6)
ROTATION = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.25, 1.0, 0.1], [0.2, 0.1, 1.0]]))[0]
VOXEL_SIZES = np.array([1.5, 2.0, 2.5])
AFFINE = np.eye(4)
# Oblique, to the left and the back, its origin far away, as on many scanners.
AFFINE[:3, :3] = ROTATION * VOXEL_SIZES
AFFINE[:3, 3] = [61.0, -97.0, -43.0]


def to_rasmm(lines: list[np.ndarray], affine: np.ndarray = AFFINE) -> list[np.ndarray]:
    """Move lines from voxel space, corner origin, to the scanner's mm."""
    return [((line - 0.5) @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32) for line in lines]


def arcs(nb: int, seed: int = 0) -> list[np.ndarray]:
    """Return curved lines of 5 to 20 points inside the volume (vox, corner)."""
    rng = np.random.default_rng(seed)
    lines = []
    for n in rng.integers(5, 21, nb):
        start, end = rng.uniform(0.15, 0.85, (2, 3)) * SHAPE
        t = np.sort(rng.uniform(0, 1, n))[:, None]
        t[0], t[-1] = 0, 1
        lines.append(start + (end - start) * t + rng.uniform(-0.4, 0.4, 3) * 4 * t * (1 - t))
    return lines


class Subjects:
    """A subjects' folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "subjects"
        self.out = root / "out.hdf5"
        self.folder.mkdir()

    def volume(self, subject: str, name: str, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        path = self.folder / subject / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), path)
        return path

    def tractogram(
        self,
        subject: str,
        name: str,
        lines: list[np.ndarray],
        dps: dict[str, Any] | None = None,
        affine: np.ndarray = AFFINE,
        shape: tuple[int, int, int] = SHAPE,
    ) -> Path:
        """Write lines given in voxel space, corner origin."""
        path = self.folder / subject / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tractogram = nib.streamlines.Tractogram(to_rasmm(lines, affine), dps, affine_to_rasmm=np.eye(4))
        header = {
            "voxel_to_rasmm": affine.astype(np.float32),
            "dimensions": shape,
            "voxel_sizes": np.linalg.norm(affine[:3, :3], axis=0),
            "voxel_order": "".join(aff2axcodes(affine)),
        }
        nib.streamlines.save(tractogram, str(path), header=header if path.suffix == ".trk" else None)
        return path

    def plain(self, subject: str, nb_streamlines: int = 6, seed: int = 0) -> None:
        """Write the usual: dwi.nii.gz (3 features), mask.nii.gz, wb.trk."""
        rng = np.random.default_rng(seed)
        self.volume(subject, "dwi.nii.gz", rng.normal(5, 3, (*SHAPE, 3)).astype(np.float32))
        mask = np.zeros(SHAPE, dtype=np.uint8)
        mask[2:6, 2:6, 1:5] = 1
        self.volume(subject, "mask.nii.gz", mask)
        self.tractogram(subject, "wb.trk", arcs(nb_streamlines, seed))

    def config(self, groups: dict[str, Any] | None = None) -> Path:
        path = self.root / "config.json"
        path.write_text(
            json.dumps(
                groups
                or {
                    "input": {"type": "volume", "files": ["dwi.nii.gz"]},
                    "streamlines": {"type": "streamlines", "files": ["wb.trk"]},
                }
            )
        )
        return path

    def create(self, groups: dict[str, Any] | None = None, **options: Any) -> CreationSummary:
        """Create the HDF5 file from all subjects, or from the lists in ``options``."""
        lists: dict[str, Any] = {
            "training": sorted(path.name for path in self.folder.iterdir()),
            "validation": [],
            "testing": [],
        }
        lists |= {name: options.pop(name) for name in list(options) if name in lists}
        return create_hdf5(self.folder, self.out, self.config(groups), **lists, **options)

    def assert_nothing_written(self) -> None:
        """Neither the file nor a temporary one."""
        assert [path.name for path in self.root.iterdir() if "hdf5" in path.name] == []


@pytest.fixture
def subjects(tmp_path: Path) -> Subjects:
    return Subjects(tmp_path)


@pytest.fixture
def grid() -> dict[str, Any]:
    """The grid of all files made here, and the helpers that know it."""
    return {"affine": AFFINE, "shape": SHAPE, "voxel_sizes": VOXEL_SIZES, "to_rasmm": to_rasmm, "arcs": arcs}
