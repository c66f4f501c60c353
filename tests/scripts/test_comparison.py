"""The scripts behind the page on tracking results, run for real on a small phantom."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import add_classifier
from tests_support import edited

from dwiml.cli.main import main

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from comparison.rows_file import RowsFile  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a phantom, its HDF5 file and a model that was hardly trained."""
    folder = tmp_path_factory.mktemp("comparison")
    phantom, hdf5 = folder / "phantom", str(folder / "data.hdf5")
    assert main(["phantom", str(phantom), "--size", "small", "--nb_subjects", "3"]) == 0
    lists = [str(phantom / f"{name}.txt") for name in ("training", "validation", "testing")]
    assert main(["create_hdf5", str(phantom / "subjects"), hdf5, str(phantom / "config.json"), *lists]) == 0
    options = "--input_group_name input --streamline_group_name streamlines --step_size 2 --rnn_layer_sizes 16 -q"
    assert main(["train", "learn2track", hdf5, str(folder), "exp", *options.split(), "--max_epochs", "2"]) == 0
    return folder


def run(script: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_model_beside_dipy(folder: Path) -> None:
    options = "--seeds_per_voxel 1 --sh_orders 6 --angles 30 --steps 1 --json both.json"
    told = run("compare_with_dipy.py", "exp", "sub-03", "phantom/subjects/sub-03", *options.split(), folder=folder)
    found = json.loads((folder / "both.json").read_text())
    assert set(found["best"]) == {"dwiml", "dipy det", "dipy prob"}
    # The model, and two algorithms with two readings of the mask.
    assert len(found["all"]) == 5
    assert found["best"]["dipy det"]["valid_connections"] > 0.1
    assert [line.split("  ")[0] for line in told.splitlines()[-3:]] == ["dwiml", "dipy det", "dipy prob"]


@pytest.mark.slow
def test_each_metric_chooses_an_epoch(folder: Path) -> None:
    options = "--seeds 1 --max_epochs 2 --max_batches 2 --json chosen.json"
    told = run("choose_by_tracking.py", "data.hdf5", "phantom", "chosen", *options.split(), folder=folder)
    rows = json.loads((folder / "chosen.json").read_text())
    assert [row["metric"] for row in rows] == ["valid_loss", "gv_valid_connections", "gv_endpoint_distance_mm"]
    log = [json.loads(line) for line in (folder / "chosen/seed_1/logs/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["epoch"] == min((0, 1), key=lambda epoch: log[epoch]["valid_loss"])
    assert told.count("on the test subject") == 3


@pytest.mark.slow
def test_models_with_equal_cpu_time(folder: Path) -> None:
    rows = ["learn2track/fisher-von-mises", "transformer-src-tgt-concat/cosine-regression"]
    options = ["--cpu_minutes", "0.02", "--seeds_per_voxel", "1", "--rows", *rows]
    arguments = ["compare_models.py", "data.hdf5", "phantom", "compared.json", *options]
    run(*arguments, folder=folder)
    found = json.loads((folder / "compared.json").read_text())["rows"]
    assert [(row["row"], row["algo"]) for row in found] == [(rows[0], "det"), (rows[0], "prob"), (rows[1], "det")]
    assert all(row["training_cpu_s"] >= 1.2 and row["steps"] > 0 and row["parameters"] > 1000 for row in found)
    told = run(*arguments, folder=folder).splitlines()
    # Nothing is trained twice.
    assert json.loads((folder / "compared.json").read_text())["rows"] == found
    assert [line.split()[0] for line in told[1:-1]].count(rows[0]) == 2
    before = (folder / "compared.json").read_bytes()
    shutil.copy(folder / "data.hdf5", folder / "copied.hdf5")
    command = [sys.executable, str(SCRIPTS / arguments[0]), "copied.hdf5", *arguments[2:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "was made with other options, data or weights" in done.stderr
    assert (folder / "compared.json").read_bytes() == before


@pytest.mark.slow
def test_trackers_with_settings_chosen_on_another_subject(folder: Path) -> None:
    options = "--subjects_dir phantom/subjects --choose_on sub-02 --score_on sub-03 --json trackers.json --quick"
    arguments = ["compare_trackers.py", "exp", *options.split(), "--algos", "det", "--random_seeds", "1", "2"]
    told = run(*arguments, folder=folder)
    rows = json.loads((folder / "trackers.json").read_text())["rows"]
    names = ["dipy det", "dipy prob", "dipy ptt", "exp det"]
    # One setting, on one subject, then two seeds on the other.
    expected = [(name, *place) for name in names for place in (("sub-02", 1), ("sub-03", 1), ("sub-03", 2))]
    assert [(row["tracker"], row["subject"], row["random_seed"]) for row in rows] == expected
    assert all(row["nb_seeds"] > 100 and row["cpu_s"] > 0 for row in rows)
    assert [line.split("  ")[0] for line in told.splitlines()[-4:]] == names
    run(*arguments, folder=folder)
    # Nothing is tracked twice.
    assert json.loads((folder / "trackers.json").read_text())["rows"] == rows


@pytest.mark.slow
def test_trackers_on_several_subjects_of_other_data(folder: Path) -> None:
    others = []
    for name, snr in (("noisy", "12"), ("noisier", "4")):
        phantom, hdf5 = folder / name, str(folder / f"{name}.hdf5")
        options = f"--size small --nb_subjects 3 --seed 7 --snr {snr}"
        assert main(["phantom", str(phantom), *options.split()]) == 0
        lists = [str(phantom / f"{phase}.txt") for phase in ("training", "validation", "testing")]
        assert main(["create_hdf5", str(phantom / "subjects"), hdf5, str(phantom / "config.json"), *lists]) == 0
        others += ["--score_in", hdf5, str(phantom / "subjects")]
    options = "--subjects_dir phantom/subjects --choose_on sub-02 --score_on sub-01 sub-03 --quick --dipy det ptt"
    choice = "--choose_by valid_connections overlap --json others.json --random_seeds 1 --algos det"
    told = run("compare_trackers.py", "exp", *options.split(), *choice.split(), *others, folder=folder)
    rows = json.loads((folder / "others.json").read_text())["rows"]
    names = ["dipy det", "dipy ptt", "exp det"]
    files = [str(Path(path).resolve()) for path in others[1::3]]
    places = [("", "sub-02"), *((file, subject) for file in files for subject in ("sub-01", "sub-03"))]
    assert [(row["tracker"], row["data"], row["subject"]) for row in rows] == [(n, *p) for n in names for p in places]
    # Same anatomy, more noise.
    assert rows[1]["nb_seeds"] == rows[3]["nb_seeds"]
    assert rows[1]["valid_connections"] > rows[3]["valid_connections"] > 0
    tables = told.split("\n\n")[1:]
    assert [text.split(", settings")[0] for text in tables] == [f"sub-01, sub-03 of {file}" for file in files]
    mean = 50 * (rows[1]["valid_connections"] + rows[2]["valid_connections"])
    assert tables[0].splitlines()[2].split()[3] == f"{mean:.1f}"


TRACKERS = "--subjects_dir phantom/subjects --choose_on sub-02 --score_on sub-03 --quick --json refused.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (f"compare_trackers.py exp {TRACKERS} --algos det --score_on sub-03 sub-09", "sub-09"),
        (f"compare_trackers.py exp {TRACKERS} --score_on sub-03 sub-03", "--score_on must be different"),
        (f"compare_trackers.py exp {TRACKERS} --random_seeds 1 1", "--random_seeds must be different"),
        (f"compare_trackers.py exp {TRACKERS} --dipy_step_size -1", "--dipy_step_size must be a number"),
        (f"compare_trackers.py exp {TRACKERS} --dipy_step_size nan", "--dipy_step_size must be a number"),
        (f"compare_trackers.py exp {TRACKERS} --algos prob", "needs algo='det', got 'prob'"),
        (f"compare_trackers.py judge {TRACKERS} --algos det", "needs a model that tracks"),
        (f"compare_trackers.py exp {TRACKERS} --algos det --json exp/rows.json", "experiment"),
        (
            "robustness.py exp phantom/subjects/sub-03 --json refused.json --snr nan",
            "--snr must be above 0 and at most 1e+06, got nan",
        ),
        (
            "robustness.py exp phantom/subjects/sub-03 --json refused.json --snr 9 9.0000001",
            "The changes must be different",
        ),
        ("robustness.py exp phantom/subjects/sub-03 --json refused.json --dipy_step 0", "--dipy_step must be a number"),
        ("compare_models.py data.hdf5 phantom refused.json --rows learn2track", "--rows must be one of"),
        ("compare_models.py data.hdf5 phantom refused.json --cpu_minutes 0", "--cpu_minutes must be positive"),
        ("compare_models.py data.hdf5 nothing refused.json", "nothing"),
        ("compare_models.py data.hdf5 phantom no/folder/refused.json", "no/folder"),
    ],
)
def test_what_is_refused_before_anything_is_tracked(folder: Path, words: str, sentence: str) -> None:
    if "judge" in words:
        add_classifier(folder)
        (folder / "classifier").rename(folder / "judge")
    script, *arguments = words.split()
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not done.stdout
    assert not (folder / "refused.json").exists()


@pytest.mark.slow
def test_rows_of_other_data_are_not_used(folder: Path) -> None:
    shutil.copy(folder / "data.hdf5", folder / "other.hdf5")
    shutil.copytree(folder / "phantom/subjects", folder / "other_subjects")
    base = "compare_trackers.py exp --choose_on sub-02 --score_on sub-03 --quick --dipy --algos det --random_seeds 1"
    own = [*base.split(), "--subjects_dir", "phantom/subjects", "--json", "own.json"]
    twice = ["--score_in", "data.hdf5", "phantom/subjects", "--score_in", "data.hdf5", "other_subjects"]
    run(*own, *twice, folder=folder)
    rows = json.loads((folder / "own.json").read_text())["rows"]
    assert [Path(row["subjects_dir"]).parent.name for row in rows] == ["phantom", "phantom", folder.name]
    command = [sys.executable, str(SCRIPTS / own[0]), *own[1:], "--hdf5_file", "other.hdf5"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "was made with other options, data or weights" in done.stderr


@pytest.mark.slow
def test_trackers_with_a_classifier(folder: Path) -> None:
    with edited(Path(shutil.copy(folder / "data.hdf5", folder / "labelled.hdf5"))) as handle:
        for subject in handle.values():
            group = subject["streamlines"]
            counts = group["lengths"][:].reshape(-1, 1)
            is_long = (counts > np.median(counts)).astype(np.float32)
            group.require_group("data_per_streamline").create_dataset("valid", data=is_long)
    words = "--input_group_name input --streamline_group_name streamlines --max_epochs 4 --learning_rates 0.01 --seed 1"
    words += " --batch_size_training 100 -q"
    tracker = "--step_size 2 --rnn_layer_sizes 32 --nb_previous_dirs 1 --dg_key fisher-von-mises"
    layers = "--nb_points 8 --nb_channels 8 8"
    for model, data, name, own in (
        ("learn2track", "data.hdf5", "drawn", tracker),
        ("streamline-classifier", "labelled.hdf5", "sure", layers),
    ):
        assert main(["train", model, str(folder / data), str(folder), name, *words.split(), *own.split()]) == 0
    options = "--subjects_dir phantom/subjects --choose_on sub-02 --score_on sub-03 --quick --random_seeds 1 --dipy det"
    choice = "--classifier sure --max_attempts 3 --algos det prob --json plausible.json"
    run("compare_trackers.py", "drawn", *options.split(), *choice.split(), folder=folder)
    rows = json.loads((folder / "plausible.json").read_text())["rows"]
    names = ["dipy det", "drawn det", "drawn prob"]
    # The settings are chosen without the classifier.
    kinds = [(name, subject) for name in names for subject in ("sub-02", "sub-03")]
    for k in (6, 4, 2):
        kinds.insert(k, (f"{kinds[k - 1][0]}, plausible", "sub-03"))
    assert [(row["tracker"], row["subject"]) for row in rows] == kinds
    counts = {row["tracker"]: row["nb_streamlines"] for row in rows if row["subject"] == "sub-03"}
    assert all(0 < counts[f"{name}, plausible"] < counts[name] for name in names[:2])
    # Probabilistic tracking can replace what is rejected.
    share = {name: counts[f"{name}, plausible"] / counts[name] for name in names}
    assert share["drawn prob"] > share["drawn det"]


def test_a_file_of_rows_continues_with_the_same_options_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = RowsFile(path, {"seeds": 1})
    assert rows.rows == []
    assert rows.find(name="a") is None
    rows.add({"name": "a", "seed": 1}, {"name": "a", "seed": 2})
    again = RowsFile(path, {"seeds": 1})
    assert again.rows == rows.rows
    assert again.find(name="a", seed=2) == {"name": "a", "seed": 2}
    assert again.find(name="a", seed=3) is None
    before = path.read_bytes()
    with pytest.raises(ValueError, match="^--json: .* was made with other options, data or weights; give another name"):
        RowsFile(path, {"seeds": 2})
    assert path.read_bytes() == before
    for content in ('[{"name": "a"}]', '{"rows": 3}', '{"options": {"seeds": 1}, "rows": [1]}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="^JSON: .* is not a file of this script; give another name"):
            RowsFile(path, {"seeds": 1}, "JSON")
    path.write_text('{"rows": [')
    with pytest.raises(ValueError, match=r"^--json.*rows\.json"):
        RowsFile(path, {"seeds": 1})
