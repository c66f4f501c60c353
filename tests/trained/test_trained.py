"""An experiment is loaded, and tracked with, in one call each: as the commands do."""

from __future__ import annotations

import inspect
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.io.stateful_tractogram import Origin, Space
from own_models import DATA, write_own_model
from small_world import make_world
from tests_support import AFFINE, SHAPE
from without_volume import trainer_without_volume

import dwiml
from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.models.base import MainModelAbstract
from dwiml.ops.spaces import to_vox_corner
from dwiml.tracking.acceptance import Acceptance
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.sources import read_from_images
from dwiml.tracking.tracker import Tracker
from dwiml.trained.tracking_run import TrackingKeywords, tracking_rules
from dwiml.training.experiment.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def own(world: Path) -> tuple[Path, str]:
    """An experiment of two epochs of a model in a file, of which the last is not the best; and the model's name."""
    name = write_own_model(world, "own_loaded")
    command = [name, str(world / "data.hdf5"), str(world / "exps"), "own", *DATA, "--max_epochs", "2", "-q"]
    assert train.main([*command, "--learning_rates", "0.01", "10"]) == 0
    return world / "exps" / "own", name


def same_state(model: torch.nn.Module, state: Any) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_best_and_the_latest_weights(own: tuple[Path, str]) -> None:
    best, latest = (dwiml.load_experiment(*own, weights=weights) for weights in ("best", "latest"))
    saved = torch.load(own[0] / "best_model" / "model_state.pt", weights_only=True)
    assert same_state(best.model, saved)
    assert same_state(latest.model, load_checkpoint(own[0] / "checkpoint")["model"])
    assert not same_state(latest.model, saved)
    assert not best.model.training
    assert best.parameters["model"]["hidden_sizes"] == [6, 4]
    assert best.path == own[0]


def test_the_best_model_of_an_experiment_is_not_one(own: tuple[Path, str], tmp_path: Path) -> None:
    best = own[0] / "best_model"
    with pytest.raises(ValueError, match="holds a saved model, not an experiment: ") as caught:
        dwiml.load_experiment(best, own[1])
    assert str(caught.value).endswith(f"give the experiment folder above it, '{own[0]}'.")
    alone = shutil.copytree(best, tmp_path / "alone")
    with pytest.raises(ValueError, match=r"give the experiment folder above it\.$"):
        dwiml.load_experiment(alone, own[1])


def test_a_damaged_checkpoint_stays_where_it_is(
    own: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = Path(shutil.copytree(own[0], tmp_path / "exp"))
    latest, previous = experiment / "checkpoint" / "latest.pt", experiment / "checkpoint" / "previous.pt"
    latest.write_bytes(latest.read_bytes()[:-100])
    found = dwiml.load_experiment(experiment, own[1], weights="latest")
    assert same_state(found.model, load_checkpoint(own[0] / "checkpoint", resuming=False)["model"]) is False
    assert sorted(each.name for each in latest.parent.iterdir()) == ["latest.pt", "previous.pt"]
    assert f"Loaded instead: the previous one, '{previous}'." in caplog.text
    assert "Resuming" not in caplog.text


def test_the_data_are_those_of_the_training(own: tuple[Path, str]) -> None:
    trained = dwiml.load_experiment(str(own[0]), own[1])
    dataset = trained.open_dataset(lazy=True)
    assert dataset.testing_set.subjects == ["sub-e"]
    sampler, loader = trained.batch_sampler(dataset), trained.batch_loader(dataset)
    assert (sampler.seed, loader.seed) == (trained.parameters["sampler"]["seed"], trained.parameters["loader"]["seed"])
    sampler.set_position("validation", 0)
    batch = loader.model_batch(*loader.load_batch_streamlines(next(iter(sampler))))
    loss, n = batch.loss(trained.model, batch.run(trained.model))
    assert n > 0
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"weights": "last"}, ValueError, "weights must be one of 'best', 'latest', got 'last'."),
        ({"model_class": None}, ValueError, "give model_class='.*own_loaded.py:OwnModel'"),
        ({"model_class": "learn2track"}, ValueError, "is of class OwnModel, not Learn2TrackModel"),
        ({"experiment": ""}, ValueError, "The path of the experiment folder is empty"),
        ({"experiment": "nowhere"}, FileNotFoundError, "'nowhere' does not exist"),
        ({"model_clas": "x"}, TypeError, "did you mean 'model_class'"),
    ],
)
def test_what_cannot_be_loaded(own: tuple[Path, str], change: dict[str, Any], error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        dwiml.load_experiment(**{"experiment": own[0], "model_class": own[1], **change})


OPTIONS: dict[str, Any] = {"seeds_per_voxel": 1, "min_length": 2.0, "theta": 180.0, "max_length": 30.0, "seed": 3}


def as_words(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def lines_of(path: Path) -> list[np.ndarray]:
    return list(nib.streamlines.load(path).streamlines)


def test_the_call_gives_the_streamlines_of_the_command(own: tuple[Path, str], tmp_path: Path) -> None:
    command = ["track", str(own[0]), "sub-d", str(tmp_path / "c.tck"), "--tracking_mask", "wm_mask", *as_words(OPTIONS)]
    assert main([*command, "--model_class", own[1], "--simultaneous", "500"]) == 0
    counted: list[int] = []
    tracked = dwiml.track(
        dwiml.load_experiment(*own),
        "sub-d",
        tracking_mask="wm_mask",
        out=tmp_path / "o.tck",
        save_seeds=False,
        on_progress=counted.append,
        simultaneous=500,
        **OPTIONS,
    )
    assert (tmp_path / "o.tck").read_bytes() == (tmp_path / "c.tck").read_bytes()
    assert (tracked.space, tracked.origin) == (Space.RASMM, Origin.NIFTI)
    expected = lines_of(tmp_path / "c.tck")
    assert len(tracked.streamlines) == len(expected) > 50
    assert all(np.array_equal(a, b) for a, b in zip(tracked.streamlines, expected, strict=True))
    assert np.allclose(tracked.affine, AFFINE)
    assert tuple(tracked.dimensions) == SHAPE
    assert len(counted) > 1
    assert sum(counted) == np.prod(SHAPE)


def test_seeds_are_in_voxel_space(own: tuple[Path, str]) -> None:
    tracked = dwiml.track(
        own[0], "sub-d", model_class=own[1], tracking_mask="wm_mask", save_seeds=True, forward_only=True, **OPTIONS
    )
    seeds = np.asarray(tracked.data_per_streamline["seeds"])
    first = np.stack([line[0] for line in tracked.streamlines])
    vox = to_vox_corner(first, space="rasmm", origin="center", affine=tracked.affine, voxel_sizes=tracked.voxel_sizes)
    assert np.allclose(seeds, vox, atol=1e-4)


def test_images_and_a_model_alone(own: tuple[Path, str], world: Path, tmp_path: Path) -> None:
    image, mask = (str(world / "images" / f"{name}.nii.gz") for name in ("input", "mask"))
    command = ["track", str(own[0]), str(tmp_path / "c.tck"), "--input", image, "--standardization", "none"]
    command += ["--tracking_mask", mask, "--model_class", own[1], *as_words(OPTIONS)]
    assert main(command) == 0
    expected = lines_of(tmp_path / "c.tck")
    trained = dwiml.load_experiment(*own)
    for images in (image, [image], [Path(image)]):
        tracked = dwiml.track(trained, images, tracking_mask=mask, standardization="none", **OPTIONS)
        assert all(np.array_equal(a, b) for a, b in zip(tracked.streamlines, expected, strict=True))
    alone = dwiml.track(trained.model, read_from_images([image], tracking_mask=mask), **OPTIONS)
    assert all(np.array_equal(a, b) for a, b in zip(alone.streamlines, expected, strict=True))


def test_no_streamline_is_an_empty_tractogram(own: tuple[Path, str]) -> None:
    none = {**OPTIONS, "theta": 0.001, "min_length": 29.0}
    tracked = dwiml.track(own[0], "sub-d", model_class=own[1], tracking_mask="wm_mask", save_seeds=True, **none)
    assert len(tracked) == 0


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"tracking_mask": None}, ValueError, "tracking_mask is required"),
        ({"thetta": 3}, TypeError, "track has no parameter 'thetta'; did you mean 'theta'"),
        ({"subject": "sub-x"}, ValueError, "sub-x"),
        ({"standardization": "none"}, ValueError, "standardization is for images"),
        ({"step_size": 50.0}, ValueError, r"step_size \(50 mm\) is above max_length \(30 mm\)"),
        ({"nb_seeds": 3}, ValueError, "Give either the number of seeds per voxel or the total number"),
        ({"seeds_per_voxel": None, "nb_seeds": 0}, ValueError, "^nb_seeds must be a whole number of at least 1, got 0"),
        ({"seeds_per_voxel": 1.5}, ValueError, "^seeds_per_voxel must be a whole number of at least 1, got 1.5"),
        ({"seeds_at": "middle"}, ValueError, "^seeds_at must be"),
        ({"seeding": "border"}, ValueError, "^seeding must be one of 'volume', 'interface', got 'border'"),
        ({"out": "EXPERIMENT/o.trk"}, ValueError, "experiment"),
        ({"out": "o.nii"}, ValueError, "o.nii"),
    ],
)
def test_what_cannot_be_tracked(
    own: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    change = {
        name: str(value).replace("EXPERIMENT", str(own[0])) if name == "out" else value
        for name, value in change.items()
    }
    arguments = {"subject": "sub-d", "tracking_mask": "wm_mask", "model_class": own[1], **OPTIONS, **change}
    with pytest.raises(error, match=sentence):
        dwiml.track(own[0], arguments.pop("subject"), **arguments)
    assert not list(tmp_path.iterdir())


def test_outputs_are_not_inputs_of_either_experiment(own: tuple[Path, str], world: Path, tmp_path: Path) -> None:
    image, mask = (str(world / "images" / f"{name}.nii.gz") for name in ("input", "mask"))
    other = tmp_path / "other"
    shutil.copytree(own[0], other)
    before = sorted(other.rglob("*"))
    options = {"tracking_mask": mask, "standardize_like": other, "overwrite": True, **OPTIONS}
    with pytest.raises(ValueError, match=f"out: '.*o.trk' is inside the experiment '{other}'"):
        dwiml.track(own[0], image, model_class=own[1], out=other / "o.trk", **options)
    with pytest.raises(FileNotFoundError, match="'.*nowhere' does not exist"):
        dwiml.track(
            own[0], image, model_class=own[1], out=tmp_path / "o.trk", **{**options, "standardize_like": "nowhere"}
        )
    # The partial file would replace a file that is read.
    source = tmp_path / "o.partial.trk"
    source.symlink_to(mask)
    with pytest.raises(ValueError, match="out, until it is whole: '.*o.partial.trk' is an input"):
        dwiml.track(own[0], image, model_class=own[1], out=tmp_path / "o.trk", std_mask=source, **options)
    assert sorted(other.rglob("*")) == before


def test_standardization_of_images(own: tuple[Path, str], world: Path) -> None:
    image, mask = (str(world / "images" / f"{name}.nii.gz") for name in ("input", "mask"))
    trained = dwiml.load_experiment(*own)
    with pytest.raises(ValueError, match="standardization must be one of 'all', 'independent', .*, got 'nonsense'"):
        dwiml.track(trained, image, tracking_mask=mask, standardization="nonsense", **OPTIONS)
    options = {"tracking_mask": mask, "standardization": "all", **OPTIONS}
    several, *others = (dwiml.track(trained, image, std_mask=masks, **options) for masks in ([mask], mask, Path(mask)))
    for one in others:
        assert all(np.array_equal(a, b) for a, b in zip(one.streamlines, several.streamlines, strict=True))


def test_parameters_without_effect_are_refused(own: tuple[Path, str], world: Path) -> None:
    image, mask = (str(world / "images" / f"{name}.nii.gz") for name in ("input", "mask"))
    trained = dwiml.load_experiment(*own)
    for loaded in (trained, trained.model):
        with pytest.raises(TypeError, match="model_class is for an experiment folder, but model is loaded already"):
            dwiml.track(loaded, image, model_class=own[1], tracking_mask=mask, standardization="none", **OPTIONS)
    data = read_from_images([image], tracking_mask=mask)
    for change in ({"tracking_mask": mask}, {"hdf5_file": "x"}, {"std_mask": mask}, {"standardization": "none"}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} has no effect on data that were read already"):
            dwiml.track(trained, data, **change, **OPTIONS)


def test_a_model_alone_needs_data(own: tuple[Path, str]) -> None:
    with pytest.raises(TypeError, match="A model alone tracks on data of"):
        dwiml.track(dwiml.load_experiment(*own).model, "sub-d", tracking_mask="wm_mask")


def test_the_keywords_are_those_of_the_classes() -> None:
    expected = set(PropagationRules.__dataclass_fields__) | {"seeds_per_voxel", "nb_seeds", "seeds_at", "seeding"}
    expected |= set(inspect.signature(Tracker).parameters) - {"model", "subject", "rules", "acceptance"}
    expected |= set(Acceptance.__dataclass_fields__) - {"classifier"}
    assert set(TrackingKeywords.__annotations__) == expected
    assert {"per_voxel", "total", "placement"} <= set(inspect.signature(Seeds).parameters)


def test_an_experiment_is_not_imported_by_name(own: tuple[Path, str]) -> None:
    before = set(sys.modules)
    with pytest.raises(ValueError, match="which is not part of dwiml"):
        dwiml.track(own[0], "sub-d", tracking_mask="wm_mask")
    assert not set(sys.modules) - before
    assert issubclass(type(dwiml.load_experiment(*own).model), MainModelAbstract)


def test_a_loader_of_ones_own_is_told_of(own: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    trained = dwiml.load_experiment(*own)
    for section, changed in (
        ("loader", {"class": "OwnLoader"}),
        ("classes", {"loader": "x.py:DWIMLBatchLoaderOneInput"}),
    ):
        parameters = {**trained.parameters, section: {**trained.parameters[section], **changed}}
        caplog.clear()
        dwiml.track(replace(trained, parameters=parameters), "sub-d", tracking_mask="wm_mask", nb_seeds=2)
        assert "which is your own. Tracking interpolates the volume as DWIMLBatchLoaderOneInput does" in caplog.text
    caplog.clear()
    dwiml.track(trained, "sub-d", tracking_mask="wm_mask", nb_seeds=2)
    assert not caplog.records


def test_a_model_that_cannot_track_is_told_before_its_step_size(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path, model_class=dwiml.AutoencoderModel, max_epochs=1).train_and_validate()
    experiment = tmp_path / "exp"
    with pytest.raises(ValueError, match=r"was trained without a volume \(its batch loader has no input_group_name\)"):
        dwiml.track(experiment, "sub-d", tracking_mask="wm_mask")
    assert main(["track", str(experiment), "sub-d", str(tmp_path / "o.trk"), "--tracking_mask", "wm_mask"]) == 2
    assert "was trained without a volume" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Tracking needs a model that tracks; AutoencoderModel has no "):
        tracking_rules(dwiml.load_experiment(experiment).model, {})
