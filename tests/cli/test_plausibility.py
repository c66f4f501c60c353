"""``dwiml track --classifier`` and ``dwiml filter_plausible``, run for real."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_world import add_classifier

import dwiml
from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.hdf5.creator import create_hdf5
from dwiml.ops.sequences import TensorSequence
from dwiml.phantom.create import create_phantom
from dwiml.tracking.acceptance import plausibility_of
from dwiml.training.loading import load_best_model


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom, its HDF5 file, and two models: one with directions, one with distributions."""
    folder = tmp_path_factory.mktemp("plausible")
    root = create_phantom(folder / "phantom", nb_subjects=3, size="small")
    lists = [root / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(root / "subjects", folder / "data.hdf5", root / "config.json", *lists)
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "8"]
    options += ["--seed", "1", "--max_epochs", "1", "--batch_size_training", "50", "--step_size", "1.5", "-q"]
    for name, key in (("exp", "cosine-regression"), ("drawn", "fisher-von-mises")):
        words = ["learn2track", str(folder / "data.hdf5"), str(folder), name, *options, "--dg_key", key]
        assert train.main(words) == 0
    return folder


@pytest.fixture(scope="module")
def classifier(phantom: Path) -> str:
    add_classifier(phantom)
    return str(phantom / "classifier")


def test_only_plausible_streamlines(
    phantom: Path, classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track", str(phantom / "drawn"), "sub-03"]
    options = ["--tracking_mask", "wm_mask", "--nb_seeds", "80", "--algo", "prob", "--theta", "90", "--save_seeds"]
    judged = ["--classifier", classifier, "--save_plausibility", "--sidecar"]
    assert main([*words, str(tmp_path / "all.trk"), *options, *judged, "--min_plausibility", "0"]) == 0
    everything = nib.streamlines.load(tmp_path / "all.trk").tractogram
    found = everything.data_per_streamline["plausibility"][:, 0]
    assert 0 < found.min() < found.max() < 1
    limit = float(np.median(found))
    capsys.readouterr()
    judged += ["--min_plausibility", str(limit), "--report", str(tmp_path / "report.json")]
    assert main([*words, str(tmp_path / "some.trk"), *options, *judged]) == 0
    printed = capsys.readouterr().out
    some = nib.streamlines.load(tmp_path / "some.trk").tractogram
    expected = np.flatnonzero(found >= limit)
    assert len(some.streamlines) == len(expected)
    for line, number in zip(some.streamlines, expected, strict=True):
        np.testing.assert_array_equal(line, everything.streamlines[number])
    counts = json.loads((tmp_path / "report.json").read_text())
    assert counts["nb_implausible"] == len(found) - len(expected)
    assert f"{len(found) - len(expected)} not plausible; " in printed
    criteria = json.loads((tmp_path / "some.json").read_text())["StreamlineAcceptanceCriteria"]["Plausibility"]
    assert (tmp_path / criteria.pop("Classifier")).resolve() == Path(classifier).resolve()
    assert criteria == {"Minimum": limit, "MaximumAttempts": 1}
    more = [*judged[:-2], "--max_attempts", "4", "-f"]
    assert main([*words, str(tmp_path / "some.trk"), *options, *more]) == 0
    again = nib.streamlines.load(tmp_path / "some.trk").tractogram
    assert len(again.streamlines) > len(some.streamlines)
    assert (again.data_per_streamline["plausibility"] >= limit - 1e-6).all()
    # From Python, alike.
    tracked = dwiml.track(
        phantom / "drawn",
        "sub-03",
        tracking_mask="wm_mask",
        nb_seeds=80,
        algo="prob",
        theta=90,
        classifier=classifier,
        min_plausibility=limit,
        max_attempts=4,
        save_plausibility=True,
    )
    assert len(tracked.streamlines) == len(again.streamlines)
    np.testing.assert_allclose(
        tracked.data_per_streamline["plausibility"], again.data_per_streamline["plausibility"], atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--min_plausibility", "0.3"], "min_plausibility has no effect without a classifier"),
        (["--max_attempts", "3"], "max_attempts has no effect without a classifier"),
        (["--save_plausibility"], "save_plausibility has no effect without a classifier"),
        (["--classifier", "EXP"], "Learn2TrackModel does not classify streamlines: it has no plausibility"),
        (["--classifier", "CLASSIFIER", "--max_attempts", "3"], "algo 'det' gives the same streamline in each attempt"),
        (["--classifier", "CLASSIFIER", "--min_plausibility", "3"], "min_plausibility must be a number from 0 to 1"),
        (["--classifier", "nowhere"], "nowhere"),
        (["--classifier_class", "a.py:A"], "--classifier_class has no effect without --classifier"),
    ],
)
def test_what_acceptance_refuses(
    phantom: Path,
    classifier: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    places = {"EXP": str(phantom / "exp"), "CLASSIFIER": classifier}
    out = tmp_path / "out.trk"
    words = ["track", str(phantom / "exp"), "sub-03", str(out), "--tracking_mask", "wm_mask", "--nb_seeds", "5"]
    capsys.readouterr()
    assert main([*words, *(places.get(each, each) for each in options)]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("error: ") == 1
    assert not out.exists()


def images(phantom: Path) -> list[str]:
    folder = phantom / "phantom" / "subjects" / "sub-03"
    volume, mask = str(folder / "metrics" / "sh.nii.gz"), str(folder / "masks" / "wm.nii.gz")
    return ["--input", volume, "--std_mask", mask]


def plausibilities(path: Path) -> np.ndarray:
    saved = nib.streamlines.load(path).tractogram
    return np.asarray(saved.data_per_streamline["plausibility"][:, 0]) if len(saved.streamlines) else np.zeros(0)


def test_a_tractogram_of_any_tracker_is_filtered(
    phantom: Path, classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    track = ["track", str(phantom / "drawn"), "sub-03", str(tmp_path / "all.trk"), "--tracking_mask", "wm_mask"]
    track += ["--nb_seeds", "60", "--algo", "prob", "--theta", "90", "--classifier", classifier, "--save_seeds"]
    assert main([*track, "--min_plausibility", "0", "--save_plausibility"]) == 0
    everything = nib.streamlines.load(tmp_path / "all.trk").tractogram
    expected = everything.data_per_streamline["plausibility"][:, 0]
    limit = float(np.median(expected)) + 1e-4
    capsys.readouterr()
    words = ["filter_plausible", classifier, "sub-03", str(tmp_path / "all.trk"), str(tmp_path / "kept.trk")]
    words += ["--min_plausibility", str(limit), "--rejected", str(tmp_path / "rejected.trk"), "--sidecar"]
    assert main([*words, "--batch_size", "7"]) == 0
    kept, rejected = (nib.streamlines.load(tmp_path / f"{name}.trk").tractogram for name in ("kept", "rejected"))
    which = expected >= limit
    assert len(kept.streamlines) == which.sum() > 5
    assert len(rejected.streamlines) == (~which).sum() > 5
    for line, number in zip(kept.streamlines, np.flatnonzero(which), strict=True):
        np.testing.assert_allclose(line, everything.streamlines[number], atol=1e-4)
    np.testing.assert_allclose(plausibilities(tmp_path / "kept.trk"), expected[which], atol=1e-4)
    np.testing.assert_allclose(kept.data_per_streamline["seeds"], everything.data_per_streamline["seeds"][which])
    printed = capsys.readouterr()
    assert f"{which.sum()} streamlines of {len(which)} kept ({which.mean():.1%})" in printed.out
    for name, limits in (("kept", {"Minimum": limit}), ("rejected", {"Below": limit})):
        content = json.loads((tmp_path / f"{name}.json").read_text())
        criteria = content["StreamlineAcceptanceCriteria"]["Plausibility"]
        assert (tmp_path / criteria.pop("Classifier")).resolve() == Path(classifier).resolve()
        assert criteria == limits
    # From images, and from a .tck, which has no grid.
    lines = nib.streamlines.Tractogram(everything.streamlines, affine_to_rasmm=np.eye(4))
    nib.streamlines.save(lines, str(tmp_path / "all.tck"))
    words = ["filter_plausible", classifier, str(tmp_path / "all.tck"), str(tmp_path / "again.trk")]
    assert main([*words, *images(phantom), "--min_plausibility", "0"]) == 0
    np.testing.assert_allclose(plausibilities(tmp_path / "again.trk"), expected, atol=1e-3)
    # Nothing is left, and nothing was there.
    words = ["filter_plausible", classifier, "sub-03", str(tmp_path / "all.trk"), str(tmp_path / "none.trk")]
    assert main([*words, "--min_plausibility", "1"]) == 0
    assert len(plausibilities(tmp_path / "none.trk")) == 0
    words[3:] = [str(tmp_path / "none.trk"), str(tmp_path / "none.tck")]
    assert main(words) == 0
    assert "0 streamlines of 0 kept in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["EXP", "sub-03", "IN", "OUT"], "Learn2TrackModel does not classify streamlines: it has no"),
        (["CLASSIFIER", "IN", "OUT"], "Give either a SUBJECT of the HDF5 file or image files with --input."),
        (["CLASSIFIER", "sub-9", "IN", "OUT"], "Subject 'sub-9' not found in"),
        (["CLASSIFIER", "sub-03", "none.trk", "OUT"], "'none.trk' was not found"),
        (["CLASSIFIER", "sub-03", "IN", "OUT", "--min_plausibility", "2"], "min_plausibility must be a number from"),
        (["CLASSIFIER", "sub-03", "IN", "OUT", "--batch_size", "0"], "--batch_size must be a whole number of at least"),
        (["CLASSIFIER", "sub-03", "IN", "IN", "-f"], "is an input"),
        (["CLASSIFIER", "sub-03", "IN", "OUT", "--rejected", "OUT"], "is also the file of"),
        (["CLASSIFIER", "sub-03", "IN", "OUT", "--standardization", "none"], "--standardization is for --input"),
        (["CLASSIFIER", "IN", "OUT", "--input", "none.nii.gz"], "none.nii.gz"),
        (["nowhere", "sub-03", "IN", "OUT"], "nowhere"),
    ],
)
def test_what_the_filter_refuses(
    phantom: Path,
    classifier: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    tractogram = phantom / "phantom" / "subjects" / "sub-03" / "bundles" / "arch.trk"
    before, out = tractogram.read_bytes(), tmp_path / "out.trk"
    places = {"EXP": str(phantom / "exp"), "CLASSIFIER": classifier, "IN": str(tractogram), "OUT": str(out)}
    capsys.readouterr()
    assert main(["filter_plausible", *(places.get(each, each) for each in words)]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("error: ") == 1
    assert not out.exists()
    assert tractogram.read_bytes() == before


def test_the_data_must_be_those_of_the_training(
    phantom: Path,
    classifier: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another HDF5 file of another standardization; outputs over the data, and in an experiment that is used."""
    root = phantom / "phantom"
    config = json.loads((root / "config.json").read_text())
    config["input"]["standardization"] = "none"
    (tmp_path / "config.json").write_text(json.dumps(config))
    lists = [root / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(root / "subjects", tmp_path / "other.hdf5", tmp_path / "config.json", *lists)
    lines = str(root / "subjects" / "sub-03" / "bundles" / "arch.trk")
    like = str(phantom / "exp")
    image = [*images(phantom), "--standardize_like", like]
    for words, sentence in (
        ([lines, f"{like}/a.trk", *image], "is inside the experiment"),
        ([lines, f"{classifier}/a.trk", *image], "is inside the experiment"),
    ):
        capsys.readouterr()
        assert main(["filter_plausible", classifier, *words]) == 2
        printed = capsys.readouterr().err
        assert sentence in printed
        assert printed.count("error: ") == 1
    words = ["filter_plausible", classifier, "sub-03", lines, str(tmp_path / "a.trk"), "--hdf5_file"]
    assert main([*words, str(tmp_path / "other.hdf5")]) == 0
    assert "its 'standardization' is 'none' instead of 'independent'" in caplog.text


def test_streamlines_outside_the_volume_and_left_out_bundles(
    phantom: Path, classifier: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = phantom / "phantom" / "subjects" / "sub-03"
    arch = subject / "bundles" / "arch.trk"
    lines = list(nib.streamlines.load(arch).streamlines)
    moved = nib.streamlines.Tractogram([*lines[:3], *(line + 500 for line in lines[3:5])], affine_to_rasmm=np.eye(4))
    nib.streamlines.save(moved, str(tmp_path / "moved.tck"))
    assert main(["filter_plausible", classifier, "sub-03", str(tmp_path / "moved.tck"), str(tmp_path / "a.tck")]) == 0
    assert f"2 of the 5 streamlines of '{tmp_path / 'moved.tck'}' lie entirely outside the volume" in caplog.text
    truth = json.loads((subject / "ground_truth.json").read_text())
    del truth["arch"]["head"], truth["arch"]["tail"]
    config = tmp_path / "truth.json"
    config.write_text(json.dumps(truth))
    words = ["curate", str(arch), "--bundles", str(subject), "--config", str(config), "-o", str(tmp_path / "c.trk")]
    caplog.clear()
    assert main([*words, "--candidates", str(tmp_path / "all.trk")]) == 0
    assert "left out: 'arch'; their streamlines are labeled 0 in the candidates." in caplog.text
    caplog.clear()
    assert main([*words, "-f"]) == 0
    assert "left out: 'arch'." in caplog.text


def test_a_streamline_with_nan_is_named_whatever_the_batch(classifier: str) -> None:
    model = load_best_model(classifier).eval()
    points = torch.ones(30 * 3, 3)
    points[25 * 3 + 1, 2] = torch.nan
    lines = TensorSequence(points, torch.full((30,), 3))
    volume = torch.zeros(4, 4, 4, model.nb_features)
    for batch_size in (10, 100):
        with pytest.raises(ValueError, match=r"^Streamline 25 \(counted from 0\) of 30 holds a NaN"):
            plausibility_of(model, lines, volume, torch.ones(3), batch_size=batch_size)
