"""``dwiml track``, run for real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from tests_support import edited

from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.cli.track import table
from dwiml.hdf5.creator import create_hdf5
from dwiml.phantom.create import create_phantom
from dwiml.tracking.tracker import TrackingCounts


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("track")
    create_phantom(folder / "phantom", nb_subjects=3, size="small")
    root = folder / "phantom"
    lists = [root / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(root / "subjects", folder / "data.hdf5", root / "config.json", *lists)
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "16"]
    options += ["--seed", "1", "--max_epochs", "2", "--learning_rates", "0.01", "--batch_size_training", "50"]
    options += ["--step_size", "1.5", "-q"]
    assert train.main(["learn2track", str(folder / "data.hdf5"), str(folder), "exp", *options]) == 0
    return folder


def images(phantom: Path, subject: str = "sub-03") -> tuple[str, str]:
    folder = phantom / "phantom" / "subjects" / subject
    return str(folder / "metrics/sh.nii.gz"), str(folder / "masks/wm.nii.gz")


def test_from_the_hdf5_file_and_from_images_alike(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, mask = images(phantom)
    options = ["--nb_seeds", "60", "--save_seeds"]
    experiment, report = str(phantom / "exp"), tmp_path / "report.json"
    capsys.readouterr()
    command = ["track", experiment, "sub-03", str(tmp_path / "a.trk"), "--tracking_mask", "wm_mask", *options]
    assert main([*command, "--report", str(report)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("60 seeds: ")
    assert "Why they ended" in printed.out
    assert printed.err == ""
    counts = json.loads(report.read_text())
    assert counts["nb_seeds"] == 60 == counts["nb_streamlines"] + counts["nb_too_short"]
    assert sum(counts["ends"].values()) == 120
    assert counts["arguments"]["nb_seeds"] == 60
    assert (counts["rules"]["step_size"], counts["rules"]["theta"]) == (1.5, 45.0)
    command = ["track", experiment, str(tmp_path / "b.trk"), "--input", volume, "--tracking_mask", mask, *options]
    assert main([*command, "--std_mask", mask, "--simultaneous", "7"]) == 0
    a, b = (nib.streamlines.load(tmp_path / f"{name}.trk") for name in "ab")
    assert len(a.streamlines) == len(b.streamlines) == counts["nb_streamlines"] > 5
    for first, second in zip(a.streamlines, b.streamlines, strict=True):
        np.testing.assert_allclose(first, second, atol=0.02)
    np.testing.assert_allclose(
        np.array(a.tractogram.data_per_streamline["seeds"]), np.array(b.tractogram.data_per_streamline["seeds"])
    )
    # In the mask, in mm.
    wm = nib.load(mask)
    inside = np.asarray(wm.dataobj) > 0
    points = np.concatenate(list(a.streamlines))
    voxels = nib.affines.apply_affine(np.linalg.inv(wm.affine), points)
    share = inside[tuple(np.round(voxels).astype(int).T)].mean()
    assert share > 0.99
    steps = np.concatenate([np.linalg.norm(np.diff(line, axis=0), axis=1) for line in a.streamlines])
    np.testing.assert_allclose(steps, 1.5, atol=1e-3)


@pytest.mark.parametrize("extension", ["tck", "trx"])
def test_other_formats_and_an_older_file(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extension: str
) -> None:
    out = tmp_path / f"out.{extension}"
    command = ["track", str(phantom / "exp"), "sub-02", str(out), "--tracking_mask", "wm_mask", "--nb_seeds", "20"]
    assert main([*command, "--compress", "0.1", "--seeds_at", "center"]) == 0
    before = out.read_bytes()
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "-f"]) == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["sub-9", "OUT.trk"], "Subject 'sub-9' not found in"),
        (["OUT.trk"], "Give either a SUBJECT of the HDF5 file or image files with --input."),
        (["sub-03", "OUT.vtk"], "'OUT.vtk' does not have the extension of a tractogram"),
        (["sub-03", "OUT.trk", "--tracking_mask", "mask"], "Volume group 'mask' not found in"),
        (
            ["sub-03", "OUT.trk", "--tracking_mask", "input"],
            "Volume group 'input' (tracking_mask) has 28 features; a mask has one.",
        ),
        (["sub-03", "OUT.trk", "--tracking_mask", "no.nii.gz"], "error: tracking_mask: '/"),
        (
            ["sub-03", "OUT.trk", "--algo", "prob"],
            "gives one direction, so it needs --algo det, got 'prob'; the direction getters with a distribution are "
            "'sphere-classification', 'smooth-sphere-classification', 'gaussian', 'gaussian-mixture', "
            "'fisher-von-mises', 'fisher-von-mises-mixture'.",
        ),
        (["sub-03", "OUT.trk", "--theta", "200"], "theta must be above 0 and at most 180, got 200."),
        (["sub-03", "OUT.trk", "--step_size", "1e300"], "step_size (1e+300 mm) is above max_length (300 mm)"),
        (["sub-03", "OUT.trk", "--step_size", "0"], "step_size must be positive, got 0."),
        (["sub-03", "OUT.trk", "--seeds_per_voxel", "0"], "per_voxel must be a whole number of at least 1, got 0."),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    phantom: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--tracking_mask" not in options:
        options = [*options, "--tracking_mask", "wm_mask"]
    capsys.readouterr()
    assert main(["track", str(phantom / "exp"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_number_of_streamlines_at_once_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["track", "exp", "sub-03", "OUT.trk", "--tracking_mask", "wm_mask", "--simultaneous", "many"])
    assert stopped.value.code == 2
    sentence = "argument --simultaneous: a whole number or 'auto' expected, got 'many'\n"
    assert capsys.readouterr().err.endswith(sentence)


def with_map(phantom: Path, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """Write a map of probabilities that is above 0 far outside the mask, and a copy of the HDF5 file that holds it."""
    image = nib.load(images(phantom)[1])
    inside = np.asarray(image.dataobj) > 0
    values = np.where(inside, 0.75, 0.01).astype(np.float32)
    values[0, 0, 0] = 0.0
    values[~inside & (np.indices(inside.shape)[0] > inside.shape[0] // 2)] = 0.25
    path, data = tmp_path / "pve.nii.gz", tmp_path / "data.hdf5"
    nib.save(nib.Nifti1Image(values, image.affine), path)
    shutil.copy(phantom / "data.hdf5", data)
    with edited(data) as handle:
        handle["sub-03/wm_mask/data"][...] = values[..., None]
    return path, data, values


@pytest.mark.parametrize("source", [[], ["--input"]])
def test_a_mask_that_is_empty_or_on_another_grid(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: list[str]
) -> None:
    path, _, _ = with_map(phantom, tmp_path)
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), other)
    out = str(tmp_path / "o.trk")
    words = [out, "--input", images(phantom)[0], "--std_mask", images(phantom)[1]] if source else ["sub-03", out]
    command = ["track", str(phantom / "exp"), *words, "--tracking_mask", images(phantom)[1], "--seeding_mask"]
    assert main([*command, str(path), "--mask_threshold", "0.9"]) == 2
    told = "pve.nii.gz' has no voxel of 0.9 or more (its largest value is 0.75): lower mask_threshold"
    assert told in capsys.readouterr().err
    assert main([*command, str(other)]) == 2
    assert capsys.readouterr().err.startswith("error: seeding_mask: '")
    assert main([*command, str(tmp_path / "no.nii.gz")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {'--' if source else ''}seeding_mask: '")


@pytest.mark.first(1)
@pytest.mark.parametrize("source", ["image", "group"])
def test_a_map_of_probabilities_is_thresholded_and_told(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    path, data, values = with_map(phantom, tmp_path)
    experiment = str(phantom / "exp")
    seeds = {}
    for name, mask, options in (
        ("plain", "wm_mask", []),
        ("map", "MAP", []),
        ("low", "MAP", ["--mask_threshold", "0.2"]),
        ("trilinear", "MAP", ["--mask_interpolation", "trilinear", "--mask_threshold", "0.2"]),
    ):
        mask, hdf5 = (str(path), []) if mask == "MAP" and source == "image" else ("wm_mask", [])
        if name != "plain" and source == "group":
            hdf5 = ["--hdf5_file", str(data)]
        out, report = tmp_path / f"{name}.trk", tmp_path / f"{name}.json"
        caplog.clear()
        command = ["track", experiment, "sub-03", str(out), "--tracking_mask", mask, "--seeds_at", "center", *hdf5]
        assert main([*command, "--report", str(report), "--min_length", "0", *options]) == 0
        seeds[name] = json.loads(report.read_text())["nb_seeds"]
        threshold = "0.2" if options else "0.5"
        told = f"is not a 0/1 mask (values from 0 to 0.75): voxels of at least {threshold} are inside."
        assert (told in caplog.text) is (name != "plain")
    assert seeds["map"] == seeds["plain"] == np.count_nonzero(values == 0.75)
    assert seeds["low"] == seeds["trilinear"] == np.count_nonzero(values >= 0.25) > seeds["map"]
    # What counts as the mask is the same, and so is what comes of it.
    assert (tmp_path / "map.trk").read_bytes() == (tmp_path / "plain.trk").read_bytes()
    # The probabilities themselves were interpolated, not the mask that comes of them.
    assert (tmp_path / "trilinear.trk").read_bytes() != (tmp_path / "low.trk").read_bytes()


def test_a_seeding_mask_of_probabilities(phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _, values = with_map(phantom, tmp_path)
    volume, mask = images(phantom)
    command = ["track", str(phantom / "exp"), str(tmp_path / "o.trk"), "--input", volume, "--std_mask", mask]
    command += ["--tracking_mask", mask, "--seeding_mask", str(path), "--report", str(tmp_path / "r.json")]
    caplog.clear()
    assert main([*command, "--seeds_at", "center", "--max_length", "20"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["nb_seeds"] == np.count_nonzero(values >= 0.5)
    assert caplog.text.count("is not a 0/1 mask") == 1


def test_images_without_the_hdf5_file(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How the training's volumes were standardized is known from the experiment's own folder."""
    volume, mask = images(phantom)
    experiment = tmp_path / "copy"
    shutil.copytree(phantom / "exp", experiment)
    parameters = json.loads((experiment / "parameters.json").read_text())
    parameters["data"]["hdf5_file"] = str(tmp_path / "gone.hdf5")
    (experiment / "parameters.json").write_text(json.dumps(parameters))
    options = ["--input", volume, "--tracking_mask", mask, "--nb_seeds", "10"]
    assert main(["track", str(experiment), str(tmp_path / "a.trk"), *options, "--std_mask", mask]) == 0
    assert main(["track", str(phantom / "exp"), str(tmp_path / "b.trk"), *options, "--std_mask", mask]) == 0
    assert (tmp_path / "a.trk").read_bytes() == (tmp_path / "b.trk").read_bytes()
    like = ["--standardize_like", str(phantom / "exp"), "--std_mask", mask]
    assert main(["track", str(experiment), str(tmp_path / "like.trk"), *options, *like]) == 0
    assert (tmp_path / "a.trk").read_bytes() == (tmp_path / "like.trk").read_bytes()
    capsys.readouterr()
    assert main(["track", str(experiment), str(tmp_path / "c.trk"), *options, "--standardize_like", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["track", str(experiment), str(tmp_path / "c.trk"), *options]) == 2
    assert "was standardized within a mask ('masks/wm.nii.gz' of each subject)" in capsys.readouterr().err
    assert main(["track", str(experiment), "sub-03", str(tmp_path / "c.trk"), "--tracking_mask", "wm_mask"]) == 2
    assert (
        f"gone.hdf5', the HDF5 file of experiment '{experiment}', was not found; give its new path"
        in capsys.readouterr().err
    )
    # An experiment of a dwiml that did not record it.
    del parameters["groups_config"]
    (experiment / "parameters.json").write_text(json.dumps(parameters))
    assert main(["track", str(experiment), str(tmp_path / "c.trk"), *options]) == 2
    assert "was not found; it records how the volumes were standardized" in capsys.readouterr().err


def test_options_that_would_do_nothing_or_lose_something(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, mask = images(phantom)
    out = str(tmp_path / "o.trk")
    of_file = ["track", str(phantom / "exp"), "sub-03", out, "--tracking_mask", "wm_mask", "--nb_seeds", "5"]
    assert main([*of_file, "--report", out]) == 2
    assert "is also the file of OUT" in capsys.readouterr().err
    assert main([*of_file, "--std_mask", mask]) == 2
    assert "--std_mask is for --input" in capsys.readouterr().err
    of_images = ["track", str(phantom / "exp"), out, "--input", volume, "--tracking_mask", mask, "--nb_seeds", "5"]
    assert main([*of_images, "--standardize_like", str(phantom / "exp"), "--standardization", "none"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert main([*of_file, "--max_length", "1e12"]) == 2
    assert "allows more than 100000 points per streamline" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--input", "--std_mask", "--tracking_mask", "--seeding_mask"])
def test_an_image_that_is_missing(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    volume, mask = images(phantom)
    files = {"--input": volume, "--std_mask": mask, "--tracking_mask": mask, "--seeding_mask": mask, option: "wm_mask"}
    command = ["track", str(phantom / "exp"), str(tmp_path / "o.trk")]
    assert main(command + [word for pair in files.items() for word in pair]) == 2
    hint = "" if option == "--input" else "; with --input, masks are image files too"
    sentence = f"error: {option}: 'wm_mask' was not found{hint}."
    assert sentence in capsys.readouterr().err


def test_standardization_of_another_hdf5_file(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, mask = images(phantom)
    command = ["track", str(phantom / "exp"), str(tmp_path / "o.trk"), "--input", volume, "--tracking_mask", mask]
    command += ["--nb_seeds", "10"]
    assert main([*command, "--hdf5_file", str(tmp_path / "gone.hdf5")]) == 2
    assert "was not found; it records how the volumes were standardized" in capsys.readouterr().err
    copy = tmp_path / "copy.hdf5"
    shutil.copy(phantom / "data.hdf5", copy)
    with edited(copy) as handle:
        # As dwi_ml writes it.
        handle.attrs["groups_config"] = str(json.loads(handle.attrs["groups_config"]))
    assert main([*command, "--hdf5_file", str(copy)]) == 2
    assert "was standardized within a mask ('masks/wm.nii.gz' of each subject)" in capsys.readouterr().err
    with h5py.File(copy, "r+") as handle:
        del handle.attrs["groups_config"]
    assert main([*command, "--hdf5_file", str(copy)]) == 2
    assert "does not record how the volumes of group 'input'" in capsys.readouterr().err
    assert main([*command, "--standardization", "none"]) == 0


@pytest.mark.slow
def test_interrupted_it_leaves_a_readable_file(phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.trk"
    command = [sys.executable, "-m", "dwiml.cli.main", "track", str(phantom / "exp"), "sub-03", str(out)]
    command += ["--tracking_mask", "wm_mask", "--nb_seeds", "1000000", "--simultaneous", "50"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.partial.trk"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 20_000):
        pass
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert "'out.partial.trk'" in error.replace(str(tmp_path) + "/", "")
    assert len(nib.streamlines.load(partial).streamlines) > 10
    assert not out.exists()


def test_one_streamline_is_told_in_the_singular() -> None:
    counts = TrackingCounts(nb_seeds=1, nb_kept=1)
    assert table(counts, "out.trk", 1.0).startswith("1 seed: 1 streamline in 'out.trk', 0 too short; ")
    counts = TrackingCounts(nb_seeds=1200, nb_kept=2)
    assert table(counts, "out.trk", 1.0).startswith("1 200 seeds: 2 streamlines in ")


def test_no_streamlines_and_an_older_file(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.trk"
    command = ["track", str(phantom / "exp"), "sub-03", str(out), "--tracking_mask", "wm_mask", "--nb_seeds", "5", "-f"]
    assert main(command) == 0
    assert len(nib.streamlines.load(out).streamlines) > 0
    capsys.readouterr()
    assert main([*command, "--min_length", "290", "--max_length", "300"]) == 0
    assert f"5 seeds: 0 streamlines in '{out}', 5 too short" in capsys.readouterr().out
    assert f"There are no streamlines: '{out}' is replaced by an empty tractogram." in caplog.messages
    assert len(nib.streamlines.load(out).streamlines) == 0
