"""The streamlines of example subjects are the truth that their folder tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dwiml.phantom.create import create_phantom
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth_files import read_ground_truth
from dwiml.scoring.scores import score_streamlines
from dwiml.tractograms.reading import read_streamlines

# The second is on anisotropic voxels, the third on an oblique grid.
SUBJECTS = ("sub-01", "sub-02", "sub-03")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_phantom(tmp_path_factory.mktemp("ph") / "ph", size="small", seed=3, nb_subjects=3) / "subjects"


def lines_of(subject: Path, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, lengths and bundles of all true streamlines."""
    files = sorted((subject / "bundles").glob("*.trk"))
    parts = [read_streamlines(file, affine) for file in files]
    names = np.repeat([file.stem for file in files], [len(lengths) for _, lengths in parts])
    return np.concatenate([p for p, _ in parts]), np.concatenate([n for _, n in parts]), names


@pytest.mark.first(1)
@pytest.mark.parametrize("name", SUBJECTS)
def test_true_streamlines_are_valid_and_cover_their_bundles(subjects: Path, name: str) -> None:
    truth = read_ground_truth(subjects / name)
    points, lengths, bundles = lines_of(subjects / name, truth.grid.affine)
    scores = score_streamlines(points, lengths, truth)
    # The mask is what they cross. A streamline may end in a voxel that has more of another bundle's end.
    assert scores.share(Connection.VALID) >= 0.99
    assert scores.nb_found == 10
    assert scores.mean("overlap") >= 0.99
    assert scores.mean("overreach") == 0
    valid = scores.kind == Connection.VALID
    np.testing.assert_array_equal(np.array(truth.names)[scores.bundle[valid]], bundles[valid])


@pytest.mark.parametrize("name", SUBJECTS)
def test_reversed_streamlines_score_the_same(subjects: Path, name: str) -> None:
    truth = read_ground_truth(subjects / name, mask_tolerance=1)
    points, lengths, _ = lines_of(subjects / name, truth.grid.affine)
    # Shaken, so that all kinds are there; in whole voxels, so that no end moves by rounding.
    line = np.repeat(np.arange(len(lengths)), lengths)
    shaken = points + np.random.default_rng(0).integers(-1, 2, (len(lengths), 3))[line].astype(np.float32)
    # The second halves of some take the place of others' second halves.
    halves = np.r_[0, np.cumsum(lengths)[:-1]] + lengths // 2
    for one, other in ((0, 60), (130, 210), (300, 20)):
        shaken[halves[one] : halves[one] + 10] = points[halves[other] : halves[other] + 10]
    scores = score_streamlines(shaken, lengths, truth)
    back = score_streamlines(shaken[::-1], lengths[::-1], truth)
    np.testing.assert_array_equal(back.kind[::-1], scores.kind)
    np.testing.assert_array_equal(back.bundle[::-1], scores.bundle)
    found, of_reversed = scores.as_dict(), back.as_dict()
    assert of_reversed == found
    assert all(scores.count(kind) for kind in (Connection.VALID, Connection.WRONG_PATH, Connection.NONE))


def test_streamlines_of_another_subject_score_lower(subjects: Path) -> None:
    truth = read_ground_truth(subjects / "sub-01")
    points, lengths, _ = lines_of(subjects / "sub-02", truth.grid.affine)
    scores = score_streamlines(points, lengths, truth)
    assert scores.share(Connection.VALID) < 0.5


def test_half_of_a_tractogram_covers_less_and_a_missing_bundle_is_missed(subjects: Path) -> None:
    truth = read_ground_truth(subjects / "sub-03")
    points, lengths, bundles = lines_of(subjects / "sub-03", truth.grid.affine)
    kept = (np.arange(len(lengths)) % 4 == 0) & (bundles != "helix")
    scores = score_streamlines(points[np.repeat(kept, lengths)], lengths[kept], truth)
    found = {each.name: each for each in scores.bundles}
    assert scores.nb_found == 9
    assert (found["helix"].nb_valid, found["helix"].overlap, found["helix"].f1) == (0, 0, 0)
    others = [each for each in scores.bundles if each.name != "helix"]
    assert all(each.nb_valid == 10 and 0.3 < each.overlap < 1 and each.overreach == 0 for each in others)
    assert scores.mean("overlap") == pytest.approx(sum(each.overlap for each in others) / 10)
