"""The autoencoder by command: train, resume, show the loss, reconstruct, filter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.streamlines import Tractogram, TrkFile
from scoring_support import save_lines, save_volume
from small_training import logs

from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.cli.options.config_file import parse_options
from dwiml.evaluation.latent_filter import LatentReference
from dwiml.evaluation.latent_space import load_autoencoder
from dwiml.hdf5.creator import create_hdf5
from dwiml.phantom.create import create_phantom
from dwiml.tractograms.reading import open_tractogram

SMALL = ["--nb_points", "32", "--nb_channels", "16", "32", "64", "--latent_size", "8", "--scale", "40"]
TRAINING = ["--seed", "1", "--learning_rates", "0.003", "--batch_size_training", "50", "--reverse_ratio", "0.5", "-q"]
GROUP = ["--streamline_group_name", "streamlines"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom, its HDF5 file, and an autoencoder trained for some epochs, once resumed."""
    root = create_phantom(tmp_path_factory.mktemp("autoencoder") / "phantom", nb_subjects=3, size="small")
    lists = [root / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(root / "subjects", root / "data.hdf5", root / "config.json", *lists)
    options = [*GROUP, *SMALL, *TRAINING, "--max_epochs", "12"]
    assert main(["train", "autoencoder", str(root / "data.hdf5"), str(root), "exp", *options]) == 0
    assert main(["resume", str(root / "exp"), "--new_max_epochs", "25", "-q"]) == 0
    return root


def bundle(work: Path, name: str, subject: str = "sub-01") -> Path:
    return work / "subjects" / subject / "bundles" / f"{name}.trk"


def test_it_learns_and_is_recorded(work: Path) -> None:
    losses = [epoch["train_loss"] for epoch in logs(work / "exp")]
    assert len(losses) == 25
    assert losses[-1] < 0.05 * losses[0]
    recorded = json.loads((work / "exp" / "parameters.json").read_text())
    assert recorded["model"]["class"] == "AutoencoderModel"
    assert recorded["trainer"]["class"] == "DWIMLTrainer"
    assert recorded["loader"]["class"] == "DWIMLStreamlinesBatchLoader"


def test_the_config_file_repeats_it(work: Path, tmp_path: Path) -> None:
    config = ["--config", str(work / "exp" / "config.yaml"), "--experiments_path", str(tmp_path)]
    assert main(["train", "autoencoder", *config, "--max_epochs", "2", "-q"]) == 0
    assert logs(tmp_path / "exp") == logs(work / "exp")[:2]


def test_the_options_are_those_of_a_model_without_a_volume(capsys: pytest.CaptureFixture[str]) -> None:
    parser = train.build_model_parser("autoencoder")
    words = ["a", "b", "c", *GROUP]
    given = vars(parse_options(parser, words, positional=tuple(train.PATHS)))
    assert given["nb_points"] == 256
    assert given["scale"] == 100
    names = {"input_group_name", "volume_dtype", "step_size", "compress_lines", "nb_features"}
    assert not names & set(given)
    assert not [name for name in given if name.startswith("tracking_phase")]
    several = parse_options(parser, [*words, "--scale", "1", "-2", "3"], positional=tuple(train.PATHS))
    assert several.scale == [1, -2, 3]
    with pytest.raises(SystemExit):
        main(["train", "autoencoder", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--latent_size N number of values that describe a streamline [32]" in text
    assert "--input_group_name" not in text


def test_show_loss_has_one_at_each_point(work: Path, tmp_path: Path) -> None:
    assert main(["show_loss", str(work / "exp"), "sub-01", str(tmp_path)]) == 0
    drawn = nib.streamlines.load(tmp_path / "loss.trk")
    loss = np.concatenate(drawn.tractogram.data_per_point["loss"])
    assert len(loss) == 400 * 32
    assert np.isfinite(loss).all()
    assert logs(work / "exp")[-1]["train_loss"] == pytest.approx(loss.mean(), rel=0.5)


@pytest.mark.parametrize("extension", ["trk", "trx", "tck"])
def test_reconstructions_are_near(
    work: Path, tmp_path: Path, extension: str, capsys: pytest.CaptureFixture[str]
) -> None:
    original, out = bundle(work, "arch"), tmp_path / f"out.{extension}"
    assert main(["autoencode", str(work / "exp"), str(original), str(out)]) == 0
    assert "40 streamlines of 32 points in" in capsys.readouterr().out
    if extension == "trx":
        from trx.trx_file_memmap import load

        rebuilt = [np.array(line) for line in load(str(out)).streamlines]
    else:
        rebuilt = list(nib.streamlines.load(out).streamlines)
    for line, true in zip(rebuilt, nib.streamlines.load(original).streamlines, strict=True):
        assert len(line) == 32
        assert np.linalg.norm(line[[0, -1]] - true[[0, -1]], axis=1).max() < 12
    if extension == "trk":
        errors = nib.streamlines.load(out).tractogram.data_per_streamline["rms_error_mm"]
        assert errors.shape == (40, 1)
        assert 0 < np.median(errors) < 8


def test_the_voxel_grid_of_a_file_does_not_matter(work: Path, tmp_path: Path) -> None:
    """The same streamlines under other headers, as .tck, and from the saved model: the same numbers in mm."""
    lines = nib.streamlines.load(bundle(work, "hook_left")).streamlines
    affine = np.array([[-1.0, 0, 0, 70], [0, 2.5, 0, -80], [0, 0, 4, -60], [0, 0, 0, 1]])
    header = {"voxel_to_rasmm": affine, "voxel_sizes": (1, 2.5, 4), "dimensions": (150, 60, 40), "voxel_order": "LAS"}
    TrkFile(Tractogram(lines, affine_to_rasmm=np.eye(4)), header).save(str(tmp_path / "other.trk"))
    nib.streamlines.save(Tractogram(lines, affine_to_rasmm=np.eye(4)), str(tmp_path / "lines.tck"))
    found = {}
    for source in (bundle(work, "hook_left"), tmp_path / "other.trk", tmp_path / "lines.tck"):
        for model in ("exp", "exp/best_model"):
            out = tmp_path / f"out{len(found)}{source.suffix}"
            assert main(["autoencode", str(work / model), str(source), str(out)]) == 0
            found[source.name, model] = np.concatenate(nib.streamlines.load(out).streamlines)
    first = found["hook_left.trk", "exp"]
    for rebuilt in found.values():
        np.testing.assert_allclose(rebuilt, first, atol=2e-3)
    other = nib.streamlines.load(tmp_path / "out2.trk").header
    np.testing.assert_allclose(other["voxel_to_rasmm"], affine)


def test_the_reference_decides(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle of the reference is kept, another one is not; both outputs have the distances."""
    whole, reference = tmp_path / "whole.trk", bundle(work, "arch")
    parts = [nib.streamlines.load(bundle(work, name)).streamlines for name in ("arch", "sling")]
    header = nib.streamlines.load(reference).header
    data = {"number": np.arange(80)[:, None]}
    lines = [*[line[::-1] for line in parts[0]], *parts[1]]
    TrkFile(Tractogram(lines, data_per_streamline=data, affine_to_rasmm=np.eye(4)), header).save(str(whole))
    kept, rejected = tmp_path / "kept.trk", tmp_path / "rejected.trk"
    command = ["filter_latent", str(work / "exp"), str(whole), str(kept), "--reference", str(reference)]
    assert main([*command, "--rejected", str(rejected)]) == 0
    printed = capsys.readouterr().out
    assert "(quantile 0.95 of the reference, 40 streamlines)" in printed
    assert f"40 streamlines of 80 kept (50.0%) in '{kept}'." in printed
    distances_printed = next(line for line in printed.splitlines() if line.startswith("Distances of IN: median "))
    of_kept, of_rejected = (nib.streamlines.load(path).tractogram for path in (kept, rejected))
    assert of_kept.data_per_streamline["number"].ravel().tolist() == list(range(40))
    assert of_rejected.data_per_streamline["number"].ravel().tolist() == list(range(40, 80))
    near, far = (each.data_per_streamline["latent_distance"].ravel() for each in (of_kept, of_rejected))
    assert near.max() < 0.01 < far.min()
    low, median, high = np.percentile([*near, *far], (5, 50, 95))
    assert distances_printed == f"Distances of IN: median {median:.4g}, from {low:.4g} to {high:.4g} (5% to 95%)."
    for got, true in zip(of_rejected.streamlines, parts[1], strict=True):
        np.testing.assert_allclose(got, true, atol=1e-4)
    middle = float(np.median(far))
    assert main([*command, "--threshold", str(middle), "-f"]) == 0
    assert len(nib.streamlines.load(kept).streamlines) == pytest.approx(60, abs=1)


def test_the_threshold_is_a_quantile_of_the_distances(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["filter_latent", str(work / "exp"), str(bundle(work, "arch")), str(tmp_path / "kept.tck")]
    references = [str(bundle(work, name)) for name in ("helix", "fan_left")]
    assert main([*command, "--reference", *references, "--quantile", "0.5"]) == 0
    lines = [line for path in references for line in nib.streamlines.load(path).streamlines]
    points, lengths = np.concatenate(lines).astype(np.float32), np.array([len(line) for line in lines])
    reference = LatentReference.from_streamlines(load_autoencoder(work / "exp"), points, lengths)
    said = float(capsys.readouterr().out.split()[1])
    assert said == pytest.approx(np.median(reference.own_distances()), rel=1e-3)


def test_a_result_without_streamlines_replaces_an_older_one(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With -f, nothing of an earlier run is left that would look like a result of this one."""
    kept, rejected = tmp_path / "kept.trk", tmp_path / "rejected.trx"
    command = ["filter_latent", str(work / "exp"), str(bundle(work, "sling")), str(kept), "--rejected", str(rejected)]
    command += ["--reference", str(bundle(work, "arch")), "--threshold"]
    assert main([*command, "1e9"]) == 0
    assert len(nib.streamlines.load(kept).streamlines) == 40
    assert main([*command, "0", "-f"]) == 0
    assert f"0 streamlines of 40 kept (0.0%) in '{kept}'." in capsys.readouterr().out
    assert len(nib.streamlines.load(kept).streamlines) == 0
    assert len(open_tractogram(str(rejected), "R").read(np.eye(4), ()).lengths) == 40
    assert main([*command, "1e9", "-f"]) == 0
    assert len(open_tractogram(str(rejected), "R").read(np.eye(4), ()).lengths) == 0


def test_a_reference_given_twice_is_refused(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reference, link, copy = bundle(work, "arch"), tmp_path / "link.trk", tmp_path / "copy.trk"
    link.symlink_to(reference)
    shutil.copyfile(reference, copy)
    out = tmp_path / "kept.trk"
    command = ["filter_latent", str(work / "exp"), str(reference), str(out), "--reference", str(reference)]
    capsys.readouterr()
    assert main([*command, str(reference)]) == 2
    assert f"The tractogram '{reference}' is given twice; give it once." in capsys.readouterr().err
    assert main([*command, str(link)]) == 2
    assert f"'{reference}' is given twice (also as '{link}'); give it once." in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, str(copy)]) == 0
    assert "80 of the 80 reference streamlines are the same as another one" in caplog.text


def test_an_empty_tractogram(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_lines(tmp_path / "empty.trk", [], np.eye(4))
    reference = str(bundle(work, "arch"))
    out = tmp_path / "rebuilt.trk"
    assert main(["autoencode", str(work / "exp"), str(tmp_path / "empty.trk"), str(out)]) == 0
    assert len(nib.streamlines.load(out).streamlines) == 0
    command = ["filter_latent", str(work / "exp"), str(tmp_path / "empty.trk"), str(tmp_path / "kept.trk")]
    assert main([*command, "--reference", reference]) == 0
    assert "0 streamlines of 0 kept in" in capsys.readouterr().out
    command = ["filter_latent", str(work / "exp"), reference, str(tmp_path / "k.trk")]
    assert main([*command, "--reference", str(tmp_path / "empty.trk")]) == 2
    assert "There is no reference streamline" in capsys.readouterr().err
    assert not (tmp_path / "k.trk").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("autoencode exp lines.tck out.trk", "'lines.tck' has no voxel grid, which OUT needs: write a .tck, or give"),
        ("autoencode exp lines.tck out.vtk", "does not have the extension of a tractogram"),
        ("autoencode nothing lines.tck out.tck", "nothing"),
        ("autoencode exp nothing.tck out.tck", "nothing.tck"),
        ("autoencode exp nan.trk out.tck", "remove these streamlines, the first of which is number 1 (counted"),
        ("autoencode exp lines.tck out.tck --batch_size 0", "--batch_size must be a whole number of at least 1"),
        ("filter_latent exp lines.tck out.tck --reference lines.tck --threshold -1", "--threshold must be"),
        ("filter_latent exp lines.tck out.tck --reference lines.tck --quantile 1.5", "--quantile must be a number"),
        ("filter_latent exp lines.tck out.tck --reference lines.tck nothing.trk", "nothing.trk"),
    ],
)
def test_bad_input_is_a_sentence(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exp").symlink_to(work / "exp")
    lines = nib.streamlines.load(bundle(work, "arch")).streamlines[:3]
    nib.streamlines.save(Tractogram(lines, affine_to_rasmm=np.eye(4)), "lines.tck")
    save_lines(Path("nan.trk"), [lines[0], np.full((2, 3), np.nan, dtype=np.float32)], np.eye(4))
    capsys.readouterr()
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert sentence in error
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_an_image_gives_the_grid_of_a_tck(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = nib.streamlines.load(bundle(work, "arch")).streamlines[:3]
    nib.streamlines.save(Tractogram(lines, affine_to_rasmm=np.eye(4)), str(tmp_path / "lines.tck"))
    save_volume(tmp_path / "grid.nii.gz", np.zeros((20, 30, 10), dtype=np.float32), np.diag([2.0, 2, 3, 1]))
    command = ["autoencode", str(work / "exp"), str(tmp_path / "lines.tck"), str(tmp_path / "out.trk")]
    assert main([*command, "--grid", str(tmp_path / "grid.nii.gz")]) == 0
    assert nib.streamlines.load(tmp_path / "out.trk").header["dimensions"].tolist() == [20, 30, 10]
    # A grid that IN has already may be given, but not another one.
    command = ["autoencode", str(work / "exp"), str(tmp_path / "out.trk"), str(tmp_path / "again.trk")]
    assert main([*command, "--grid", str(tmp_path / "grid.nii.gz")]) == 0
    save_volume(tmp_path / "other.nii.gz", np.zeros((20, 30, 11), dtype=np.float32), np.diag([2.0, 2, 3, 1]))
    capsys.readouterr()
    assert main([*command, "--grid", str(tmp_path / "other.nii.gz"), "-f"]) == 2
    error = capsys.readouterr().err
    assert "other.nii.gz' is not on the voxel grid of IN" in error
    assert "different shapes, (20, 30, 11) and (20, 30, 10) voxels. Leave out --grid." in error


def test_an_experiment_of_another_model_is_refused(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--input_group_name", "input", *GROUP, "--rnn_layer_sizes", "4", "--max_epochs", "1", "-q"]
    assert main(["train", "learn2track", str(tiny_hdf5), str(tmp_path), "exp", *options]) == 0
    save_lines(tmp_path / "lines.trk", [np.zeros((2, 3), dtype=np.float32)], np.eye(4))
    assert main(["autoencode", str(tmp_path / "exp"), str(tmp_path / "lines.trk"), str(tmp_path / "out.trk")]) == 2
    assert "is of class Learn2TrackModel; an autoencoder is needed" in capsys.readouterr().err


OWN = """from dwiml import AutoencoderModel


class OwnAutoencoder(AutoencoderModel):
    def __init__(self, *, factor: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
"""


def test_a_subclass_of_ones_own(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    name, exp, lines = f"{tmp_path / 'own.py'}:OwnAutoencoder", str(tmp_path / "exp"), str(tmp_path / "lines.trk")
    command = ["train", name, str(tiny_hdf5), str(tmp_path), "exp", *GROUP, *SMALL, "--factor", "3"]
    assert main([*command, "--max_epochs", "1", "--use_gpu", "no", "-q"]) == 0
    rng = np.random.default_rng(0)
    save_lines(Path(lines), [rng.normal(size=(9, 3)).astype(np.float32) for _ in range(3)], np.eye(4))
    capsys.readouterr()
    for command in (["autoencode"], ["filter_latent"]):
        more = ["--reference", lines] if command == ["filter_latent"] else []
        for model in ("exp", "exp/best_model"):
            words = [*command, str(tmp_path / model), lines, str(tmp_path / "out.trk"), *more, "-f"]
            assert main(words) == 2
            assert f"give --model_class {name} if you trust its code" in capsys.readouterr().err
            assert main([*words, "--model_class", name]) == 0
            assert main([*words, "--model_class", "autoencoder"]) == 2
            assert "is of class OwnAutoencoder, not AutoencoderModel" in capsys.readouterr().err
    for folder in (exp, f"{exp}/best_model"):
        # The experiment was trained without a GPU.
        with monkeypatch.context() as patched:
            patched.setattr("torch.cuda.is_available", lambda: True)
            model = load_autoencoder(folder, name)
        assert (model.device.type, model.params["factor"]) == ("cpu", 3)
