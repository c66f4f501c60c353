"""What 'dwiml info' prints of a file is what is in it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from small_world import make_world
from tests_support import AFFINE, SHAPE, VOXEL_SIZES, edited, write_hdf5

import dwiml
from dwiml.cli.main import main
from dwiml.files import write_json
from dwiml.inspection.description import describe, text_of
from dwiml.inspection.text import size
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.with_data import Part, write_with_data


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def experiment(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "exps/exp", tmp_path / "exp"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["info", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def row(text: str, *words: str) -> str:
    """Return the only line that begins with these words."""
    (found,) = [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]
    return " ".join(found.split())


def test_an_hdf5_file(phantom_hdf5: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, text = json.loads(printed(capsys, phantom_hdf5, "--json")), printed(capsys, phantom_hdf5)
    assert found["subjects"] == {"training": ["sub-01"], "validation": ["sub-02"], "testing": ["sub-03"]}
    total = 0
    with h5py.File(phantom_hdf5) as handle:
        for name, groups in found["data"].items():
            lengths = handle[name]["streamlines/euclidean_lengths"][()].astype(float)
            expected = {"min": lengths.min(), "median": np.median(lengths), "max": lengths.max()}
            assert groups["streamlines"]["length_mm"] == pytest.approx(expected, abs=0.006)
            assert groups["streamlines"]["nb_points"] == len(handle[name]["streamlines/data"])
            assert groups["streamlines"]["nb_streamlines"] == len(lengths)
            assert tuple(groups["input"]["shape"]) == handle[name]["input/data"].shape
            assert groups["input"]["nb_bytes"] == handle[name]["input/data"].nbytes
            affine = handle[name]["input"].attrs["affine"]
            assert np.array_equal(groups["input"]["affine"], affine)
            assert groups["input"]["voxel_order"] == "".join(nib.aff2axcodes(affine))
            total += len(lengths)
    assert text.splitlines()[0] == f"{phantom_hdf5}: HDF5 file of 3 subjects, {size(phantom_hdf5.stat().st_size)}"
    assert row(text, "validation") == "validation 1: sub-02"
    assert row(text, "resampling") == "resampling none"
    assert "28 features" in row(text, "input", "volume")
    assert row(text, "input", "volume").endswith("independent metrics/sh.nii.gz (28)")
    assert f"{total:,} streamlines".replace(",", " ") in row(text, "streamlines", "streamlines")
    assert row(text, "streamlines", "streamlines").endswith("bundles/*.trk")
    sub = found["data"]["sub-03"]["streamlines"]["length_mm"]
    assert f"{sub['min']:.1f} to {sub['max']:.1f} mm, median {sub['median']:.1f} mm" in row(
        text, "sub-03", "streamlines"
    )
    assert "voxels of 3 x 3 x 3 mm, LAS; 28 features" in row(text, "sub-03", "input")


def test_resampling_and_other_attributes(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path / "data.hdf5"))
    with edited(path) as handle:
        handle.attrs["step_size"], handle.attrs["nb_points"] = 0.5, "Not defined by user"
        handle.attrs["scanner"] = '{"field": 3, "site": [1, NaN]}'
        handle["sub-a/input"].attrs["unit"] = np.array([1.5, 2.5])
        handle["sub-a/streamlines"].attrs["space"] = "Space.VOXMM"
        matrix = handle["sub-a/streamlines"].create_dataset("connectivity_matrix", data=np.ones((8, 8)))
        matrix.attrs["connectivity_matrix_type"] = "from_blocs"
    found = describe(path)
    text = text_of(found)
    assert row(text, "resampling") == "resampling step size 0.5 mm"
    assert row(text, "digests").startswith("digests no")
    assert found["attributes"] == {"scanner": {"field": 3, "site": [1, "nan"]}}
    assert row(text, "scanner") == 'scanner field: 3; site: [1, "nan"]'
    assert row(text, "sub-a", "input").endswith("4 features; unit: [1.5, 2.5]")
    streamlines = row(text, "sub-a", "streamlines")
    assert streamlines.endswith("voxmm, corner; per streamline: id (1); connectivity 8 x 8, from_blocs")
    assert found["data"]["sub-a"]["streamlines"]["connectivity"] == {"type": "from_blocs", "shape": [8, 8]}
    assert row(text, "input", "volume").endswith("not recorded not recorded")


def test_how_a_file_was_created(phantom_hdf5: Path) -> None:
    found = describe(phantom_hdf5)
    text = text_of(found)
    assert row(text, "by", "version") == f"by version {dwiml.__version__}"
    files = sorted((phantom_hdf5.parent / "subjects/sub-01/bundles").glob("*.trk"))
    recorded = found["data"]["sub-01"]["streamlines"]["provenance"]["files"]
    assert [(file["file"], file["nb_bytes"]) for file in recorded] == [
        (f"bundles/{each.name}", each.stat().st_size) for each in files
    ]
    assert row(text, "sub-01", "streamlines").endswith(f"; from {len(files)} files")


def test_conventions_of_directions_are_readable(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path / "data.hdf5"))
    entry = {"nb_features": 3, "kind": "sh", "axes": "voxel", "basis": "descoteaux07", "legacy": False}
    with edited(path) as handle:
        handle["sub-a/input"].attrs["directions"] = json.dumps({"stored": [entry, {"nb_features": 1}]})
    stored = "sh in voxel axes (descoteaux07) and unknown"
    assert row(text_of(describe(path)), "sub-a", "input").endswith(f"directions: {stored}")


def test_many_subjects_are_summarized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {f"sub-{number:02d}": 1 for number in range(12)}, {"sub-v": 0})
    text = printed(capsys, path)
    assert text.splitlines()[-1] == "  and 3 subjects more (--all)"
    assert "sub-10" not in text
    assert row(text, "training").endswith("sub-08, sub-09 and 2 more")
    whole = printed(capsys, path, "--all")
    assert "0 streamlines, 0 points; vox, corner" in row(whole, "sub-v", "streamlines")
    assert len(whole.splitlines()) == len(text.splitlines()) - 1 + 3 * 3


def test_a_file_of_dwi_ml(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3})
    with edited(path) as handle:
        del handle.attrs["dwiml_schema_version"], handle["sub-a/streamlines/euclidean_lengths"]
        handle.attrs["groups_config"] = "{'input': {'type': 'volume', 'files': ['a.nii.gz']}}"
    text = text_of(describe(path))
    assert row(text, "layout") == "layout as written by dwi_ml"
    assert "; not recorded; vox, corner" in row(text, "sub-a", "streamlines")
    # dwi_ml's default is not known from the file.
    assert row(text, "input", "volume").endswith("not recorded a.nii.gz")


def test_values_are_not_read(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path / "data.hdf5"))
    expected = describe(path)
    with h5py.File(path, "r+") as handle:
        handle["sub-a/input/data"][...] = np.nan
        handle["sub-a/streamlines/data"][...] = np.nan
    assert describe(path) == expected


def test_an_experiment(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world / "exps/exp"
    found, text = json.loads(printed(capsys, folder, "--json")), printed(capsys, folder)
    log = json.loads((folder / "logs/metrics.jsonl").read_text())
    assert found["parameters"] == json.loads((folder / "parameters.json").read_text())
    assert found["nb_epochs"] == 1
    assert found["best"] == {"epoch": 0, "metric": "valid_loss", "value": log["valid_loss"]}
    assert text.splitlines()[0] == f"{folder}: experiment of Learn2TrackModel, 1 of 1 epoch finished"
    assert row(text, "rnn_layer_sizes") == "rnn_layer_sizes [4]"
    assert row(text, "data") == f"data {world / 'data.hdf5'}"
    assert "groups 'input' and 'streamlines'; 2 training subjects, 1 validation subject" in text
    assert row(text, "best", "epoch") == f"best epoch 0 (from 0), valid_loss {log['valid_loss']:.5g}"
    assert set(found["files"]) == {
        "checkpoint/latest.pt",
        "best_model/model_state.pt",
        "config.yaml",
        "logs/metrics.jsonl",
    }
    assert f"dwiml resume {folder} --new_max_epochs N" in text
    assert f"dwiml track {folder} sub-d OUT.trk --tracking_mask GROUP --nb_seeds N" in text


def test_the_best_epoch_and_what_is_missing(experiment: Path, tmp_path: Path) -> None:
    losses = [0.9, 0.5, 0.7]
    lines = [json.dumps({"epoch": epoch, "train_loss": 1.0, "valid_loss": loss}) for epoch, loss in enumerate(losses)]
    (experiment / "logs/metrics.jsonl").write_text("\n".join(lines) + "\n")
    shutil.rmtree(experiment / "best_model")
    recorded = json.loads((experiment / "parameters.json").read_text())
    recorded["data"]["hdf5_file"] = str(tmp_path / "moved.hdf5")
    write_json(experiment / "parameters.json", recorded)
    text = text_of(describe(experiment))
    assert row(text, "best", "epoch") == "best epoch 1 (from 0), valid_loss 0.5"
    assert row(text, "last", "epoch") == "last epoch 2, train_loss 1, valid_loss 0.7"
    assert row(text, "data").endswith("moved.hdf5 (not found: give its new path as --hdf5_file)")
    assert "dwiml track" not in text
    (experiment / "logs/metrics.jsonl").unlink()
    found = describe(experiment)
    assert (found["nb_epochs"], found["best"], found["last"]) == (0, None, None)
    assert "0 of 1 epoch finished" in text_of(found)


OWN_MODELS = """
import torch

from dwiml import AutoencoderModel, ModelWithOneInput, StreamlineClassifierModel


class Fixed(StreamlineClassifierModel):
    def __init__(self, **kwargs):
        super().__init__(target_key="valid", nb_points=8, nb_channels=(4, 4), **kwargs)


class Regression(ModelWithOneInput):
    target_key = "valid"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = torch.nn.Linear(self.embedded_input_size, 1)

    def forward(self, inputs, streamlines):
        rows = self.layer(self.embed_inputs(inputs)).split(inputs.lengths.tolist())
        return torch.stack([each.mean(0) for each in rows])

    def compute_loss(self, outputs, targets, average_results=True, *, values):
        losses = ((outputs - values) ** 2).mean(1)
        return (losses.mean() if average_results else losses), len(losses)


class Coder(AutoencoderModel):
    def __init__(self, **kwargs):
        super().__init__(nb_points=16, latent_size=2, nb_channels=(4, 4), **kwargs)
"""


@pytest.mark.parametrize(
    ("name", "does", "does_not"),
    [
        ("Fixed", ["evaluate", "filter_plausible"], ["track"]),
        ("Regression", [], ["evaluate", "track", "filter_plausible"]),
        ("Coder", [], ["evaluate", "track", "filter_plausible"]),
    ],
)
def test_own_models_that_do_not_track(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, does: list[str], does_not: list[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = f"{tmp_path / 'own_of_description.py'}:{name}"
    (tmp_path / "own_of_description.py").write_text(OWN_MODELS)
    volume = [] if name == "Coder" else ["--input_group_name", "input"]
    words = ["train", own, str(world / "labelled.hdf5"), str(tmp_path), "exp", *volume]
    assert main([*words, "--streamline_group_name", "streamlines", "--max_epochs", "1", "-q"]) == 0
    text = " ".join(text_of(describe(tmp_path / "exp")).split())
    for command in ("resume", "visualize_logs", *does):
        assert f"dwiml {command} {tmp_path / 'exp'}" in text
    assert text.count(f" --model_class FILE.py:{name}") == 1 + len(does)
    for command in does_not:
        assert f"dwiml {command}" not in text
    for command in does[:1]:
        assert main([command, str(tmp_path / "exp"), "--model_class", own]) == 0


def test_a_classifier(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "classifier", tmp_path / "classifier"))
    text = text_of(describe(folder))
    assert f"dwiml filter_plausible {folder} SUBJECT IN.trk OUT.trk" in text
    assert f"dwiml evaluate {folder}\n" in text
    assert "dwiml track" not in text
    # Of an earlier version.
    recorded = json.loads((folder / "parameters.json").read_text())
    assert recorded.pop("model_methods") == ["plausibility"]
    write_json(folder / "parameters.json", recorded)
    assert text_of(describe(folder)) == text


def test_a_schedule_that_ends_cannot_go_on(experiment: Path) -> None:
    recorded = json.loads((experiment / "parameters.json").read_text())
    recorded["trainer"]["lr_scheduler"] = "warmup_cosine"
    write_json(experiment / "parameters.json", recorded)
    assert "dwiml resume" not in text_of(describe(experiment))
    recorded["trainer"]["max_epochs"] = 3
    write_json(experiment / "parameters.json", recorded)
    assert f"dwiml resume {experiment}\n" in text_of(describe(experiment))


def test_nothing_that_an_experiment_names_is_imported(experiment: Path) -> None:
    recorded = json.loads((experiment / "parameters.json").read_text())
    recorded["model"]["class"] = "Stolen"
    for section in ("model", "trainer"):
        recorded["classes"][section] = "stolen_module_of_a_stranger:Stolen"
    write_json(experiment / "parameters.json", recorded)
    before = set(sys.modules)
    text = text_of(describe(experiment))
    assert not [name for name in set(sys.modules) - before if "stolen" in name]
    assert "experiment of Stolen" in text
    assert "--new_max_epochs N --model_class FILE.py:Stolen --trainer_class FILE.py:Stolen" in text


@pytest.mark.parametrize("suffix", ["trk", "tck", "trx"])
def test_a_tractogram(world: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = world / f"lines.{suffix}"
    lines = list(nib.streamlines.load(world / "lines.tck").streamlines)
    lengths = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines]
    found, text = json.loads(printed(capsys, path, "--json")), printed(capsys, path)
    assert (found["nb_streamlines"], found["nb_points"]) == (len(lines), sum(map(len, lines)))
    expected = {"min": min(lengths), "median": np.median(lengths), "max": max(lengths)}
    assert found["length_mm"] == pytest.approx(expected, abs=0.01)
    assert row(text, "streamlines") == f"streamlines {len(lines)} streamlines, {sum(map(len, lines))} points"
    if suffix == "tck":
        assert found["grid"] is None
        assert row(text, "grid") == "grid none: a .tck file does not record one"
    else:
        assert found["grid"]["dimensions"] == list(SHAPE)
        assert found["grid"]["voxel_sizes_mm"] == pytest.approx(VOXEL_SIZES, abs=1e-4)
        assert np.allclose(found["grid"]["affine"], AFFINE, atol=1e-5)
        assert row(text, "grid") == "grid 12 x 10 x 9 voxels of 1.5 x 2 x 2.5 mm, voxel order RAS"


@pytest.mark.parametrize("suffix", ["trk", "trx"])
def test_data_of_a_tractogram(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([3, 5])
    part = Part(
        rng.uniform(1, 8, (8, 3)).astype(np.float32),
        lengths,
        {"loss": rng.uniform(size=(8, 1)), "color": rng.uniform(size=(8, 3))},
        {"id": np.arange(2.0)[:, None], "ends": rng.uniform(size=(2, 6))},
    )
    write_with_data(tmp_path / f"a.{suffix}", Grid(AFFINE, SHAPE), [part])
    found = describe(tmp_path / f"a.{suffix}")
    assert found["data_per_point"] == {"loss": 1, "color": 3}
    assert found["data_per_streamline"] == {"id": 1, "ends": 6}
    text = text_of(found)
    assert sorted(row(text, "per", "point").removeprefix("per point ").split(", ")) == ["color (3)", "loss (1)"]


def test_groups_of_a_trx(tmp_path: Path, world: Path) -> None:
    import zipfile

    path = Path(shutil.copy(world / "lines.trx", tmp_path / "lines.trx"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("groups/AF_L.uint32", np.arange(5, dtype="<u4").tobytes())
    found = describe(path)
    assert found["groups"] == {"AF_L": 5}
    assert row(text_of(found), "groups") == "groups AF_L (5 streamlines)"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder.trx")
    assert describe(tmp_path / "folder.trx")["groups"] == {"AF_L": 5}


def test_two_kinds_of_h5(tiny_hdf5: Path, tmp_path: Path) -> None:
    subjects = Path(shutil.copy(tiny_hdf5, tmp_path / "subjects.h5"))
    assert describe(subjects)["kind"] == "hdf5"
    path = tmp_path / "connections.h5"
    with h5py.File(path, "w") as handle:
        handle.attrs.update({"affine": AFFINE, "dimensions": SHAPE, "voxel_sizes": VOXEL_SIZES, "voxel_order": "RAS"})
        group = handle.create_group("1_2")
        group["data"] = np.arange(15, dtype=np.float32).reshape(5, 3) / 3
        group["offsets"], group["lengths"] = np.array([0, 2]), np.array([2, 3])
    found = describe(path)
    assert (found["kind"], found["nb_streamlines"], found["nb_points"]) == ("tractogram", 2, 5)
    step = np.linalg.norm(VOXEL_SIZES)
    assert found["length_mm"] == pytest.approx({"min": step, "median": 1.5 * step, "max": 2 * step}, abs=0.01)
    assert found["grid"]["dimensions"] == list(SHAPE)
    assert row(text_of(found), "per", "streamline").startswith("per streamline ")
    assert all(width is None for width in found["data_per_streamline"].values())


def test_large_tractograms_are_measured_on_demand(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dwiml.inspection.tractogram._QUICK_BYTES", 1000)
    for suffix in ("trk", "tck", "trx"):
        path = world / f"lines.{suffix}"
        found = describe(path)
        assert (found["nb_streamlines"], found["length_mm"]) == (12, None)
        assert row(text_of(found), "length") == "length not measured (--measure reads all streamlines)"
        assert " to " in row(printed(capsys, path, "--measure"), "length")


def test_an_empty_tractogram(tmp_path: Path) -> None:
    for suffix in ("trk", "tck"):
        path = tmp_path / f"empty.{suffix}"
        header = {"voxel_to_rasmm": AFFINE, "dimensions": SHAPE, "voxel_sizes": VOXEL_SIZES, "voxel_order": "RAS"}
        empty = nib.streamlines.Tractogram([], affine_to_rasmm=np.eye(4))
        nib.streamlines.save(empty, path, header=header if suffix == "trk" else None)
        found = describe(path)
        assert (found["nb_streamlines"], found["length_mm"]) == (0, None)
        assert row(text_of(found), "streamlines").startswith("streamlines 0 streamlines")


def test_a_trk_without_grid_says_so(tmp_path: Path) -> None:
    line = np.arange(12, dtype=np.float32).reshape(4, 3)
    nib.streamlines.save(nib.streamlines.Tractogram([line], affine_to_rasmm=np.eye(4)), tmp_path / "a.trk")
    found = describe(tmp_path / "a.trk")
    assert found["grid"] is None
    assert "does not give its voxel grid" in row(text_of(found), "grid")
    assert found["length_mm"]["max"] == pytest.approx(3 * np.sqrt(27), abs=0.01)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "was not found"),
        ("config.json", "is not an HDF5 file, an experiment folder or a tractogram"),
        ("images/input.nii.gz", "is not an HDF5 file, an experiment folder or a tractogram"),
        ("autoencoder", "holds a saved model, not an experiment"),
        ("truth", "is not an experiment folder: it has no parameters.json"),
        ("cut.hdf5", "truncated"),
        ("cut.trk", "truncated"),
        ("cut.trx", "is damaged (file is not a zip file)"),
    ],
)
def test_what_is_none_of_them_or_damaged(
    world: Path, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    whole: dict[str, Any] = {"cut.hdf5": "data.hdf5", "cut.trk": "lines.trk", "cut.trx": "lines.trx"}
    if name in whole:
        content = (world / whole[name]).read_bytes()
        (world / name).write_bytes(content[: len(content) * 2 // 3])
    assert main(["info", str(world / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error


def test_sizes_have_decimal_units() -> None:
    assert [size(nb) for nb in (0, 999, 1000, 17_640_000, 2 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "17.6 MB",
        "2.0 TB",
    ]
