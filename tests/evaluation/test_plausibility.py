"""What a classifier keeps of streamlines with known values, checked against SciPy and loops."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import entropy, mannwhitneyu
from small_world import add_classifier
from tests_support import edited

from dwiml.cli.main import main
from dwiml.evaluation.plausibility import PlausibilityErrors, evaluate_plausibility
from dwiml.ops.sequences import TensorSequence
from dwiml.tracking.acceptance import plausibility_of
from dwiml.training.loading import load_best_model, rebuild_experiment


@pytest.fixture(scope="module")
def folder(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier, and the streamlines that it learned, a third of them plausible."""
    folder = tmp_path_factory.mktemp("plausibility")
    shutil.copy(tiny_hdf5, folder / "data.hdf5")
    add_classifier(folder)
    return folder


def errors_of(values: list[float], probabilities: list[float]) -> PlausibilityErrors:
    return PlausibilityErrors(0.0, np.array(values, np.float32), np.array(probabilities, np.float32))


@pytest.mark.parametrize("digits", [1, 6])
def test_the_area_under_the_curve_is_that_of_mann_and_whitney(digits: int) -> None:
    rng = np.random.default_rng(digits)
    values = (rng.random(200) < 0.3).astype(float)
    # With one digit, there are many ties.
    probabilities = np.round(np.clip(rng.normal(0.4 + 0.2 * values, 0.2), 0, 1), digits)
    found = errors_of(list(values), list(probabilities))
    plausible, others = found.probabilities[values == 1], found.probabilities[values == 0]
    expected = mannwhitneyu(plausible, others).statistic / (len(plausible) * len(others))
    assert found.area_under_curve == pytest.approx(expected, abs=1e-12)
    assert found.constant_loss == pytest.approx(entropy([values.mean(), 1 - values.mean()]))


def test_what_is_kept() -> None:
    found = errors_of([1, 1, 1, 0.5, 0, 0.49, 0], [0.9, 0.5, 0.1, 0.7, 0.6, 0.2, 0.0])
    assert found.is_plausible.tolist() == [True] * 4 + [False] * 3
    kept = found.kept_from(0.5)
    assert (kept.plausible, kept.others, kept.plausible_among_kept) == pytest.approx((3 / 4, 1 / 3, 3 / 4))
    # As in tracking, a streamline with exactly the smallest probability is kept.
    assert found.kept_from(0.0).others == 1
    assert math.isnan(found.kept_from(1.0).plausible_among_kept)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_streamlines_of_one_kind(value: float) -> None:
    found = errors_of([value] * 3, [0.2, 0.4, 0.6])
    assert math.isnan(found.area_under_curve)
    assert found.constant_loss == 0
    kept = found.kept_from(0.5)
    shares = {1.0: kept.plausible, 0.0: kept.others}
    assert shares[value] == pytest.approx(1 / 3)
    assert math.isnan(shares[1 - value])


def test_probabilities_are_those_of_tracking_and_filtering(folder: Path) -> None:
    rebuilt = rebuild_experiment(folder / "classifier", load_testing=True)
    classifier = load_best_model(folder / "classifier")
    for phase in ("validation", "testing"):
        found = evaluate_plausibility(classifier, rebuilt.sampler, rebuilt.loader, phase=phase)
        expected = []
        for subject in rebuilt.loader.dataset.subset(phase):
            each = list(subject.streamlines["streamlines"].get())
            lines = TensorSequence(torch.cat(each), torch.tensor([len(line) for line in each]))
            sizes = torch.from_numpy(subject.volumes["input"].voxel_sizes)
            probabilities = plausibility_of(classifier.eval(), lines, subject.volumes["input"].as_tensor(), sizes)
            with h5py.File(folder / "labelled.hdf5") as file:
                values = file[f"{subject.subject_id}/streamlines/data_per_streamline/valid"][:, 0]
            expected += list(zip(probabilities.tolist(), values.tolist(), strict=True))
        got = sorted(zip(found.probabilities.tolist(), found.values.tolist(), strict=True))
        np.testing.assert_allclose(got, sorted(expected), atol=1e-6)
        exact, wanted = found.probabilities.astype(np.float64), found.values
        loss = -np.where(wanted == 1, np.log(exact), np.log(1 - exact)).mean()
        assert found.loss == pytest.approx(loss, abs=1e-5)
    one = evaluate_plausibility(classifier, rebuilt.sampler, rebuilt.loader, phase="training", max_batches=1)
    assert 0 < len(one.values) <= 50


def test_a_table_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "classifier")]) == 0
    lines = capsys.readouterr().out.splitlines()
    rebuilt = rebuild_experiment(folder / "classifier")
    found = evaluate_plausibility(load_best_model(folder / "classifier"), rebuilt.sampler, rebuilt.loader)
    nb = int(found.is_plausible.sum())
    assert lines[0] == f"Plausibility on the validation set (12 streamlines, of which {nb} are plausible)"
    assert lines[1].startswith(f"loss {found.loss:.4f} ({found.constant_loss:.4f} ")
    assert lines[1].endswith(f" {found.area_under_curve:.4f}")
    rows = {float(line.split()[0]): line.split()[1:] for line in lines[4:-1]}
    assert rows[0.05][:2] == [f"{found.kept_from(0.05).plausible:.1%}", f"{found.kept_from(0.05).others:.1%}"]
    assert len(rows) == 11


def test_streamlines_without_the_value(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = Path(shutil.copy(folder / "labelled.hdf5", tmp_path / "moved.hdf5"))
    with edited(moved) as handle:
        del handle["sub-e/streamlines/data_per_streamline/valid"]
    words = ["evaluate", str(folder / "classifier"), "--hdf5_file", str(moved)]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--subset", "testing"]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert "'valid'" in error


def test_a_model_that_learns_no_value() -> None:
    class Own:
        nb_points, step_size, compress_lines, forward_uses_last_point = 8, None, None, True
        nb_features, neighborhood_offsets, device = 3, None, torch.device("cpu")
        same_nb_points = True

        def eval(self) -> None: ...

        def __call__(self, *_: object) -> None: ...

        def plausibility(self, outputs: object) -> None: ...

    with pytest.raises(ValueError, match="Own learns no data per streamline"):
        evaluate_plausibility(Own(), None, None)  # type: ignore[arg-type]
