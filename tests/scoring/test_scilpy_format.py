"""Ground truths in scilpy's format: every criterion by hand, random lines against plain loops, and invalid files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scoring_support import (
    LOWER,
    OBLIQUE,
    UPPER,
    along_x,
    box,
    joined,
    random_lines,
    sampled_voxels,
    save_lines,
    save_volume,
)

from dwiml.curation.curating import curate_tractograms
from dwiml.ops.spaces import voxel_sizes_of
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.ground_truth_files import ground_truth_files, read_ground_truth
from dwiml.scoring.scilpy_format.endpoints import split_endpoints
from dwiml.scoring.scores import Scores, score_streamlines

NONE, INVALID, WRONG, VALID = Connection.NONE, Connection.INVALID, Connection.WRONG_PATH, Connection.VALID
ENDS = {"head": "low_head.nii.gz", "tail": "low_tail.nii.gz"}
UPPER_ENDS = {"head": "up_head.nii.gz", "tail": "up_tail.nii.gz"}
VOLUMES = {
    **{f"low_{part}": volume for part, volume in LOWER.items()},
    **{f"up_{part}": volume for part, volume in UPPER.items()},
    "low_ends": LOWER["head"] | LOWER["tail"],
    "wide": box((0, 12), (1, 5)),
    "gate": box((5, 6), (3, 4)),
}
STRAIGHT = along_x(2.5)
# Through the row at y = 3, which has the gate, or that at y = 5, outside the wide mask.
BENT = np.array([[0.5, 2.5, 1.5], [5.5, 3.5, 1.5], [11.5, 2.5, 1.5]])
FAR = np.array([[0.5, 2.5, 1.5], [5.5, 5.5, 1.5], [11.5, 2.5, 1.5]])
LINES = [STRAIGHT, BENT, FAR]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, volume in VOLUMES.items():
        save_volume(tmp_path / f"{name}.nii.gz", volume, OBLIQUE)
    return tmp_path


def read(folder: Path, config: Any, **options: Any) -> GroundTruth:
    (folder / "gt_config.json").write_text(json.dumps(config))
    return read_ground_truth(folder, preset="ismrm2015", **options)


def score(folder: Path, config: Any, lines: list[np.ndarray] = LINES, **options: Any) -> Scores:
    return score_streamlines(*joined(lines), read(folder, config, **options))


def mm(x: float, y: float, z: float) -> np.ndarray:
    """Return the rasmm displacement of a displacement in voxels, without sign."""
    return np.abs(OBLIQUE[:3, :3] @ [x, y, z])


LENGTH = 11 * 1.5
ACROSS = float(mm(11, 0, 0)[0])
TRUE = {"gt_mask": "low_mask.nii.gz"}


@pytest.mark.parametrize(
    ("criteria", "kinds"),
    [
        ({}, [VALID, VALID, VALID]),
        ({"all_mask": "wide.nii.gz"}, [VALID, VALID, WRONG]),
        ({"all_mask": "low_mask.nii.gz"}, [VALID, WRONG, WRONG]),
        ({"any_mask": "gate.nii.gz"}, [WRONG, VALID, WRONG]),
        ({"any_mask": "gate.nii.gz", "all_mask": "low_mask.nii.gz"}, [WRONG, WRONG, WRONG]),
        ({"length": [0, LENGTH + 0.1]}, [VALID, WRONG, WRONG]),
        ({"length": [LENGTH + 0.1, 1000]}, [WRONG, VALID, VALID]),
        ({"length": None, "angle": None, "all_mask": None}, [VALID, VALID, VALID]),
        ({"length_x": [ACROSS - 0.1, ACROSS + 0.1]}, [VALID, VALID, VALID]),
        ({"length_x": [ACROSS + 0.1, 1000]}, [WRONG, WRONG, WRONG]),
        # The far line goes back along y; the displacement of all three is the same.
        ({"length_y_abs": [0, float(mm(11, 0, 0)[1]) + 0.1]}, [VALID, VALID, WRONG]),
        ({"angle": 170}, [WRONG, WRONG, WRONG]),
        ({"angle": 300}, [VALID, VALID, VALID]),
    ],
)
def test_criteria_make_a_wrong_path_connection(folder: Path, criteria: dict[str, Any], kinds: list[int]) -> None:
    # Four points: no point of the straight line is at its center, where its angle is not defined.
    straight = np.insert(STRAIGHT, 1, [3.5, 2.5, 1.5], axis=0)
    lines = [line[::order] for line in (straight, BENT, FAR) for order in (1, -1)]
    scores = score(folder, {"a": {**TRUE, **ENDS, **criteria}}, lines)
    assert scores.kind.tolist() == [kind for kind in kinds for _ in range(2)]
    assert scores.bundles[0].nb_wrong_path == 2 * kinds.count(WRONG)


def test_the_config_and_the_mask_of_the_scores_are_independent(folder: Path) -> None:
    scores = score(folder, {"a": {**TRUE, **ENDS}})
    # The bent lines leave the true mask, and are valid: they overreach.
    assert scores.bundles[0].overlap == 0.5
    assert scores.bundles[0].overreach > 0
    scores = score(folder, {"a": {**TRUE, **ENDS, "all_mask": "low_mask.nii.gz"}})
    assert (scores.bundles[0].overlap, scores.bundles[0].overreach) == (0.5, 0)


def test_the_defaults_are_exact_and_tolerances_still_apply(folder: Path) -> None:
    config = {"a": {**TRUE, **ENDS, "all_mask": "low_mask.nii.gz"}}
    truth = read(folder, config)
    assert (truth.mask_tolerance, truth.end_tolerance, truth.max_outside) == (0, 0, 0)
    assert score(folder, config, mask_tolerance=2.0).kind.tolist() == [VALID, VALID, WRONG]
    assert score_streamlines(*joined(LINES), truth, max_outside=1).kind.tolist() == [VALID] * 3
    short = [along_x(2.5, first=2.5)]
    assert score(folder, config, short).kind.tolist() == [NONE]
    assert score(folder, config, short, end_tolerance=1.5).kind.tolist() == [VALID]


def test_curation_has_the_same_defaults(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    config, out = folder / "config.json", tmp_path_factory.mktemp("out")
    config.write_text(json.dumps({"a": {**TRUE, **ENDS, "all_mask": "low_mask.nii.gz"}}))
    save_lines(out / "lines.trk", LINES, OBLIQUE)
    for name, options, nb in (("exact", {}, 1), ("wide", {"mask_tolerance": 2.0}, 2), ("all", {"max_outside": 1.0}, 3)):
        report = out / f"{name}.json"
        done = curate_tractograms(
            [out / "lines.trk"], out / f"{name}.trk", bundles=folder, config=config, report=report, **options
        )
        assert [each.nb_valid for each in done.tractograms] == [nb]
        recorded = json.loads(report.read_text())
        assert [recorded[key] for key in ("mask_tolerance", "end_tolerance", "max_outside")] == [
            options.get("mask_tolerance", 0),
            0,
            options.get("max_outside", 0),
        ]


def test_without_a_true_mask_only_streamlines_are_counted(folder: Path) -> None:
    scores = score(folder, {"a": ENDS, "b": {"gt_mask": "up_mask.nii.gz", **UPPER_ENDS}})
    first, second = scores.bundles
    assert (first.found, first.nb_valid, first.nb_voxels) == (True, 3, 0)
    assert (first.overlap, first.overreach, first.f1, first.adjacency) == (None, None, None, None)
    assert (second.found, second.overlap) == (False, 0)
    assert scores.mean("overlap") == 0


def test_masks_from_tractograms(folder: Path) -> None:
    save_lines(folder / "true.trk", [along_x(2.5, z=z) for z in (1.5, 2.5)], OBLIQUE)
    save_lines(folder / "true.tck", [along_x(2.5, z=z) for z in (1.5, 2.5)], OBLIQUE)
    expected = read(folder, {"a": {**TRUE, **ENDS, "all_mask": "low_mask.nii.gz"}})
    for name in ("true.trk", "true.tck"):
        truth = read(folder, {"a": {"gt_mask": name, "all_mask": name, **ENDS}})
        np.testing.assert_array_equal(truth.masks.toarray(), expected.masks.toarray())
        np.testing.assert_array_equal(truth.wide_masks.toarray(), expected.wide_masks.toarray())


def test_endpoints_are_split(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = read(folder, {"a": {**TRUE, **ENDS}})
    truth = read(folder, {"a": {**TRUE, "endpoints": "low_ends.nii.gz"}})
    np.testing.assert_array_equal(truth.ends.toarray(), expected.ends.toarray())
    labels = LOWER["head"] * np.int16(7) + LOWER["tail"] * np.int16(2)
    save_volume(folder / "labels.nii", labels, OBLIQUE)
    truth = read(folder, {"a": {**TRUE, "endpoints": "labels.nii"}})
    assert truth.regions == ("a head", "a tail")
    np.testing.assert_array_equal(truth.ends.toarray()[:, ::-1], expected.ends.toarray())
    assert not caplog.text
    # Touching labels are still two regions.
    head, tail = split_endpoints(np.array([[[1, 1, 2, 2]]]), "ends")
    assert (head.ravel().tolist(), tail.ravel().tolist()) == ([1, 1, 0, 0], [0, 0, 1, 1])


def test_endpoints_in_pieces_are_split_by_k_means(caplog: pytest.LogCaptureFixture) -> None:
    ends = box((0, 2), (2, 3)) | box((0, 2), (5, 6)) | box((10, 12), (2, 4))
    head, tail = split_endpoints(ends, "The endpoints of bundle 'a'")
    sides = sorted(map(tuple, (np.flatnonzero(head), np.flatnonzero(tail))))
    left = box((0, 3), (0, 10)) & ends
    assert sides == sorted(map(tuple, (np.flatnonzero(left), np.flatnonzero(ends & ~left))))
    assert "The endpoints of bundle 'a' has 3 connected components instead of 2" in caplog.text
    again = split_endpoints(ends, "again")
    np.testing.assert_array_equal(again[0], head)
    with pytest.raises(ValueError, match="ends has 1 voxels"):
        split_endpoints(box((0, 1), (0, 1), (0, 1)), "ends")


def test_the_first_of_several_bundles_gets_the_streamline(folder: Path) -> None:
    gated = {"gt_mask": "wide.nii.gz", "any_mask": "gate.nii.gz", **ENDS}
    open_ = {**TRUE, **ENDS}
    assert score(folder, {"gated": gated, "open": open_}).bundle.tolist() == [1, 0, 1]
    # The wide mask contains more of the bent line, but the open bundle comes first.
    assert score(folder, {"open": open_, "gated": gated}).bundle.tolist() == [0, 0, 0]


def test_several_criteria_of_one_scored_bundle(folder: Path) -> None:
    segmentation = {
        "CC_low": {**ENDS, "all_mask": "low_mask.nii.gz"},
        "other": {**ENDS, "any_mask": "gate.nii.gz"},
        "CC_up": {**UPPER_ENDS, "length": [1, 1000]},
    }
    tractometry = {"CC": {"gt_mask": "both.nii.gz"}, "other": {"gt_mask": "wide.nii.gz"}}
    save_volume(folder / "both.nii.gz", LOWER["mask"] | UPPER["mask"], OBLIQUE)
    (folder / "config_file_segmentation.json").write_text(json.dumps(segmentation))
    (folder / "config_file_tractometry.json").write_text(json.dumps(tractometry))
    truth = read_ground_truth(folder, preset="ismrm2015")
    assert truth.names == ("CC", "other")
    assert truth.regions == ("CC_low head / other head", "CC_low tail / other tail", "CC_up head", "CC_up tail")
    lines = [STRAIGHT, BENT, FAR, along_x(7.5), np.array([[0.5, 2.5, 1.5], [11.5, 7.5, 1.5]])]
    scores = score_streamlines(*joined(lines), truth)
    assert scores.kind.tolist() == [VALID, VALID, WRONG, VALID, INVALID]
    assert scores.bundle.tolist() == [0, 1, 0, 0, -1]
    assert [each.nb_valid for each in scores.bundles] == [2, 1]
    # 12 voxels of each of the two rows at z = 1, of 48.
    assert (scores.bundles[0].overlap, scores.bundles[0].overreach) == (0.5, 0)
    files = {Path(file).name for file in ground_truth_files(folder, None, "ismrm2015")}
    assert {"config_file_segmentation.json", "config_file_tractometry.json", "both.nii.gz", "gate.nii.gz"} <= files


def test_the_order_of_criteria_is_that_of_the_file(folder: Path) -> None:
    """Also between the parts of a bundle: the first criteria that are met decide."""
    segmentation = {"A_1": {**UPPER_ENDS}, "B": {**ENDS}, "A_2": {**ENDS}}
    (folder / "config_file_segmentation.json").write_text(json.dumps(segmentation))
    (folder / "config_file_tractometry.json").write_text(json.dumps({"B": TRUE, "A": TRUE}))
    truth = read_ground_truth(folder, preset="ismrm2015")
    assert [truth.names[b] for b in truth.bundle_of_path] == ["A", "B", "A"]
    assert truth.names[score_streamlines(*joined([STRAIGHT]), truth).bundle[0]] == "B"


def test_a_config_in_this_format_is_recognized(folder: Path) -> None:
    config = folder / "mine.json"
    config.write_text(json.dumps({"a": {**ENDS, "all_mask": "low_mask.nii.gz"}}))
    truth = read_ground_truth(folder, config=config)
    assert truth.first_wins
    assert score_streamlines(*joined(LINES), truth).kind.tolist() == [VALID, WRONG, WRONG]
    (folder / "ground_truth.json").write_text(json.dumps({"a": {**ENDS, **TRUE}}))
    assert read_ground_truth(folder).first_wins
    (folder / "ground_truth.json").write_text(json.dumps({"a": {**ENDS, "mask": "low_mask.nii.gz"}}))
    assert not read_ground_truth(folder).first_wins


@pytest.mark.parametrize("seed", range(4))
def test_random_lines_against_loops(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    volumes = {name: rng.random((12, 10, 4)) < share for name, share in (("head", 0.4), ("tail", 0.4), ("any", 0.05))}
    volumes["all"] = rng.random((12, 10, 4)) < 0.9
    volumes["tail"] &= ~volumes["head"]
    for name, volume in volumes.items():
        save_volume(folder / f"{name}.nii.gz", volume, OBLIQUE)
    ends = {"head": "head.nii.gz", "tail": "tail.nii.gz"}
    config = {
        "tight": {**ends, "any_mask": "any.nii.gz", "all_mask": "all.nii.gz"},
        "all": {**ends, "all_mask": "all.nii.gz"},
        "any": {**ends, "any_mask": "any.nii.gz"},
    }
    lines = random_lines(rng, 400)
    sizes = voxel_sizes_of(OBLIQUE)
    expected = []
    for line in lines:
        voxels = list(sampled_voxels(line, sizes))

        def at(point: np.ndarray, name: str) -> bool:
            voxel = np.floor(point).astype(int)
            return bool((voxel >= 0).all() and (voxel < (12, 10, 4)).all() and volumes[name][tuple(voxel)])

        joins = any(at(line[i], "head") and at(line[-1 - i], "tail") for i in (0, -1)) and len(voxels) > 0
        inside = all(at(np.array(voxel), "all") for voxel in voxels)
        crosses = any(at(np.array(voxel), "any") for voxel in voxels)
        bundle = 0 if inside and crosses else 1 if inside else 2 if crosses else -1
        expected.append((NONE, -1) if not joins else (VALID, bundle) if bundle >= 0 else (WRONG, 0))
    scores = score(folder, config, lines)
    found = list(zip(scores.kind.tolist(), scores.bundle.tolist(), strict=True))
    assert found == [(int(kind), bundle) for kind, bundle in expected]
    assert {kind for kind, _ in found} == {NONE, WRONG, VALID}
    assert {bundle for kind, bundle in found if kind == VALID} == {0, 1, 2}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"a": {**ENDS, "lenght": [0, 1]}}, "bundle 'a': unknown key 'lenght'; known keys are 'gt_mask', 'all_mask'"),
        ({"a": {**ENDS, "mask": "low_mask.nii.gz"}}, "bundle 'a': unknown key 'mask'"),
        ({"a": TRUE}, "bundle 'a': 'head', 'tail' missing; give 'head' and 'tail', or 'endpoints'."),
        ({"a": {"head": "low_head.nii.gz"}}, "bundle 'a': 'tail' missing"),
        ({"a": {"endpoints": "low_ends.nii.gz", **ENDS}}, "give either 'endpoints' or 'head' and 'tail'"),
        ({"a": {**ENDS, "length": [5, 1]}}, "bundle 'a': 'length' must be [smallest, largest], in mm, got [5, 1]."),
        ({"a": {**ENDS, "length_x_abs": 5}}, "'length_x_abs' must be [smallest, largest], in mm, got 5."),
        ({"a": {**ENDS, "length_z": [True, 2]}}, "'length_z' must be [smallest, largest]"),
        ({"a": {**ENDS, "angle": "wide"}}, "bundle 'a': 'angle' (degrees) must be positive, got 'wide'."),
        ({"a": {**ENDS, "all_mask": "none.nii.gz"}}, "The all_mask of bundle 'a': "),
        ({"a": {**ENDS, "gt_mask": "none.trk"}}, "The gt_mask of bundle 'a': "),
        ({"a": {**ENDS, "gt_mask": 5}}, "The gt_mask of bundle 'a' must be"),
        ({"a": {"endpoints": 5}}, "The endpoints of bundle 'a' must be the name of a file, got 5."),
        ({"a": {"head": "low_head.nii.gz", "tail": "low_head.nii.gz"}}, "are the same region; they must be two."),
        ({"a": 5}, "bundle 'a': expected an object with the keys 'gt_mask'"),
        ({}, "must hold {bundle: {...}}, with at least one bundle."),
    ],
)
def test_invalid_configs_are_named(folder: Path, config: Any, sentence: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        read(folder, config)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("segmentation", "tractometry", "sentence"),
    [
        ({"a": ENDS}, {"b": TRUE}, "bundle 'a': it is not a bundle of 'config_file_tractometry.json'."),
        ({"a": ENDS}, {"a": TRUE, "b": TRUE}, "there are no criteria for 'b' in 'config_file_segmentation.json'."),
        ({"a": {**ENDS, **TRUE}}, {"a": TRUE}, "bundle 'a': it has a 'gt_mask' here too; remove it from one"),
        ({"a": ENDS}, {"a": ENDS}, "bundle 'a': unknown key 'head', 'tail'; known keys are 'gt_mask'."),
        ({"a": ENDS}, {"a": {}}, "bundle 'a': 'gt_mask' is missing"),
    ],
)
def test_invalid_pairs_are_named(folder: Path, segmentation: Any, tractometry: Any, sentence: str) -> None:
    (folder / "config_file_segmentation.json").write_text(json.dumps(segmentation))
    (folder / "config_file_tractometry.json").write_text(json.dumps(tractometry))
    with pytest.raises(ValueError, match="config_file") as caught:
        read_ground_truth(folder, preset="ismrm2015")
    assert sentence in str(caught.value)


def test_an_unknown_preset_and_a_folder_without_its_files(folder: Path) -> None:
    with pytest.raises(ValueError, match="preset must be one of 'ismrm2015', got 'ismrm'"):
        read_ground_truth(folder, preset="ismrm")
    with pytest.raises(FileNotFoundError, match=r"holds neither 'gt_config.json' nor both"):
        read_ground_truth(folder, preset="ismrm2015")
