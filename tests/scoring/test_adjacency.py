"""The distance between two volumes: by hand, and against nearest neighbors in a k-d tree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scoring_support import AFFINES, SHAPE, along_x, box, joined

from dwiml.ops.spaces import voxel_sizes_of
from dwiml.scoring.adjacency import bundle_adjacency
from dwiml.scoring.ground_truth import GroundTruth, TrueBundle
from dwiml.scoring.scores import score_streamlines

SIZES = (1.5, 2.0, 2.5)


def flat(*voxels: tuple[int, int, int]) -> np.ndarray:
    return np.ravel_multi_index(np.transpose(voxels), SHAPE)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ([(1, 1, 1)], [(1, 1, 1)], 0),
        ([(1, 1, 1)], [(3, 1, 1)], 3),
        # From (1, 1, 1) to (2, 1, 1) 1.5 mm, and the other way (2, 1, 1) is in both.
        ([(1, 1, 1), (2, 1, 1)], [(2, 1, 1)], 0.75),
        # 3 mm from (0, 0, 0), 1.5 mm from (1, 0, 0): mean 2.25; back 2 mm, along y.
        ([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [(2, 0, 0), (2, 1, 0)], (2.25 + 2) / 2),
        ([(0, 0, 0)], [(2, 2, 2)], np.sqrt(9 + 16 + 25)),
    ],
)
def test_by_hand(first: list, second: list, distance: float) -> None:
    assert bundle_adjacency(flat(*first), flat(*second), SHAPE, SIZES) == pytest.approx(distance, abs=1e-4)
    assert bundle_adjacency(flat(*second), flat(*first), SHAPE, SIZES) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_against_a_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sets = [rng.choice(np.prod(SHAPE), size=rng.integers(1, 60), replace=False) for _ in range(2)]
    places = [np.stack(np.unravel_index(each, SHAPE), axis=1) * SIZES for each in sets]
    means = []
    for one, other in ((0, 1), (1, 0)):
        found, _ = cKDTree(places[other]).query(places[one])
        means.append(found[found > 0].mean() if (found > 0).any() else 0)
    assert bundle_adjacency(*sets, SHAPE, SIZES) == pytest.approx(np.mean(means), abs=1e-4)


def test_an_empty_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="two sets with at least one voxel each"):
        bundle_adjacency(flat((0, 0, 0)), np.zeros(0, dtype=int), SHAPE, SIZES)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_of_a_bundle(affine: np.ndarray) -> None:
    mask, ends = box((0, 12), (2, 4), (1, 2)), {"head": box((0, 2), (2, 4)), "tail": box((10, 12), (2, 4))}
    bundles = {
        "a": TrueBundle(mask, **ends),
        "b": TrueBundle(box((0, 2), (7, 8)), box((0, 1), (7, 8)), box((1, 2), (7, 8))),
    }
    truth = GroundTruth.from_volumes(bundles, affine, mask_tolerance=5, end_tolerance=0)
    # One row of the mask, and one row of voxels outside it: each is 1 voxel from the other set.
    scores = score_streamlines(*joined([along_x(2.5), along_x(2.5, z=2.5)]), truth, max_outside=1)
    sizes = voxel_sizes_of(affine)
    assert scores.bundles[0].adjacency == pytest.approx((sizes[1] + sizes[2]) / 2, abs=1e-4)
    assert scores.bundles[1].adjacency is None
    assert scores.mean("adjacency") == scores.bundles[0].adjacency
    assert (scores.bundles[0].valid_share, scores.bundles[0].right_path_share) == (1, 1)
    assert (scores.bundles[1].valid_share, scores.bundles[1].right_path_share) == (0, None)
    without = score_streamlines(*joined([along_x(2.5)]), truth, adjacency=False)
    assert without.bundles[0].adjacency is None
