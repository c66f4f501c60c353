"""The truth made ready: tolerances against plain distances, shared regions, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scoring_support import AFFINES, LOWER, SHAPE, UPPER, box

from dwiml.scoring.ground_truth import GroundTruth, TrueBundle


def near(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the distance in mm (X, Y, Z) from each voxel to the closest one of a volume, centre to centre."""
    every = np.argwhere(np.ones(SHAPE)) @ affine[:3, :3].T
    mine = np.argwhere(volume) @ affine[:3, :3].T
    return np.linalg.norm(every[:, None] - mine, axis=2).min(axis=1).reshape(SHAPE)


def volume_of(columns: object, index: int) -> np.ndarray:
    return np.asarray(columns.toarray()[:, index].reshape(SHAPE) > 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("tolerance", [0, 0.5, 1.0, 2.0, 3.0, 4.7, 30])
def test_masks_are_widened_by_mm(affine: np.ndarray, tolerance: float) -> None:
    # Of odd shape, and at the border of the volume.
    mask = box((0, 3), (2, 4)) | box((9, 12), (9, 10), (0, 1))
    truth = GroundTruth.from_volumes({"a": TrueBundle(mask)}, affine, mask_tolerance=tolerance)
    np.testing.assert_array_equal(volume_of(truth.masks, 0), mask)
    np.testing.assert_array_equal(volume_of(truth.wide_masks, 0), near(mask, affine) <= tolerance + 1e-4)
    assert truth.mask_tolerance == tolerance


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("tolerance", [0, 2.5, 5.0])
def test_a_voxel_between_regions_belongs_to_the_nearest(affine: np.ndarray, tolerance: float) -> None:
    regions = [box((0, 2), (2, 3)), box((5, 7), (2, 3)), box((2, 4), (5, 6)), box((10, 12), (2, 9))]
    everywhere = np.ones(SHAPE, dtype=bool)
    bundles = {
        "a": TrueBundle(everywhere, regions[0], regions[1]),
        "b": TrueBundle(everywhere, regions[2], regions[3]),
    }
    truth = GroundTruth.from_volumes(bundles, affine, end_tolerance=tolerance)
    distances = np.stack([near(region, affine) for region in regions])
    nearest = distances.min(axis=0)
    for index, (region, distance) in enumerate(zip(regions, distances, strict=True)):
        expected = (distance <= tolerance + 1e-4) & (distance <= nearest + 1e-4)
        np.testing.assert_array_equal(volume_of(truth.ends, index), expected)
        # Its own voxels stay its own.
        assert not (volume_of(truth.ends, index) & (np.sum(regions, axis=0) > 0) & ~region).any()
    # Two of the regions are as far from some voxels, but not on the oblique grid.
    if affine is AFFINES["unit"] and tolerance:
        assert truth.ends.sum(axis=1).max() == 2


def test_names_regions_and_sizes() -> None:
    bundles = {
        "lower": TrueBundle(**LOWER),
        "cover": TrueBundle(box((0, 2), (0, 2))),
        # It begins where the lower one ends.
        "other": TrueBundle(UPPER["mask"], LOWER["tail"].copy(), UPPER["tail"]),
    }
    truth = GroundTruth.from_volumes(bundles, AFFINES["anisotropic"])
    assert truth.names == ("lower", "cover", "other")
    assert truth.grid.shape == SHAPE
    assert truth.regions == ("lower head", "lower tail / other head", "other tail")
    np.testing.assert_array_equal(truth.head, [0, -1, 1])
    np.testing.assert_array_equal(truth.tail, [1, -1, 2])
    np.testing.assert_array_equal(truth.has_ends, [True, False, True])
    np.testing.assert_array_equal(truth.mask_sizes, [24, 8, 24])
    np.testing.assert_allclose(truth.grid.voxel_sizes, [1, 2, 3])
    assert (truth.mask_tolerance, truth.end_tolerance) == (3, 0)


def test_without_any_region() -> None:
    truth = GroundTruth.from_volumes({"a": TrueBundle(LOWER["mask"])}, np.eye(4))
    assert truth.regions == ()
    assert truth.ends.shape == (480, 0)
    assert not truth.has_ends.any()


@pytest.mark.parametrize(
    ("bundles", "options", "sentence"),
    [
        ({}, {}, "The ground truth has no bundles; give at least one."),
        ({"a": TrueBundle(box((0, 0), (0, 0)))}, {}, "The mask of bundle 'a' has no voxels."),
        (
            {"a": TrueBundle(LOWER["mask"]), "b": TrueBundle(np.ones((2, 2, 2), dtype=bool))},
            {},
            r"The mask of bundle 'b' has shape \(2, 2, 2\), but the mask of the first bundle has shape \(12, 10, 4\)",
        ),
        ({"a": TrueBundle(np.ones((2, 2), dtype=bool))}, {}, "all must have the same three axes"),
        ({"a": TrueBundle(np.ones(SHAPE, np.uint8))}, {}, "bundle 'a' holds uint8 values, but booleans are expected"),
        (
            {"a": TrueBundle(LOWER["mask"], LOWER["head"])},
            {},
            "Bundle 'a' has a head but no tail; give both, or neither.",
        ),
        (
            {"a": TrueBundle(LOWER["mask"], None, LOWER["head"])},
            {},
            "Bundle 'a' has a tail but no head; give both, or neither.",
        ),
        (
            {"a": TrueBundle(LOWER["mask"], LOWER["head"], LOWER["head"].copy())},
            {},
            "The head and the tail of bundle 'a' are the same region; they must be two.",
        ),
        ({"a": TrueBundle(**LOWER)}, {"affine": np.zeros((4, 4))}, "The affine is not finite or not invertible"),
        ({"a": TrueBundle(**LOWER)}, {"mask_tolerance": -1}, "mask_tolerance must be a number from 0 to 1000, got -1."),
        (
            {"a": TrueBundle(**LOWER)},
            {"end_tolerance": np.nan},
            "end_tolerance must be a number from 0 to 1000, got nan.",
        ),
    ],
)
def test_bad_input_is_one_sentence(bundles: dict, options: dict, sentence: str) -> None:
    options = {"affine": np.eye(4), **options}
    with pytest.raises(ValueError, match=sentence):
        GroundTruth.from_volumes(bundles, **options)
