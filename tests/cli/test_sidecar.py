"""``--sidecar``: the JSON file beside a tractogram says how it was created, in the words of BIDS (BEP046)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import make_world

import dwiml
from dwiml.cli import train
from dwiml.cli.main import main

SPHERE = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
SPHERE += ["--dg_key", "sphere-classification", "--step_size", "2", "--max_epochs", "1", "--seed", "1", "-q"]
TRANSFORMER = ["--input_embedded_size", "8", "--nb_heads", "2", "--nb_layers_encoder", "1", "--nb_layers_decoder", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_world(tmp_path_factory.mktemp("world"))
    assert train.main(["learn2track", str(root / "data.hdf5"), str(root / "exps"), "sphere", *SPHERE]) == 0
    return root


def run(*words: object) -> int:
    return main([str(word) for word in words])


def sidecar(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert content["GeneratedBy"] == [{"Name": "dwiml", "Version": dwiml.__version__}]
    assert content["Description"].endswith(".")
    return content


def resolved(path: Path, names: list[str]) -> list[Path]:
    """Return the files that a sidecar names, of which each exists."""
    found = [(path.parent / name).resolve() for name in names]
    assert all(Path(str(file).partition(":/")[0]).exists() for file in found), names
    return found


def test_deterministic_tracking_on_a_subject(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.trk"
    options = [
        "--theta",
        "30",
        "--step_size",
        "1.5",
        "--min_length",
        "4",
        "--max_length",
        "50",
        "--seeds_per_voxel",
        "2",
    ]
    command = ["track", world / "exps/exp", "sub-d", out, "--tracking_mask", "wm_mask", *options, "--sidecar"]
    assert run(*command) == 0
    content = sidecar(tmp_path / "out.json")
    data = world / "data.hdf5"
    group, mask = f"{data}:/sub-d/input", f"{data}:/sub-d/wm_mask"
    (seeding,) = content["StreamlineSeeding"]["Sources"]
    assert resolved(out, [seeding.pop("Source")]) == [Path(mask)]
    assert seeding == {"Type": "RandomPerElement", "SeedsPerElement": 2, "Unidirectional": False}
    propagation = content["StreamlinePropagation"]
    assert resolved(out, [propagation.pop("Source")]) == [Path(group)]
    algorithm = propagation.pop("Algorithm")
    assert algorithm["Name"] == content["Name"] == "Learn2TrackModel"
    assert algorithm["Description"].startswith("Deterministic: ")
    assert propagation == {
        "Interpolation": "Linear",
        "InterpolationOrder": 0,
        "IntegrationOrder": 1,
        "StepSize": 1.5,
        "AnglePerStep": 30.0,
    }
    termination = content["StreamlineTermination"]
    assert resolved(out, termination.pop("Masks")) == [Path(mask)]
    assert termination == {"AnglePerStep": 30.0, "MaximumLength": 50.0}
    assert content["StreamlineAcceptanceCriteria"] == {"MinimumLength": 4.0}
    assert resolved(out, content["Sources"]) == [Path(group), Path(mask), world / "exps/exp"]
    used = content["dwiml"]
    assert (used["algo"], used["seed"], used["mask_threshold"], used["compress"]) == ("det", 0, 0.5, None)
    # An existing sidecar, and a file that it would replace, are kept.
    assert run(*command) == 2
    out.unlink()
    before = (tmp_path / "out.json").read_bytes()
    assert run(*command) == 2
    assert (tmp_path / "out.json").read_bytes() == before
    assert not out.exists()
    assert run(*command, "-f", "--report", tmp_path / "out.json") == 2
    assert run(*command, "-f", "--algo", "det", "--theta", "20") == 0
    assert sidecar(tmp_path / "out.json")["StreamlinePropagation"]["AnglePerStep"] == 20


def test_probabilistic_tracking_on_images(world: Path, tmp_path: Path) -> None:
    images = [world / "images" / f"{name}.nii.gz" for name in ("input", "mask")]
    seeds = tmp_path / "seeds.nii.gz"
    shutil.copy(images[1], seeds)
    (tmp_path / "sub").mkdir()
    out = tmp_path / "sub" / "out.tck"
    command = ["track", world / "exps/sphere", out, "--input", images[0], "--standardization", "none"]
    command += [
        "--tracking_mask",
        images[1],
        "--seeding_mask",
        seeds,
        "--algo",
        "prob",
        "--nb_seeds",
        "7",
        "--seed",
        "5",
    ]
    assert run(*command, "--forward_only", "--sidecar", "--compress", "0.1") == 0
    content = sidecar(tmp_path / "sub" / "out.json")
    assert content["StreamlineSeeding"]["Sources"] == [
        {"Type": "Random", "Source": "../seeds.nii.gz", "Unidirectional": True}
    ]
    assert content["StreamlineReconstructionDensity"] == {"Seeds": 7}
    assert content["StreamlinePropagation"]["Algorithm"]["Description"].startswith("Probabilistic: ")
    assert resolved(out, [content["StreamlinePropagation"]["Source"]]) == [images[0]]
    assert resolved(out, content["Sources"]) == [images[0], images[1], seeds, world / "exps/sphere"]
    assert (content["dwiml"]["algo"], content["dwiml"]["seed"], content["dwiml"]["compress"]) == ("prob", 5, 0.1)


def test_python_writes_the_same(world: Path, tmp_path: Path) -> None:
    assert (
        run(
            *("track", world / "exps/exp", "sub-d", tmp_path / "a.trk", "--tracking_mask", "wm_mask", "--sidecar"),
            *("--nb_seeds", "6", "--seeds_at", "center"),
        )
        == 0
    )
    options: dict[str, Any] = {"tracking_mask": "wm_mask", "nb_seeds": 6, "seeds_at": "center"}
    dwiml.track(world / "exps/exp", "sub-d", out=tmp_path / "b.trk", sidecar=True, **options)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    per_voxel = {**options, "nb_seeds": None, "seeds_per_voxel": 1}
    dwiml.track(world / "exps/exp", "sub-d", out=tmp_path / "c.trk", sidecar=True, **per_voxel)
    (seeding,) = sidecar(tmp_path / "c.json")["StreamlineSeeding"]["Sources"]
    assert (seeding["Type"], seeding["SeedsPerElement"]) == ("CountPerElement", 1)
    assert "SourceRegion" not in seeding
    dwiml.track(world / "exps/exp", "sub-d", out=tmp_path / "i.trk", sidecar=True, **per_voxel, seeding="interface")
    content = sidecar(tmp_path / "i.json")
    assert content["StreamlineSeeding"]["Sources"] == [{**seeding, "SourceRegion": "Interface"}]
    assert content["dwiml"]["seeding"] == "interface"
    fewer, all_seeds = (
        each["StreamlineReconstructionDensity"]["Seeds"] for each in (content, sidecar(tmp_path / "c.json"))
    )
    assert 0 < fewer < all_seeds
    with pytest.raises(
        ValueError, match="sidecar=True is not possible, because the tractogram is not written: give out"
    ):
        dwiml.track(world / "exps/exp", "sub-d", sidecar=True, **options)
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(FileExistsError, match="The sidecar of out: '.*d.json' exists; replace it with overwrite=True"):
        dwiml.track(world / "exps/exp", "sub-d", out=tmp_path / "d.trk", sidecar=True, **options)
    assert not (tmp_path / "d.trk").exists()


def test_a_filter_names_its_criteria_and_its_source(world: Path, tmp_path: Path) -> None:
    lines, model = world / "lines.trk", world / "autoencoder"
    command = ["filter_latent", model, lines, tmp_path / "kept.trk", "--reference", world / "lines.tck"]
    assert run(*command, "--threshold", "0.5", "--rejected", tmp_path / "rejected.trx", "--sidecar") == 0
    for name, kept in (("kept", "at most"), ("rejected", "more than")):
        content = sidecar(tmp_path / f"{name}.json")
        assert resolved(tmp_path / "kept.trk", content["Sources"]) == [lines, world / "lines.tck", model]
        criteria = content["StreamlineAcceptanceCriteria"]["LatentDistance"]
        assert (criteria["Threshold"], criteria["Kept"]) == (0.5, kept)
        assert resolved(tmp_path / "kept.trk", criteria["References"]) == [world / "lines.tck"]
    assert run("autoencode", model, lines, tmp_path / "rebuilt.tck", "--sidecar") == 0
    content = sidecar(tmp_path / "rebuilt.json")
    assert resolved(tmp_path / "kept.trk", content["Sources"]) == [lines, model]


def test_the_sidecar_of_the_input_is_never_replaced(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(world / "lines.trk", tmp_path / "a.trk")
    (tmp_path / "a.json").write_text("{}")
    command = ["autoencode", world / "autoencoder", tmp_path / "a.trk", tmp_path / "a.tck", "-f"]
    assert run(*command, "--sidecar") == 2
    assert f"The sidecar of OUT: '{tmp_path}/a.json' is an input; give another name." in capsys.readouterr().err
    assert run(*command) == 0
    assert (tmp_path / "a.json").read_text() == "{}"
    twice = ["filter_latent", world / "autoencoder", world / "lines.trk", tmp_path / "b.trk", "--rejected"]
    assert run(*twice, tmp_path / "b.tck", "--reference", world / "lines.tck", "--sidecar") == 2
    assert f"'{tmp_path}/b.json' is also the file of The sidecar of OUT" in capsys.readouterr().err


def test_connections(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", world / "lines.trk", "--ground_truth", world / "truth", "--sidecar") == 2
    assert "--sidecar describes the tractograms of --save_split, which was not given." in capsys.readouterr().err
    split = tmp_path / "split"
    command = ["score", world / "lines.trk", "--ground_truth", world / "truth", "--save_split", split, "--sidecar"]
    assert run(*command, "--end_tolerance", "3") == 0
    tractograms = sorted(split.rglob("*.trk"))
    assert tractograms
    assert sorted(split.rglob("*.json")) == [path.with_suffix(".json") for path in tractograms]
    for path in tractograms:
        content = sidecar(path.with_suffix(".json"))
        criteria = content["StreamlineAcceptanceCriteria"]
        kind = path.relative_to(split).parts[0].removesuffix(".trk")
        assert criteria["Connection"] == {"no_connection": "none"}.get(kind, kind)
        assert criteria.get("Bundle", path.stem) == path.stem
        assert criteria["end_tolerance"] == 3
        assert resolved(path, content["Sources"]) == [world / "lines.trk", world / "truth"]
    assert run(*command) == 2
    assert run(*command, "-f") == 0
    regions = ["--labels", world / "images/labels.nii.gz"]
    np.save(tmp_path / "none.npy", np.zeros((3, 3)))
    command = ["connectivity_score", world / "lines.trk", tmp_path / "none.npy", *regions, "--sidecar"]
    assert run(*command) == 2
    assert "--sidecar describes the tractogram of --save_invalid, which was not given." in capsys.readouterr().err
    # An older file is replaced, also without streamlines.
    shutil.copy(world / "lines.trk", tmp_path / "invalid.trk")
    assert run(*command, "--save_invalid", tmp_path / "invalid.trk", "-f") == 0
    content = sidecar(tmp_path / "invalid.json")
    assert content["StreamlineAcceptanceCriteria"]["Matrix"] == "none.npy"
    assert resolved(tmp_path / "invalid.trk", content["Sources"])[:2] == [world / "lines.trk", tmp_path / "none.npy"]


@pytest.mark.slow
def test_tractograms_of_losses_and_of_attention(world: Path, tmp_path: Path) -> None:
    data = world / "data.hdf5"
    command = ["show_loss", world / "exps/exp", "sub-d", tmp_path, "--percent", "20", "--sidecar"]
    assert run(*command) == 0
    for name, kept in (("loss", None), ("best_20_percent", "lowest"), ("worst_20_percent", "highest")):
        content = sidecar(tmp_path / f"{name}.json")
        assert resolved(tmp_path / "loss.trk", content["Sources"]) == [world / "exps/exp", data]
        criteria = {"Metric": "mean loss", "Kept": kept, "Percent": 20.0}
        assert content.get("StreamlineAcceptanceCriteria") == (criteria if kept else None)
    (tmp_path / "summary.json").unlink()
    for file in tmp_path.glob("*.trk"):
        file.unlink()
    assert run(*command) == 2
    groups = ["--input_group_name", "input", "--streamline_group_name", "streamlines"]
    training = [*groups, *TRANSFORMER, "--step_size", "2", "--seed", "1", "--max_epochs", "1", "-q"]
    assert run("train", "transformer-src-and-tgt", data, tmp_path, "exp", *training) == 0
    out = tmp_path / "attention"
    assert run("show_attention", tmp_path / "exp", "sub-e", "--out", out, "--group", "encoder", "--sidecar") == 0
    content = sidecar(out / "attention_encoder.json")
    assert resolved(out / "attention_encoder.trk", content["Sources"]) == [tmp_path / "exp", data]
    assert "attention (group 'encoder')" in content["Description"]


def test_extracted_streamlines_have_the_provenance_of_their_group(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.hdf5"
    lists = [world / f"{name}.txt" for name in ("training", "validation", "testing")]
    assert run("create_hdf5", world / "subjects", data, world / "config.json", *lists) == 0
    command = ["extract_hdf5", data, "sub-1"]
    assert run(*command, "streamlines", tmp_path / "out.trk", "--sidecar") == 0
    content = sidecar(tmp_path / "out.json")
    assert content["Sources"] == ["data.hdf5:/sub-1/streamlines"]
    assert [each["file"] for each in content["dwiml"]["provenance"]["files"]] == ["lines.trk"]
    capsys.readouterr()
    assert run(*command, "input", tmp_path / "out.nii.gz", "--sidecar") == 2
    assert f"--sidecar is for tractograms; '{tmp_path}/out.nii.gz' is not one." in capsys.readouterr().err
