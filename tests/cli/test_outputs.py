"""One rule for every command: no output is an input, lies in an experiment, or takes the place of a device."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import snapshot
from small_world import make_world
from tests_support import write_hdf5

from dwiml.cli.main import main


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as the current folder; the experiments' data are the copy's."""
    shutil.copytree(template, tmp_path / "world", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


def is_refused(command: str, world: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused in one sentence, with nothing changed; return the sentence."""
    before = snapshot([world])
    assert main(command.split()) == 2, command
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1, printed.err
    assert snapshot([world]) == before, command
    return printed.err


# What each command needs, with -f; then its outputs, "{}" in the place of one.
TRACK = "track exps/exp sub-a {} --hdf5_file data.hdf5 --tracking_mask wm_mask --nb_seeds 2 -f"
TRACK_IMAGES = (
    "track exps/exp {} --input images/input.nii.gz --std_mask images/mask.nii.gz --standardization all "
    "--tracking_mask images/mask.nii.gz --seeding_mask images/labels.nii.gz --nb_seeds 2 -f"
)
SCORE = "score lines.trk --ground_truth truth -f"
MATRIX = "connectivity_matrix lines.trk {} --labels images/labels.nii.gz --reference images/mask.nii.gz -f"
CONNECTIVITY = "connectivity_score lines.trk matrix.npy --labels images/labels.nii.gz -f"
OF_HDF5 = "connectivity_score lines.trk --hdf5_file data.hdf5 --subject sub-a --streamline_group_name streamlines -f"
AUTOENCODE = "autoencode autoencoder lines.trk {} -f"
FILTER = "filter_latent autoencoder lines.trk {} --reference outside.trk lines.trx --threshold 1 -f"
CURATE = "curate lines.trk outside.trk --bundles truth -f"
LABELLED = "curate lines.trk lines.trx --labelled --grid images/mask.nii.gz -f"
SHOW = "show_tractogram lines.trk {} --background images/mask.nii.gz -f"

READ = [
    *((f"{TRACK.format('o.trk')} --report {{}}", each) for each in ("data.hdf5",)),
    (TRACK.replace("--hdf5_file data.hdf5", "").format("o.trk") + " --report {}", "RECORDED"),
    *(
        (f"{TRACK_IMAGES.format('o.trk')} --report {{}}", f"images/{each}.nii.gz")
        for each in ("input", "mask", "labels")
    ),
    *(
        (f"{SCORE} --json {{}}", each)
        for each in ("lines.trk", "truth/inside.trk", "outside.trk", "truth/labels.nii.gz", "truth/ground_truth.json")
    ),
    (f"{SCORE} --config matrix_labels.txt --json {{}}", "matrix_labels.txt"),
    *((f"{CONNECTIVITY} --json {{}}", each) for each in ("lines.trk", "matrix.npy", "images/labels.nii.gz")),
    (f"{CONNECTIVITY} --save_invalid {{}}", "lines.trk"),
    (f"{OF_HDF5} --json {{}}", "data.hdf5"),
    (AUTOENCODE, "lines.trk"),
    *((FILTER, each) for each in ("lines.trk", "outside.trk", "lines.trx")),
    (f"{FILTER.format('o.trk')} --rejected {{}}", "outside.trk"),
    *((f"{CURATE} -o {{}}", each) for each in ("lines.trk", "outside.trk", "truth/inside.trk")),
    *((f"{CURATE} -o o.trk --report {{}}", each) for each in ("truth/ground_truth.json", "truth/labels.nii.gz")),
    *((f"{LABELLED} -o o.trk --report {{}}", each) for each in ("lines.trx", "images/mask.nii.gz")),
]


@pytest.mark.parametrize(("command", "read"), READ)
@pytest.mark.parametrize("way", ["itself", "symbolic", "hard"])
def test_no_input_is_replaced(
    world: Path, template: Path, capsys: pytest.CaptureFixture[str], command: str, read: str, way: str
) -> None:
    # The experiment's own record leads to the first copy of the data.
    path = template / "data.hdf5" if read == "RECORDED" else world / read
    name = path if way == "itself" else world / f"link{path.suffix}"
    if way == "symbolic":
        name.symlink_to(path)
    elif way == "hard":
        name.hardlink_to(path)
    before = path.read_bytes()
    sentence = is_refused(command.format(name), world, capsys)
    assert "is an input" in sentence or "which is an input" in sentence or "JSON" in sentence
    assert path.read_bytes() == before


OUTPUTS = [
    (TRACK, "o.trk"),
    (f"{TRACK.format('o.trk')} --report {{}}", "o.json"),
    (TRACK_IMAGES, "o.tck"),
    (f"{SCORE} --json {{}}", "o.json"),
    (f"{SCORE} --figure {{}}", "o.png"),
    (MATRIX, "o.npy"),
    (f"{MATRIX.format('m.npy')} --figure {{}}", "o.png"),
    (f"{CONNECTIVITY} --json {{}}", "o.json"),
    (f"{CONNECTIVITY} --save_invalid {{}}", "o.trx"),
    (SHOW, "o.png"),
    (AUTOENCODE, "o.tck"),
    (FILTER, "o.trk"),
    (f"{CURATE} -o {{}}", "o.trk"),
    (f"{LABELLED} -o o.trk --report {{}}", "o.json"),
    (f"{FILTER.format('o.trk')} --rejected {{}}", "r.trx"),
    ("extract_hdf5 data.hdf5 sub-a input {} -f", "o.nii.gz"),
    ("extract_hdf5 data.hdf5 sub-a streamlines {} -f", "o.trx"),
    ("visualize_logs exps/exp -f --out {}", "o.png"),
]


@pytest.mark.parametrize(("command", "name"), OUTPUTS)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_device_or_a_pipe_is_never_replaced_and_f_not_advised(
    world: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, overwrite: bool
) -> None:
    command = command if overwrite else command.replace(" -f", "")
    places = {"pipe": stat.S_ISFIFO, "way": stat.S_ISFIFO}
    os.mkfifo(world / f"pipe-{name}")
    (world / f"way-{name}").symlink_to(f"pipe-{name}")
    try:
        # Like /dev/null, but the test's own.
        os.mknod(world / f"null-{name}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        places["null"] = stat.S_ISCHR
    except PermissionError:
        pass
    (world / f"folder-{name}").mkdir()
    places["folder"] = stat.S_ISDIR
    for place, is_kind in places.items():
        sentence = is_refused(command.format(world / f"{place}-{name}"), world, capsys)
        assert ("is a folder" if place == "folder" else "is not a regular file") in sentence
        assert "with -f" not in sentence
        assert is_kind((world / f"{place}-{name}").stat().st_mode)


@pytest.mark.parametrize(("command", "name"), OUTPUTS[:3] + OUTPUTS[-1:])
def test_nothing_is_written_into_an_experiment_that_is_used(
    world: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    (world / "way").symlink_to("exps/exp")
    places = ["exps/exp/", "exps/exp/best_model/", "way/"]
    if "--input" in command:
        command += " --standardize_like exps/other"
        places.append("exps/other/")
    for place in places:
        assert "is inside the experiment" in is_refused(command.format(place + name), world, capsys)
    for own in ("parameters.json", "best_model/model_state.pt", "logs/metrics.jsonl"):
        if "--report" in command:
            assert "is inside the experiment" in is_refused(command.format(f"exps/exp/{own}"), world, capsys)


def test_nothing_is_written_into_the_folder_of_a_model(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("autoencoder", "exps/exp/best_model", dirs_exist_ok=True)
    for model, out in (("autoencoder", "autoencoder/o.trk"), ("exps/exp/best_model", "exps/exp/logs/o.trk")):
        for command in (AUTOENCODE, FILTER):
            command = command.replace(" autoencoder ", f" {model} ").format(out)
            assert "is inside the experiment" in is_refused(command, world, capsys)


def test_the_folders_of_results(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = "show_loss exps/exp sub-d {} --hdf5_file data.hdf5 -f"
    assert "is inside the experiment" in is_refused(loss.format("exps/exp/loss"), world, capsys)
    assert "OUT_DIR: 'lines.trk' is a file; give a folder." in is_refused(loss.format("lines.trk"), world, capsys)
    assert "cannot be created: '" in is_refused(loss.format("lines.trk/a/b"), world, capsys)
    (world / "out").mkdir()
    (world / "out" / "summary.json").symlink_to("../config.json")
    assert "is a symbolic link" in is_refused(loss.format("out"), world, capsys)
    (world / "out" / "summary.json").unlink()
    (world / "out" / "loss.trk").hardlink_to("data.hdf5")
    assert "is an input" in is_refused(loss.format("out"), world, capsys)
    split = f"{SCORE} --save_split out"
    (world / "out" / "invalid.trk").symlink_to("../lines.trk")
    assert "is an input" in is_refused(split, world, capsys)
    (world / "out" / "invalid.trk").unlink()
    (world / "out" / "invalid.trk").symlink_to("../precious.trk")
    assert "is a symbolic link" in is_refused(split, world, capsys)
    (world / "out" / "invalid.trk").unlink()
    assert "is an input" in is_refused(f"{split} --json out/invalid.trk", world, capsys)


def test_what_lies_in_the_experiment_only_by_name_is_written(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRACK.format("exps/exp-tracked.trk").split()) == 0
    assert main(f"{SCORE} --json truth/scores.json".split()) == 0
    assert main(["show_loss", "exps/exp", "sub-d", "exps/exp_loss", "--hdf5_file", "data.hdf5"]) == 0
    assert (world / "exps" / "exp_loss" / "summary.json").is_file()
    capsys.readouterr()


def test_two_outputs_of_one_name(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is also the file of --json" in is_refused(
        f"{CONNECTIVITY} --json a.trk --save_invalid a.trk", world, capsys
    )
    assert "is also the file of OUT" in is_refused(f"{TRACK.format('a.trk')} --report a.trk", world, capsys)
    report = is_refused(f"{TRACK.format('a.trk')} --report a.partial.trk", world, capsys)
    assert "OUT, until it is whole: " in report
    rejected = is_refused(f"{FILTER.format('a.trk')} --rejected a.partial.trk", world, capsys)
    assert "OUT, until it is whole: " in rejected
    assert "is also the file of OUT" in is_refused(f"{FILTER.format('a.trk')} --rejected a.trk", world, capsys)


def test_a_subject_whose_name_leads_elsewhere(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hdf5(world / "strange.hdf5", {"sub-a": 12}, {"../../outside": 6})
    command = "show_loss exps/exp all a/b/out --hdf5_file strange.hdf5 -f"
    assert "'../../outside'" in is_refused(command, world, capsys)


def test_split_folders_of_files_with_one_name_stay_inside(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named by all of their folders, the first one's name began at the root of the disk."""
    deep = world / "b" / Path(*world.parts[1:]) / "lines.trk"
    deep.parent.mkdir(parents=True)
    shutil.copy("lines.trk", deep)
    before = snapshot([world])
    assert main(f"score {world}/lines.trk {deep} --ground_truth truth --save_split out".split()) == 0
    after = snapshot([world])
    new = [path for path in after if path not in before]
    assert new
    assert all(path.startswith(f"{world}/out/") for path in new)
    assert (
        len({Path(path).parent.parent if Path(path).stem in ("first", "second") else Path(path).parent for path in new})
        == 2
    )
    assert "is given twice" in is_refused("score b/../lines.trk lines.trk --ground_truth truth", world, capsys)


@pytest.mark.first(2)
@pytest.mark.parametrize("command", [f"{SCORE} --json o.json", f"{SCORE} --json o.json --figure o.png", SHOW, "loss"])
def test_a_notebooks_backend_stops_no_command(world: Path, command: str) -> None:
    """Not one that draws, nor one that only has numbers to write."""
    command = command.replace("{}", "o.png")
    if command == "loss":
        command = "show_loss exps/exp sub-d out --hdf5_file data.hdf5"
    code = "import sys; from dwiml.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.no_such_backend"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = [word for word in command.split() if word in ("o.json", "o.png")] or ["out/histograms.png"]
    assert all((world / name).stat().st_size for name in expected)
