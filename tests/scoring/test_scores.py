"""Classification of hand-made lines; overlap, overreach and F1 against loops over sampled voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scoring_support import (
    AFFINES,
    LOWER,
    OBLIQUE,
    SHAPE,
    UNIT,
    UPPER,
    along_x,
    box,
    joined,
    random_lines,
    sampled_voxels,
)

from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth, TrueBundle
from dwiml.scoring.scores import Scores, score_streamlines

NONE, INVALID, WRONG, VALID = Connection.NONE, Connection.INVALID, Connection.WRONG_PATH, Connection.VALID
BUNDLES = {"lower": TrueBundle(**LOWER), "upper": TrueBundle(**UPPER)}
EXACT = {"mask_tolerance": 0, "end_tolerance": 0}


def truth_of(bundles: dict[str, TrueBundle] = BUNDLES, affine: np.ndarray = UNIT, **options: float) -> GroundTruth:
    return GroundTruth.from_volumes(bundles, affine, **{**EXACT, **options})


def score(lines: list, truth: GroundTruth, **options: float) -> Scores:
    return score_streamlines(*joined(lines), truth, **options)


def detour(height: float, y: float = 2.5) -> np.ndarray:
    """Return a line of the lower bundle, 11 + 2 * height long, that leaves it sideways for height - 0.5."""
    return np.array([[0.5, y, 1.5], [5.5, y, 1.5], [5.5, y + height, 1.5], [5.5, y, 1.5], [11.5, y, 1.5]])


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("reverse", [False, True])
def test_each_kind_of_connection(affine: np.ndarray, reverse: bool) -> None:
    across = [[0.5, 2.5, 1.5], [5.5, 5.5, 1.5], [11.5, 7.5, 1.5]]
    lines = {
        "along the lower one": (along_x(2.5), VALID, 0),
        "along the upper one": (along_x(7.5), VALID, 1),
        "of two points": (along_x(7.5)[[0, -1]], VALID, 1),
        "far around": (detour(3), WRONG, 0),
        "from one to the other": (across, INVALID, -1),
        "between the heads": ([[0.5, 2.5, 1.5], [0.5, 7.5, 1.5]], INVALID, -1),
        "stops too early": (along_x(2.5, last=9.5), NONE, -1),
        "ends nowhere": (along_x(5.5), NONE, -1),
        "back to where it began": ([[0.5, 2.5, 1.5], [6.5, 2.5, 1.5], [1.5, 2.5, 2.5]], NONE, -1),
        "of one point": ([[0.5, 2.5, 1.5]], NONE, -1),
        "without points": ([], NONE, -1),
        "that does not move": ([[0.5, 2.5, 1.5]] * 3, NONE, -1),
        "beyond the volume": (along_x(2.5, last=12.5), NONE, -1),
        "far beyond": ([[0.5, 2.5, 1.5], [1e9, 2.5, 1.5]], NONE, -1),
    }
    order = -1 if reverse else 1
    scores = score([np.reshape(line, (-1, 3))[::order] for line, _, _ in lines.values()], truth_of(affine=affine))
    result = dict(zip(lines, zip(map(Connection, scores.kind), scores.bundle.tolist(), strict=True), strict=True))
    assert result == {name: (kind, bundle) for name, (_, kind, bundle) in lines.items()}
    assert [(each.regions, each.nb_streamlines) for each in scores.invalid_bundles] == [
        (("lower head", "upper head"), 1),
        (("lower head", "upper tail"), 1),
    ]
    assert [scores.count(kind) for kind in Connection] == [8, 2, 1, 3]
    assert scores.share(VALID) == 3 / 14
    assert [(each.nb_valid, each.nb_wrong_path, each.found) for each in scores.bundles] == [(1, 1, True), (2, 0, True)]


def test_a_bundle_that_is_missed_counts_in_the_means() -> None:
    scores = score([along_x(2.5, z=1.5), along_x(2.5, z=2.5)], truth_of())
    assert [each.found for each in scores.bundles] == [True, False]
    assert scores.nb_found == 1
    # The lower bundle is 12 x 1 x 2 voxels.
    assert [(each.overlap, each.overreach, each.f1) for each in scores.bundles] == [(1, 0, 1), (0, 0, 0)]
    assert scores.summary() == {
        "valid_connections": 1,
        "wrong_path_connections": 0,
        "invalid_connections": 0,
        "no_connections": 0,
        "valid_bundles": 1,
        "invalid_bundles": 0,
        "overlap": 0.5,
        "overreach": 0,
        "f1": 0.5,
    }


@pytest.mark.parametrize("height", [0.75, 1.0, 2.25])
def test_the_share_outside_is_a_share_of_the_length(height: float) -> None:
    share = 2 * (height - 0.5) / (11 + 2 * height)
    for limit, kind in ((share, VALID), (share + 1e-3, VALID), (share - 1e-3, WRONG)):
        scores = score([detour(height)], truth_of(), max_outside=limit)
        assert Connection(scores.kind[0]) == kind
    assert score([detour(height)], truth_of(), max_outside=1).kind[0] == VALID
    assert score([along_x(2.5)], truth_of(), max_outside=0).kind[0] == VALID


def test_pieces_lost_to_rounding_are_not_outside() -> None:
    # Through corners of voxels, but for the rounding of tenths: pieces of no length beside them are not measured.
    mask = box((0, 1), (0, 3)) | box((1, 2), (3, 6)) | box((2, 3), (6, 9))
    bundles = {"slope": TrueBundle(mask, box((0, 1), (0, 3)), box((2, 3), (6, 9)))}
    lines = [[[0.1, 0.3, 1.5], [2.1, 6.3, 1.5]], [[0.9, 2.7, 1.5], [2.3, 6.9, 1.5]]]
    assert score(lines, truth_of(bundles), max_outside=0).kind.tolist() == [VALID, VALID]


def test_only_lengths_count_not_the_number_of_points() -> None:
    # All points in the mask, the way between two of them far outside; and the other way round.
    jump = np.array([[0.5, 2.5, 1.5], [1.5, 2.5, 1.5], [10.5, 2.5, 1.5], [11.5, 2.5, 1.5]])
    mask = LOWER["mask"] & ~box((3, 9), (2, 3))
    truth = truth_of({"gap": TrueBundle(mask, LOWER["head"], LOWER["tail"])})
    assert score([jump], truth).kind[0] == WRONG
    crowd = np.insert(along_x(2.5), 1, np.tile([5.5, 2.5, 1.5], (99, 1)) + [0, 0.51, 0], axis=0)
    assert score([crowd], truth_of(), max_outside=0.2).kind[0] == VALID


def test_tolerances_are_in_mm_along_each_axis() -> None:
    # Voxels are 1 x 2 x 3 mm: the lines are 2, 3 and 4 mm from the lower bundle.
    lines = [along_x(3.5), along_x(2.5, z=3.5), along_x(4.5)]
    expected = {
        (9, 1.9): [NONE, NONE, NONE],
        (2, 2): [VALID, NONE, NONE],
        (3, 3): [VALID, VALID, NONE],
        (4, 4): [VALID, VALID, VALID],
        (2, 4): [VALID, WRONG, WRONG],
    }
    for (mask_mm, end_mm), kinds in expected.items():
        truth = truth_of(affine=AFFINES["anisotropic"], mask_tolerance=mask_mm, end_tolerance=end_mm)
        assert score(lines, truth).kind.tolist() == kinds


def test_end_tolerance_reaches_lines_that_end_before_and_beyond() -> None:
    lines = [along_x(2.5, first=2.5), along_x(2.5, last=8.5), along_x(2.5, last=7.5)]
    assert score(lines, truth_of(end_tolerance=0)).kind.tolist() == [NONE, NONE, NONE]
    assert score(lines, truth_of(end_tolerance=1)).kind.tolist() == [VALID, NONE, NONE]
    assert score(lines, truth_of(end_tolerance=2)).kind.tolist() == [VALID, VALID, NONE]


def test_bundles_that_share_an_end_region() -> None:
    bent = LOWER["mask"] & box((0, 6), (2, 3)) | box((5, 7), (2, 8)) | box((6, 12), (7, 8))
    bundles = {"lower": TrueBundle(**LOWER), "bent": TrueBundle(bent, LOWER["head"], UPPER["tail"])}
    line = [[0.5, 2.5, 1.5], [5.5, 2.5, 1.5], [6.5, 7.5, 1.5], [11.5, 7.5, 1.5]]
    scores = score([line, along_x(2.5), line[::-1], [[11.5, 2.5, 1.5], [11.5, 7.5, 1.5]]], truth_of(bundles))
    assert scores.kind.tolist() == [VALID, VALID, VALID, INVALID]
    assert scores.bundle.tolist() == [1, 0, 1, -1]
    assert scores.invalid_bundles[0].regions == ("lower tail", "bent tail")


def test_a_line_of_two_bundles_belongs_to_the_mask_with_most_of_its_length() -> None:
    way_above = box((0, 12), (3, 4)) | LOWER["head"] | LOWER["tail"]
    bundles = {"above": TrueBundle(way_above, LOWER["head"], LOWER["tail"]), "lower": TrueBundle(**LOWER)}
    truth = truth_of(bundles, mask_tolerance=5)
    middle = np.array([[0.5, 2.5, 1.5], [2.5, 3.5, 1.5], [9.5, 3.5, 1.5], [11.5, 2.5, 1.5]])
    scores = score([along_x(2.5), middle], truth)
    assert scores.kind.tolist() == [VALID, VALID]
    assert scores.bundle.tolist() == [1, 0]
    # Equals: the first.
    twins = truth_of({"one": TrueBundle(**LOWER), "two": TrueBundle(**LOWER)})
    assert score([along_x(2.5)], twins).bundle.tolist() == [0]
    # Far from both, but less so from the first.
    wrong = score([detour(6)], truth_of(bundles, mask_tolerance=0))
    assert (wrong.kind[0], wrong.bundle[0]) == (WRONG, 1)


def test_overlapping_regions() -> None:
    lap = box((0, 3), (2, 8))
    bundles = {**BUNDLES, "lap": TrueBundle(np.ones(SHAPE, dtype=bool), lap, box((5, 7), (0, 1)))}
    # From the lap, where it lies over the lower head, to the upper tail: the lower head counts.
    scores = score([[[0.5, 2.5, 1.5], [11.5, 7.5, 1.5]]], truth_of(bundles))
    assert scores.invalid_bundles[0].regions == ("lower head", "upper tail")
    # From the lower head to the upper head, both in the lap: no connection.
    assert score([[[0.5, 2.5, 1.5], [0.5, 7.5, 1.5]]], truth_of(bundles)).kind[0] == NONE


def test_bundles_without_end_regions() -> None:
    bundles = {**BUNDLES, "cover": TrueBundle(box((2, 10), (5, 6)))}
    half = along_x(5.5, first=2.5, last=9.5)
    scores = score([half, half[::-1], along_x(5.5), along_x(2.5)], truth_of(bundles))
    # Two of the eight voxels of length of the third line are outside; it is in no bundle.
    assert scores.kind.tolist() == [NONE, NONE, NONE, VALID]
    cover = scores.bundles[2]
    assert (cover.nb_in_mask, cover.nb_valid, cover.nb_wrong_path) == (2, None, None)
    assert (cover.overlap, cover.overreach, cover.f1, cover.has_ends) == (0.5, None, None, False)
    assert cover.found
    assert not score([half], truth_of(bundles), min_coverage=0.51).bundles[2].found
    assert not score([], truth_of(bundles), min_coverage=0).bundles[2].found
    assert scores.bundles[0].nb_in_mask is None
    assert scores.mean("overlap") == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert scores.mean("overreach") == 0


def test_without_end_regions_connections_are_not_available() -> None:
    truth = truth_of({"lower": TrueBundle(LOWER["mask"]), "upper": TrueBundle(UPPER["mask"])})
    scores = score([along_x(2.5, z=z) for z in (1.5, 2.5)], truth)
    assert scores.summary() == {"valid_bundles": 1, "overlap": 0.5}
    assert not scores.has_ends
    assert scores.share(VALID) is None
    result = scores.as_dict()
    assert result["connections"]["valid"] == {"nb_streamlines": None, "share": None}
    assert result["nb_invalid_bundles"] is None
    assert result["mean"] == {"overlap": 0.5, "overreach": None, "f1": None, "adjacency": None}


def loop_over_samples(
    lines: list[np.ndarray], bundles: dict[str, TrueBundle], sizes: np.ndarray, max_outside: float, mm: float
) -> tuple[list[tuple[int, int]], list[set[tuple[int, ...]]]]:
    """Return (kind, bundle) of each line and the voxels passed in each bundle, by plain loops over samples."""
    every = np.argwhere(np.ones(SHAPE))
    wide = []
    for bundle in bundles.values():
        apart = np.linalg.norm((every[:, None] - np.argwhere(bundle.mask)) * sizes, axis=2).min(axis=1)
        wide.append({tuple(voxel) for voxel in every[apart <= mm + 1e-4].tolist()})
    regions = [side for bundle in bundles.values() for side in (bundle.head, bundle.tail)]
    result: list[tuple[int, int]] = []
    passed: list[set[tuple[int, ...]]] = [set() for _ in bundles]
    for line in lines:
        inside = sampled_voxels(line, sizes)
        total = sum(inside.values())

        def region_at(point: np.ndarray) -> int:
            voxel = tuple(np.floor(point).astype(int))
            if not all(0 <= index < size for index, size in zip(voxel, SHAPE, strict=True)):
                return -1
            return next((r for r, volume in enumerate(regions) if volume is not None and volume[voxel]), -1)

        first, last = sorted((region_at(line[0]), region_at(line[-1])))
        if first < 0 or first == last or total == 0:
            result.append((NONE, -1))
        elif first % 2 == 1 or last != first + 1:
            result.append((INVALID, -1))
        else:
            b = first // 2
            share = sum(length for voxel, length in inside.items() if voxel in wide[b]) / total
            assert abs(share - (1 - max_outside)) > 0.002, "too close to call"
            result.append((VALID if share > 1 - max_outside else WRONG, b))
            if share > 1 - max_outside:
                volume = [v for v in inside if all(0 <= i < size for i, size in zip(v, SHAPE, strict=True))]
                passed[b] |= set(volume)
    return result, passed


@pytest.mark.first(2)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("mm", [0.0, 3.0])
def test_scores_equal_those_of_a_plain_loop(affine: np.ndarray, mm: float) -> None:
    # Most of the volume, cut in four, so that random walks join regions often.
    bundles = {
        "a": TrueBundle(box((0, 10), (0, 8), (0, 4)), box((0, 6), (0, 5), (0, 4)), box((6, 12), (0, 5), (0, 4))),
        "b": TrueBundle(box((1, 12), (4, 10), (0, 4)), box((0, 6), (5, 10), (0, 4)), box((6, 12), (5, 9), (0, 4))),
    }
    lines = random_lines(np.random.default_rng(8), 300, reach=1)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    result, passed = loop_over_samples(lines, bundles, sizes, 0.3, mm)
    scores = score(lines, truth_of(bundles, affine, mask_tolerance=mm), max_outside=0.3)
    assert list(zip(scores.kind.tolist(), scores.bundle.tolist(), strict=True)) == result
    assert min(scores.count(kind) or 0 for kind in Connection) >= 2
    for bundle, voxels, true in zip(scores.bundles, passed, bundles.values(), strict=True):
        right = sum(bool(true.mask[voxel]) for voxel in voxels)
        size = int(true.mask.sum())
        assert bundle.nb_voxels == size
        assert bundle.overlap == right / size > 0
        assert bundle.overreach == (len(voxels) - right) / size
        assert bundle.f1 == pytest.approx(2 * right / (size + len(voxels)))


def test_overreach_counts_voxels_of_the_volume_only() -> None:
    # A detour along z, out of the volume and back: allowed by max_outside.
    places = [(0.5, 1.5), (5.5, 1.5), (5.5, 5.5), (6.5, 5.5), (6.5, 1.5), (11.5, 1.5)]
    line = np.array([[x, 2.5, z] for x, z in places])
    lower = score([line], truth_of(), max_outside=0.6).bundles[0]
    # Voxels outside the mask and inside the volume: z = 3 at x = 5 and x = 6.
    assert lower.overreach == 2 / 24
    assert lower.overlap == (12 + 2) / 24


@pytest.mark.parametrize(("nb_points", "nb_lines"), [(1, 1), (11, 3), (50, 1000)])
def test_chunks_change_nothing(nb_points: int, nb_lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cover = {"cover": TrueBundle(box((0, 12), (0, 6), (0, 4)))}
    truth = truth_of({**BUNDLES, **cover}, OBLIQUE, mask_tolerance=4, end_tolerance=3)
    across = [[0.5, 2.5, 1.5], [11.5, 7.5, 1.5]]
    lines = [*random_lines(np.random.default_rng(9), 60), across, along_x(2.5), along_x(7.5), across, detour(3), []]
    expected = score(lines, truth)
    monkeypatch.setattr("dwiml.scoring.voxels._CHUNK_POINTS", nb_points)
    monkeypatch.setattr("dwiml.scoring.voxels._CHUNK_LINES", nb_lines)
    steps: list[int] = []
    found = score_streamlines(*joined(lines), truth, on_progress=steps.append)
    np.testing.assert_array_equal(found.kind, expected.kind)
    np.testing.assert_array_equal(found.bundle, expected.bundle)
    assert found.as_dict() == expected.as_dict()
    assert [each.nb_streamlines for each in expected.invalid_bundles] == [2]
    assert sum(steps) == 66
    assert len(steps) > 1


def test_an_empty_tractogram() -> None:
    for lengths in ([], np.zeros(0, dtype=np.int64)):
        scores = score_streamlines(np.zeros((0, 3)), lengths, truth_of())
        assert scores.nb_streamlines == 0
        assert [scores.count(kind) for kind in Connection] == [0, 0, 0, 0]
        assert scores.share(VALID) is None
        assert scores.summary() == {"valid_bundles": 0, "invalid_bundles": 0, "overlap": 0, "overreach": 0, "f1": 0}


def test_scores_as_dict_are_json() -> None:
    import json

    scores = score([along_x(2.5), [[0.5, 2.5, 1.5], [0.5, 7.5, 1.5]]], truth_of()).as_dict()
    assert json.loads(json.dumps(scores, allow_nan=False)) == {
        **scores,
        "invalid_bundles": [{"regions": ["lower head", "upper head"], "nb_streamlines": 1}],
    }
    assert scores["nb_valid_bundles"] == 1
    assert list(scores["connections"]) == ["valid", "wrong_path", "invalid", "none"]
    assert scores["bundles"]["lower"]["nb_valid"] == 1


@pytest.mark.parametrize(
    ("points", "lengths", "options", "sentence"),
    [
        (np.zeros((4, 2)), [4], {}, r"points must have shape \(N, 3\), got \(4, 2\)."),
        (np.zeros((4, 3)), [3], {}, "lengths add up to 3 points, but points has 4 rows."),
        (np.zeros((4, 3)), [5, -1], {}, "lengths must be whole numbers, 0 or more"),
        (np.zeros((4, 3)), [4.0], {}, "lengths must be whole numbers, 0 or more"),
        (np.zeros((4, 3)), [[4]], {}, "lengths must be whole numbers, 0 or more"),
        (np.full((4, 3), np.nan), [4], {}, "points contains NaN or infinite coordinates"),
        (np.full((4, 3), np.inf), [4], {}, "points contains NaN or infinite coordinates"),
        (np.zeros((4, 3)), [4], {"max_outside": 1.1}, "max_outside must be a number from 0 to 1, got 1.1."),
        (np.zeros((4, 3)), [4], {"min_coverage": -0.1}, "min_coverage must be a number from 0 to 1, got -0.1."),
    ],
)
def test_bad_input_is_one_sentence(points: np.ndarray, lengths: list, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        score_streamlines(points, np.array(lengths), truth_of(), **options)
