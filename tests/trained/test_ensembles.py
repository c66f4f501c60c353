"""Several experiments track together, by the command and by the call."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_world import TRAINING, make_world

import dwiml
from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.tracking.ensemble import TrackingEnsemble

OPTIONS: dict[str, Any] = {"tracking_mask": "wm_mask", "min_length": 2.0, "theta": 180.0, "max_length": 30.0, "seed": 3}
WORDS = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``exps/exp``, ``exps/other`` with the same weights, and ``exps/second``, trained with another seed."""
    root = make_world(tmp_path_factory.mktemp("world"))
    words = [*TRAINING, "--rnn_key", "lstm", "--nb_previous_dirs", "2"]
    words[words.index("--seed") + 1] = "2"
    assert train.main(["learn2track", str(root / "data.hdf5"), str(root / "exps"), "second", *words]) == 0
    return root


def paths(world: Path, *names: str) -> list[str]:
    return [str(world / "exps" / name) for name in names]


def lines_of(path: Path) -> list[np.ndarray]:
    return list(nib.streamlines.load(path).streamlines)


def copied(world: Path, tmp_path: Path, change: dict[str, Any]) -> str:
    """Copy an experiment, with other parameters in some sections."""
    folder = Path(shutil.copytree(world / "exps/second", tmp_path / "copy"))
    parameters = json.loads((folder / "parameters.json").read_text())
    for section, values in change.items():
        parameters[section] = {**parameters.get(section, {}), **values}
    (folder / "parameters.json").write_text(json.dumps(parameters))
    return str(folder)


def test_the_command_and_the_call(world: Path, tmp_path: Path) -> None:
    command = ["track", *paths(world, "exp", "second"), "sub-d", str(tmp_path / "c.tck"), *WORDS]
    assert main([*command, "--report", str(tmp_path / "r.json"), "--sidecar"]) == 0
    tracked = dwiml.track(paths(world, "exp", "second"), "sub-d", out=tmp_path / "o.tck", sidecar=True, **OPTIONS)
    assert (tmp_path / "o.tck").read_bytes() == (tmp_path / "c.tck").read_bytes()
    alone = dwiml.track(world / "exps/exp", "sub-d", **OPTIONS)
    assert len(tracked) > 50
    assert not np.array_equal(alone.streamlines.get_data(), tracked.streamlines.get_data())
    loaded = [dwiml.load_experiment(each) for each in paths(world, "exp", "second")]
    again = dwiml.track(loaded, "sub-d", **OPTIONS)
    assert np.array_equal(again.streamlines.get_data(), tracked.streamlines.get_data())
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["arguments"]["experiments"] == paths(world, "exp", "second")
    assert report["arguments"]["subject"] == "sub-d"
    contents = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "co"]
    assert contents[0] == contents[1]
    content = contents[0]
    assert content["Name"] == TrackingEnsemble.__name__
    assert content["Description"] == "Streamlines tracked by an ensemble of 2 trained models."
    assert "the mean of" in content["StreamlinePropagation"]["Algorithm"]["Description"]
    named = [(tmp_path / each).resolve() for each in content["dwiml"]["experiment"]]
    assert named == [world / "exps/exp", world / "exps/second"]
    assert content["dwiml"]["model"] == ["Learn2TrackModel", "Learn2TrackModel"]
    assert [(tmp_path / each).resolve() for each in content["Sources"][-2:]] == named


def test_two_copies_of_an_experiment_are_the_experiment(world: Path) -> None:
    alone = dwiml.track(world / "exps/exp", "sub-d", **OPTIONS)
    twice = dwiml.track(paths(world, "exp", "other"), "sub-d", **OPTIONS)
    np.testing.assert_allclose(twice.streamlines.get_data(), alone.streamlines.get_data(), atol=1e-3)
    one = dwiml.track(paths(world, "exp"), "sub-d", **OPTIONS)
    assert np.array_equal(one.streamlines.get_data(), alone.streamlines.get_data())


def test_from_images(world: Path, tmp_path: Path) -> None:
    mask = str(world / "images/mask.nii.gz")
    words = [*WORDS, "--input", str(world / "images/input.nii.gz"), "--standardization", "none"]
    words[words.index("wm_mask")] = mask
    command = ["track", *paths(world, "exp", "second"), str(tmp_path / "c.tck"), *words]
    assert main(command) == 0
    assert len(lines_of(tmp_path / "c.tck")) > 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["EXP", "SECOND", "OUT"], "is an experiment folder, where a SUBJECT of the HDF5 file was expected: give it"),
        (["EXP", "sub-d", "OUT", "--input", "a.nii.gz"], "'sub-d' is not an experiment folder; with --input there is "),
        (["EXP", "nowhere", "sub-d", "OUT"], "'nowhere' does not exist"),
        (["EXP", "SECOND", "sub-d", "OUT", "--algo", "prob"], "Model 1 of the ensemble: 'cosine-regression' gives one"),
        (["EXP", "COPY", "sub-d", "OUT"], "was trained on group 'input', that of 'COPY' on 'wm_mask'."),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    exp, second = paths(world, "exp", "second")
    copy = copied(world, tmp_path, {"loader": {"input_group_name": "wm_mask"}})
    places = {"EXP": exp, "SECOND": second, "COPY": copy, "OUT": "o.trk"}
    assert main(["track", *(places.get(each, each) for each in arguments), *WORDS]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert sentence.replace("COPY", copy) in error
    assert not (tmp_path / "o.trk").exists()


def test_inputs_that_were_created_in_another_way(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = {"type": "volume", "files": ["a.nii.gz"], "standardization": "all", "std_mask": []}
    first = Path(copied(world, tmp_path, {"groups_config": {"input": entry}})).rename(tmp_path / "first")
    other = copied(world, tmp_path, {"groups_config": {"input": {**entry, "standardization": "none"}}})
    with pytest.raises(ValueError, match="must read the same input: the standardization of group 'input' of '.*first'"):
        dwiml.track([first, other], "sub-d", **OPTIONS)
    shutil.rmtree(other)
    found = [{**entry, "files_found": [{"file": "a.nii.gz", "nb_features": nb}]} for nb in (4, 5)]
    for folder, nb in ((first, 0), (Path(copied(world, tmp_path, {})), 1)):
        parameters = json.loads((folder / "parameters.json").read_text())
        parameters["groups_config"] = {"input": found[nb]}
        (folder / "parameters.json").write_text(json.dumps(parameters))
    with pytest.raises(ValueError, match=r"the number of features of each file .* is \[4\], .* is \[5\]"):
        dwiml.track([first, other], "sub-d", **OPTIONS)
    shutil.rmtree(other)
    other = copied(world, tmp_path, {"groups_config": {"input": {**entry, "files": ["b.nii.gz"]}}})
    caplog.clear()
    assert len(dwiml.track([first, other], "sub-d", nb_seeds=20, **OPTIONS)) > 0
    assert "its 'files' is ['b.nii.gz'] instead of ['a.nii.gz']" in caplog.text


def test_steps_and_kinds_that_differ(world: Path, tmp_path: Path) -> None:
    words = [*TRAINING]
    words[words.index("--step_size") + 1] = "1"
    assert train.main(["learn2track", str(world / "data.hdf5"), str(tmp_path), "short", *words]) == 0
    with pytest.raises(ValueError, match=r"the same step_size: model 1 has 2\.0, model 2 has 1\.0\."):
        dwiml.track([world / "exps/exp", tmp_path / "short"], "sub-d", **OPTIONS)
    model = dwiml.load_experiment(world / "exps/exp").model
    with pytest.raises(TypeError, match="Experiments and models alone cannot be mixed"):
        dwiml.track([world / "exps/exp", model], "sub-d", **OPTIONS)
    with pytest.raises(ValueError, match="the list of experiments is empty"):
        dwiml.track([], "sub-d", **OPTIONS)
    with pytest.raises(TypeError, match="A model alone tracks on data of"):
        dwiml.track([model, model], "sub-d", **OPTIONS)


def test_no_output_in_any_of_the_experiments(world: Path) -> None:
    with pytest.raises(ValueError, match="experiment"):
        dwiml.track(paths(world, "exp", "second"), "sub-d", out=world / "exps/second/o.trk", **OPTIONS)
