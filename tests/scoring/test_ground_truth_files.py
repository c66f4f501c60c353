"""Ground truths and tractograms read from files that nibabel and dipy wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from dipy.io.streamline import save_tractogram
from scoring_support import (
    AFFINES,
    LOWER,
    OBLIQUE,
    SHAPE,
    UPPER,
    along_x,
    box,
    joined,
    random_lines,
    save_lines,
    save_volume,
)

from dwiml.scoring.ground_truth import GroundTruth, TrueBundle
from dwiml.scoring.ground_truth_files import read_ground_truth
from dwiml.scoring.scores import score_streamlines
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import read_streamlines
from dwiml.tractograms.writing.writer import TractogramWriter

LABELS = np.zeros(SHAPE, dtype=np.int16)
for label, region in zip((3, 5, 7, 9), (LOWER["head"], LOWER["tail"], UPPER["head"], UPPER["tail"]), strict=True):
    LABELS[region] = label


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two bundles: masks, a label volume, tractograms; no config."""
    made = tmp_path / "truth"
    made.mkdir()
    save_volume(made / "labels.nii.gz", LABELS, OBLIQUE)
    save_volume(made / "lower.nii.gz", LOWER["mask"], OBLIQUE)
    save_volume(made / "both.nii", np.stack([LOWER["mask"], UPPER["mask"]], axis=-1), OBLIQUE)
    for suffix in ("trk", "tck"):
        save_lines(made / f"lower.{suffix}", [along_x(2.5, z=1.5), along_x(2.5, z=2.5)], OBLIQUE)
        save_lines(made / f"upper.{suffix}", [along_x(7.5, z=1.5)], OBLIQUE)
    return made


def configure(folder: Path, **bundles: Any) -> Path:
    (folder / "ground_truth.json").write_text(json.dumps(bundles))
    return folder


def mask_of(truth: GroundTruth, index: int) -> np.ndarray:
    return np.asarray(truth.masks.toarray()[:, index].reshape(SHAPE) > 0)


def test_masks_labels_and_volumes(folder: Path) -> None:
    configure(
        folder,
        lower={
            "mask": "lower.nii.gz",
            "head": {"file": "labels.nii.gz", "label": 3},
            "tail": {"file": "labels.nii.gz", "label": 5},
        },
        upper={
            "mask": {"file": "both.nii", "volume": 1},
            "head": {"file": "labels.nii.gz", "label": 7},
            "tail": {"file": "labels.nii.gz", "label": [9, 5]},
        },
        every={"mask": "labels.nii.gz"},
    )
    truth = read_ground_truth(folder, mask_tolerance=1, end_tolerance=2)
    expected = GroundTruth.from_volumes(
        {
            "lower": TrueBundle(**LOWER),
            "upper": TrueBundle(UPPER["mask"], UPPER["head"], UPPER["tail"] | LOWER["tail"]),
            "every": TrueBundle(LABELS > 0),
        },
        OBLIQUE,
        mask_tolerance=1,
        end_tolerance=2,
    )
    for name in ("masks", "wide_masks", "ends"):
        np.testing.assert_array_equal(getattr(truth, name).toarray(), getattr(expected, name).toarray())
    np.testing.assert_allclose(truth.grid.affine, OBLIQUE, atol=1e-6)
    assert (truth.names, truth.regions) == (expected.names, expected.regions)
    assert (truth.mask_tolerance, truth.end_tolerance) == (1, 2)
    np.testing.assert_array_equal([truth.head, truth.tail], [expected.head, expected.tail])


@pytest.mark.parametrize("suffix", ["trk", "tck"])
def test_a_mask_is_the_voxels_that_tractograms_cross(folder: Path, suffix: str) -> None:
    # A .tck tells no grid: that of the volume in the next bundle counts.
    configure(
        folder,
        lower={"tractogram": f"lower.{suffix}"},
        both={"tractogram": [f"upper.{suffix}", f"lower.{suffix}"], "head": "lower.nii.gz", "tail": "both.nii"}
        | {"tail": {"file": "labels.nii.gz", "label": 9}},
    )
    truth = read_ground_truth(folder)
    np.testing.assert_array_equal(mask_of(truth, 0), LOWER["mask"])
    np.testing.assert_array_equal(mask_of(truth, 1), LOWER["mask"] | box((0, 12), (7, 8), (1, 2)))


def test_tractograms_alone_define_the_grid(folder: Path) -> None:
    truth = read_ground_truth(configure(folder, lower={"tractogram": "lower.trk"}))
    assert truth.grid.shape == SHAPE
    np.testing.assert_allclose(truth.grid.affine, OBLIQUE, atol=1e-5)


def test_a_folder_of_masks_needs_no_config(folder: Path) -> None:
    save_volume(folder / "an upper.one.nii", UPPER["mask"].astype(np.float64) * 0.25, OBLIQUE)
    (folder / "both.nii").unlink()
    truth = read_ground_truth(folder)
    assert truth.names == ("an upper.one", "labels", "lower")
    np.testing.assert_array_equal(mask_of(truth, 0), UPPER["mask"])
    np.testing.assert_array_equal(mask_of(truth, 1), LABELS > 0)
    assert not truth.has_ends.any()


def test_another_config_is_read_instead(folder: Path, tmp_path: Path) -> None:
    configure(folder, wrong={"mask": "nothing.nii"})
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"mine": {"mask": "lower.nii.gz"}}))
    assert read_ground_truth(folder, config=config).names == ("mine",)


def test_nan_in_a_mask_is_rejected(folder: Path) -> None:
    values = LOWER["mask"].astype(np.float32)
    values[5, 5, 1] = np.nan
    save_volume(folder / "nan.nii", values, OBLIQUE)
    with pytest.raises(ValueError, match=r"The mask of bundle 'a': '.*nan.nii' holds 1 NaN or infinite values"):
        read_ground_truth(configure(folder, a={"mask": "nan.nii"}))


@pytest.mark.parametrize("first", ["trx", "tck", "trk"])
@pytest.mark.parametrize("second", ["trx", "trk"])
def test_any_file_defines_the_grid_in_any_order(folder: Path, first: str, second: str) -> None:
    """{"AF": x.trx, "CST": y.trk} failed for want of a grid, the other order did not."""
    points, lengths = joined([along_x(7.5, z=1.5)])
    with TractogramWriter(folder / "upper.trx", grid=Grid(OBLIQUE, SHAPE)) as writer:
        writer.append(points, lengths)
    points, lengths = joined([along_x(2.5, z=1.5), along_x(2.5, z=2.5)])
    with TractogramWriter(folder / "lower.trx", grid=Grid(OBLIQUE, SHAPE)) as writer:
        writer.append(points, lengths)
    bundles = {"AF": {"tractogram": f"upper.{first}"}, "CST": {"tractogram": f"lower.{second}"}}
    truth = read_ground_truth(configure(folder, **bundles))
    np.testing.assert_allclose(truth.grid.affine, OBLIQUE, atol=1e-5)
    expected = read_ground_truth(configure(folder, AF={"tractogram": "upper.trk"}, CST={"tractogram": "lower.trk"}))
    np.testing.assert_array_equal(truth.masks.toarray(), expected.masks.toarray())


def test_a_config_with_a_byte_order_mark_is_read(folder: Path) -> None:
    (folder / "ground_truth.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": {"mask": "lower.nii.gz"}}).encode())
    assert read_ground_truth(folder).names == ("a",)
    (folder / "ground_truth.json").write_text('{"a": {"mask": "lower.nii.gz"}, "a": {"mask": "both.nii"}}')
    with pytest.raises(ValueError, match="ground_truth.json' is not valid JSON .'a' appears twice"):
        read_ground_truth(folder)


@pytest.mark.parametrize("kind", ["mask", "head", "tail"])
def test_a_probability_map_is_thresholded_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    values = np.where(LOWER[kind], np.float32(0.75), np.float32(0.01))
    values[UPPER[kind]] = 0.25
    save_volume(folder / "map.nii", values, OBLIQUE)
    plain = {"mask": "lower.nii.gz", "head": {"file": "labels.nii.gz", "label": 3}}
    plain["tail"] = {"file": "labels.nii.gz", "label": 5}
    expected = read_ground_truth(configure(folder, a=plain))
    assert not caplog.text
    truth = read_ground_truth(configure(folder, a={**plain, kind: "map.nii"}))
    np.testing.assert_array_equal(truth.masks.toarray(), expected.masks.toarray())
    np.testing.assert_array_equal(truth.ends.toarray(), expected.ends.toarray())
    assert f"The {kind} of bundle 'a'" in caplog.text
    assert "is not a 0/1 mask (values from 0.01 to 0.75): voxels of at least 0.5 are inside." in caplog.text


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("suffix", ["trk", "tck", "trx"])
def test_streamlines_are_read_in_the_voxel_space_of_the_truth_from_any_grid(
    tmp_path: Path, affine: np.ndarray, suffix: str
) -> None:
    lines = random_lines(np.random.default_rng(0), 20, reach=0)
    points, lengths = joined(lines)
    # The tractogram's own grid is another one.
    own = np.diag([2.0, 2.0, 2.0, 1.0])
    own[:3, 3] = affine[:3, 3] - 40
    image = nib.Nifti1Image(np.zeros((60, 60, 60), dtype=np.uint8), own)
    mm = [(line - 0.5) @ affine[:3, :3].T + affine[:3, 3] for line in lines]
    path = tmp_path / f"lines.{suffix}"
    save_tractogram(StatefulTractogram(mm, image, Space.RASMM, origin=Origin.NIFTI), str(path), bbox_valid_check=False)
    found, found_lengths = read_streamlines(path, affine)
    np.testing.assert_array_equal(found_lengths, lengths)
    np.testing.assert_allclose(found, points, atol=2e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("suffix", ["trk", "tck"])
def test_an_empty_tractogram(tmp_path: Path, suffix: str) -> None:
    save_lines(tmp_path / f"none.{suffix}", [], OBLIQUE)
    points, lengths = read_streamlines(tmp_path / f"none.{suffix}", OBLIQUE)
    assert (points.shape, lengths.shape) == ((0, 3), (0,))
    truth = GroundTruth.from_volumes({"lower": TrueBundle(**LOWER)}, OBLIQUE)
    assert score_streamlines(points, lengths, truth).nb_streamlines == 0


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_files_score_as_arrays_in_memory(tmp_path: Path, affine: np.ndarray) -> None:
    lines = [along_x(2.5), along_x(7.5), along_x(5.5), *random_lines(np.random.default_rng(1), 40)]
    save_lines(tmp_path / "lines.trk", lines, affine)
    for name, volume in {**LOWER, "labels": LABELS}.items():
        save_volume(tmp_path / f"{name}.nii", volume, affine)
    configure(tmp_path, lower={"mask": "mask.nii", "head": "head.nii", "tail": "tail.nii"})
    truth = read_ground_truth(tmp_path, mask_tolerance=3, end_tolerance=4)
    points, lengths = read_streamlines(tmp_path / "lines.trk", truth.grid.affine)
    in_memory = GroundTruth.from_volumes({"lower": TrueBundle(**LOWER)}, affine, mask_tolerance=3, end_tolerance=4)
    expected = score_streamlines(*joined(lines), in_memory)
    assert score_streamlines(points, lengths, truth).as_dict() == expected.as_dict()
    assert expected.bundles[0].nb_valid


MASK = {"mask": "lower.nii.gz"}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ([], "must hold {bundle: {...}}, with at least one bundle."),
        ({}, "must hold {bundle: {...}}, with at least one bundle."),
        ({"a": "lower.nii.gz"}, 'bundle \'a\': expected {"mask" or "tractogram": ..., "head": ..., "tail": ...}.'),
        ({"a": {**MASK, "angle": 3}}, "bundle 'a': unknown key 'angle'; known keys are 'mask', 'tractogram', 'head'"),
        ({"a": {}}, "bundle 'a': give either a 'mask' or a 'tractogram'."),
        ({"a": {**MASK, "tractogram": "lower.trk"}}, "bundle 'a': give either a 'mask' or a 'tractogram'."),
        ({"a": {"mask": "none.nii"}}, "The mask of bundle 'a': '{folder}/none.nii' was not found."),
        ({"a": {"mask": 3}}, "The mask of bundle 'a' must be the name of a file, got 3."),
        ({"a": {"mask": ""}}, "The mask of bundle 'a' must be the name of a file, got ''."),
        (
            {"a": {"mask": {"label": 3}}},
            "The mask of bundle 'a' must be a file, or an object with the keys 'file', 'label'",
        ),
        (
            {"a": {"mask": {"file": "lower.nii.gz", "labels": 3}}},
            "or an object with the keys 'file', 'label', 'volume'; got",
        ),
        ({"a": {"mask": "text.nii"}}, "The mask of bundle 'a': the file '{folder}/text.nii' is not an image"),
        ({"a": {"mask": "colour.nii"}}, "'{folder}/colour.nii' has shape (2, 2, 2, 2, 2)"),
        (
            {"a": {"mask": "both.nii"}},
            "'{folder}/both.nii' holds 2 volumes; choose one with \"volume\", from 0 to 1",
        ),
        ({"a": {"mask": {"file": "both.nii", "volume": 2}}}, 'choose one with "volume", from 0 to 1, got 2.'),
        ({"a": {"mask": {"file": "both.nii", "volume": True}}}, "from 0 to 1, got True."),
        ({"a": {"mask": {"file": "lower.nii.gz", "volume": 0}}}, 'holds a single volume; remove "volume": 0.'),
        ({"a": {"mask": {"file": "labels.nii.gz", "label": 4}}}, "'{folder}/labels.nii.gz' has no voxel of label 4."),
        ({"a": {"mask": {"file": "labels.nii.gz", "label": [4, 6]}}}, "has no voxel of label 4, 6."),
        ({"a": {"mask": {"file": "labels.nii.gz", "label": [3, 6]}}}, "has no voxel of label 6."),
        (
            {"a": {"mask": {"file": "labels.nii.gz", "label": "3"}}},
            '"label" must be a whole number or a list of whole numbers',
        ),
        (
            {"a": {"mask": {"file": "labels.nii.gz", "label": []}}},
            '"label" must be a whole number or a list of whole numbers',
        ),
        (
            {"a": {"mask": {"file": "labels.nii.gz", "label": 3.5}}},
            "whole number or a list of whole numbers, got 3.5.",
        ),
        ({"a": {"mask": "empty.nii"}}, "The mask of bundle 'a' has no voxels."),
        ({"a": {**MASK, "head": "both.nii"}}, "The head of bundle 'a': '{folder}/both.nii' holds 2 volumes"),
        ({"a": {**MASK, "head": "lower.nii.gz"}}, "Bundle 'a' has a head but no tail; give both, or neither."),
        ({"a": MASK, "b": {"mask": "moved.nii"}}, "have different affines, up to 1 mm apart"),
        ({"a": MASK, "b": {"mask": "smaller.nii"}}, "have different shapes, (12, 10, 4) and (3, 3, 3) voxels"),
        ({"a": MASK, "b": {"tractogram": "moved.trk"}}, "have different affines, up to 1 mm apart"),
        ({"a": {"tractogram": "none.trk"}}, "The tractogram of bundle 'a': '{folder}/none.trk' was not found."),
        ({"a": {"tractogram": []}}, "The tractogram of bundle 'a' must be the name of a file, got []."),
        (
            {"a": {"tractogram": "lower.tck"}},
            "No file of the ground truth has a voxel grid; add a mask, a .trk or a .trx",
        ),
        ({"a": {"tractogram": "lower.nii.gz"}, "b": MASK}, "is not in a format that dwiml reads; convert it to .trk"),
        ({"a": {"tractogram": "cut.trk"}}, "The tractogram of bundle 'a': '{folder}/cut.trk' is damaged or truncated"),
        ({"a": {"tractogram": "nan.trk"}}, "'{folder}/nan.trk' holds NaN or infinite coordinates; remove these"),
        ({"a": {"tractogram": "zero.trk"}}, "The mask of bundle 'a' has no voxels."),
    ],
)
def test_a_bad_config_is_one_sentence(folder: Path, config: Any, sentence: str) -> None:
    (folder / "text.nii").write_text("no image")
    save_volume(folder / "colour.nii", np.ones((2, 2, 2, 2, 2), dtype=np.uint8), OBLIQUE)
    save_volume(folder / "empty.nii", np.zeros(SHAPE, dtype=bool), OBLIQUE)
    moved = OBLIQUE.copy()
    moved[0, 3] += 1
    save_volume(folder / "moved.nii", LOWER["mask"], moved)
    save_volume(folder / "smaller.nii", np.ones((3, 3, 3), dtype=bool), OBLIQUE)
    save_lines(folder / "moved.trk", [along_x(2.5)], moved)
    save_lines(folder / "nan.trk", [along_x(2.5) * [1, np.nan, 1]], OBLIQUE)
    save_lines(folder / "zero.trk", [], OBLIQUE)
    (folder / "cut.trk").write_bytes((folder / "lower.trk").read_bytes()[:-5])
    (folder / "ground_truth.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_ground_truth(folder)
    assert sentence.replace("{folder}", str(folder)) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_folder_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"The ground truth '.*/none' is not a folder\."):
        read_ground_truth(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds neither 'ground_truth.json' nor a NIfTI mask"):
        read_ground_truth(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"The config of the ground truth, '.*absent.json', was not found\."):
        read_ground_truth(folder, config=folder / "absent.json")
    (folder / "ground_truth.json").write_text("{'a'}")
    with pytest.raises(ValueError, match=r"ground_truth.json' is not valid JSON"):
        read_ground_truth(folder)
    (folder / "ground_truth.json").write_text('{"a": {"mask": "a.nii"}, "a": {"mask": "b.nii"}}')
    with pytest.raises(ValueError, match=r"ground_truth.json' is not valid JSON \('a' appears twice\)"):
        read_ground_truth(folder)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.trk", "The tractogram '.*none.trk' was not found"),
        ("lower.nii.gz", "The tractogram '.*lower.nii.gz' is not in a format that dwiml reads"),
        ("cut.trk", "The tractogram: '.*cut.trk' is damaged or truncated"),
        ("text.tck", "The tractogram: the file '.*text.tck' is damaged"),
        ("text.trx", "The tractogram: the file '.*text.trx' is damaged"),
        ("nan.trk", "The tractogram '.*nan.trk' holds NaN or infinite coordinates"),
    ],
)
def test_a_bad_tractogram_is_one_sentence(folder: Path, name: str, sentence: str) -> None:
    (folder / "cut.trk").write_bytes((folder / "lower.trk").read_bytes()[:-5])
    for text in ("text.tck", "text.trx"):
        (folder / text).write_text("no tractogram")
    save_lines(folder / "nan.trk", [np.array([[1, 2, 3], [1, np.nan, 3], [2, 2, 2]])], OBLIQUE)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        read_streamlines(folder / name, OBLIQUE)
