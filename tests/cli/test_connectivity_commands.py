"""``dwiml connectivity_matrix`` and ``dwiml connectivity_score``, run for real, and DIPY's own matrix beside ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dipy.io.streamline import load_tractogram, save_tractogram
from dipy.tracking.utils import connectivity_matrix

from dwiml.cli.main import main
from dwiml.hdf5.creator import create_hdf5
from dwiml.phantom.create import create_phantom

LABELS = "labels/endpoints.nii.gz"
MASK = "masks/wm.nii.gz"
# The second subject is anisotropic, the third oblique.
SUBJECTS = ["sub-02", "sub-03"]


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects, with their whole brain as .trk, .tck and .trx."""
    root = tmp_path_factory.mktemp("connectivity") / "phantom"
    create_phantom(root, nb_subjects=3, size="small")
    for name in SUBJECTS:
        folder = root / "subjects" / name
        bundles = [nib.streamlines.load(path) for path in sorted((folder / "bundles").glob("*.trk"))]
        every = bundles[0].tractogram
        for bundle in bundles[1:]:
            every.extend(bundle.tractogram)
        # A streamline from one bundle's beginning to another's.
        stray = [every.streamlines[0][0], every.streamlines[-1][0]]
        for stem, lines in (("wb", every.streamlines), ("stray", [*every.streamlines, np.array(stray)])):
            tractogram = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
            nib.streamlines.save(tractogram, str(folder / f"{stem}.trk"), header=bundles[0].header)
        nib.streamlines.save(every, str(folder / "wb.tck"))
        save_tractogram(load_tractogram(str(folder / "wb.trk"), "same"), str(folder / "wb.trx"))
    return root


@pytest.fixture(params=SUBJECTS)
def folder(request: pytest.FixtureRequest, phantom: Path) -> Path:
    return phantom / "subjects" / request.param


def dipys_matrix(folder: Path) -> np.ndarray:
    """Return DIPY's count between the labels, without the row of label 0; ends as one way round."""
    image = nib.load(folder / LABELS)
    lines = nib.streamlines.load(folder / "wb.trk").streamlines
    matrix = connectivity_matrix(lines, image.affine, np.asarray(image.dataobj).astype(int), symmetric=True)
    counts: np.ndarray = matrix[1:, 1:]
    return counts


@pytest.mark.first(2)
@pytest.mark.parametrize("extension", ["trk", "tck", "trx"])
def test_matrix_of_labels(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extension: str) -> None:
    out = tmp_path / "m.npy"
    assert run("connectivity_matrix", folder / f"wb.{extension}", out, "--labels", folder / LABELS) == 0
    printed = capsys.readouterr()
    matrix = np.load(out)
    np.testing.assert_array_equal(matrix, dipys_matrix(folder))
    assert matrix.dtype == np.int32
    assert np.loadtxt(tmp_path / "m_labels.txt", dtype=int).tolist() == list(range(1, 21))
    assert printed.err == ""
    assert printed.out.splitlines() == [
        f"{out}: 20 x 20 (20 labels)",
        "  streamlines               400",
        "  with both ends in regions 400  100.00%",
        "  pairs of regions joined    10    4.76% of 210",
        f"The label of each row is in {tmp_path / 'm_labels.txt'}.",
    ]


def test_matrix_of_several_files_is_that_of_all_their_streamlines(folder: Path, tmp_path: Path) -> None:
    bundles = sorted((folder / "bundles").glob("*.trk"))
    assert run("connectivity_matrix", *bundles, tmp_path / "a.npy", "--nb_blocs", 7, 6, 5) == 0
    tck = ["connectivity_matrix", folder / "wb.tck", tmp_path / "b.npy", "--reference", folder / MASK]
    assert run(*tck, "--nb_blocs", 7, 6, 5, "--binary") == 0
    a, b = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    # Each bundle's ends, by a histogram of the volume cut in blocs.
    image = nib.load(folder / MASK)
    edges = [np.linspace(0, size, nb + 1) for size, nb in zip(image.shape, (7, 6, 5), strict=True)]
    expected = np.zeros((210, 210), dtype=int)
    for line in nib.streamlines.load(folder / "wb.trk").streamlines:
        ends = nib.affines.apply_affine(np.linalg.inv(image.affine), line[[0, -1]]) + 0.5
        first, last = (int(np.histogramdd(end[None], edges)[0].argmax()) for end in ends)
        expected[first, last] += 1
        expected[last, first] += first != last
    np.testing.assert_array_equal(a, expected)
    np.testing.assert_array_equal(b, expected > 0)
    assert b.dtype == np.uint8
    assert not list(tmp_path.glob("*_labels.txt"))


@pytest.mark.slow
def test_figure(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = phantom / "subjects" / "sub-03"
    figure = tmp_path / "m.png"
    command = ["connectivity_matrix", folder / "wb.trk", tmp_path / "m.npy", "--labels", folder / LABELS]
    assert run(*command, "--figure", figure) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert f"Figure: {figure}" in capsys.readouterr().out
    before = figure.read_bytes()
    assert run(*command, "-f", "--figure", figure) == 0
    assert figure.read_bytes() == before


def test_existing_files_are_kept_without_f(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = phantom / "subjects" / "sub-03"
    for name in ("m.npy", "m_labels.txt", "m.png"):
        path = tmp_path / name
        path.write_text("old")
        command = ["connectivity_matrix", folder / "wb.trk", tmp_path / "m.npy", "--nb_blocs", 2]
        assert run(*command, "--figure", tmp_path / "m.png") == 2
        assert f"'{path}' exists" in capsys.readouterr().err
        assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
        path.unlink()
    # Labels that belong to the matrix that is replaced go with it.
    assert run(*command[:-2], "--labels", folder / LABELS) == 0
    assert run(*command) == 2
    assert "m.npy' exists; replace it with -f." in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.npy", "m_labels.txt"]
    assert run(*command, "-f") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.npy"]


def test_a_tractogram_in_another_space_gives_a_warning(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = phantom / "subjects" / "sub-03"
    lines = [line + 900 for line in nib.streamlines.load(folder / "wb.tck").streamlines]
    nib.streamlines.save(nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4)), str(tmp_path / "far.tck"))
    command = ["connectivity_matrix", tmp_path / "far.tck", tmp_path / "m.npy", "--labels", folder / LABELS]
    assert run(*command, "--figure", tmp_path / "m.png") == 0
    assert "No streamline has both ends in regions" in caplog.text
    assert not np.load(tmp_path / "m.npy").any()


@pytest.fixture(scope="module")
def hdf5_file(phantom: Path) -> Path:
    """Made with both kinds of matrices, which the command made."""
    for name in SUBJECTS:
        folder = phantom / "subjects" / name
        command: list[Any] = ["connectivity_matrix", folder / "wb.trk"]
        assert run(*command, folder / "blocs.npy", "--nb_blocs", 7, 6, 5) == 0
        assert run(*command, folder / "labels.npy", "--labels", folder / LABELS, "--binary") == 0
    bundles = {"type": "streamlines", "files": ["bundles/*.trk"]}
    config = {
        "input": {"type": "volume", "files": [MASK]},
        "by_blocs": {**bundles, "connectivity_matrix": "blocs.npy", "connectivity_nb_blocs": [7, 6, 5]},
        "by_labels": {**bundles, "connectivity_matrix": "labels.npy", "connectivity_labels": LABELS},
        "without": bundles,
    }
    path = phantom.parent / "data.hdf5"
    create_hdf5(phantom / "subjects", path, config, SUBJECTS[:1], SUBJECTS[1:])
    return path


def options_of(truth: str, folder: Path, hdf5_file: Path) -> list[Any]:
    return {
        "blocs": [folder / "blocs.npy", "--nb_blocs", 7, 6, 5, "--reference", folder / MASK],
        "labels": [folder / "labels.npy", "--labels", folder / LABELS],
        "hdf5 blocs": ["--hdf5_file", hdf5_file, "--subject", folder.name, "--streamline_group_name", "by_blocs"],
        "hdf5 labels": ["--hdf5_file", hdf5_file, "--subject", folder.name, "--streamline_group_name", "by_labels"],
    }[truth]


@pytest.mark.parametrize("extension", ["trk", "tck", "trx"])
@pytest.mark.parametrize("truth", ["blocs", "labels", "hdf5 blocs", "hdf5 labels"])
def test_a_subjects_own_streamlines_are_all_connected(
    folder: Path, hdf5_file: Path, capsys: pytest.CaptureFixture[str], truth: str, extension: str
) -> None:
    assert run("connectivity_score", folder / f"wb.{extension}", *options_of(truth, folder, hdf5_file)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == [
        "  streamlines                         400",
        "  join regions that are connected     400  100.00%",
        "  join regions that are not connected   0    0.00%",
        "  have an end in no region              0    0.00%",
    ]
    assert len(lines) == 7


@pytest.mark.parametrize("truth", ["labels", "hdf5 labels"])
def test_a_stray_streamline_is_found_and_saved(
    folder: Path, hdf5_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], truth: str
) -> None:
    report, invalid = tmp_path / "s.json", tmp_path / "invalid.trk"
    command = ["connectivity_score", folder / "stray.trk", *options_of(truth, folder, hdf5_file)]
    assert run(*command, "--json", report, "--save_invalid", invalid) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "  join regions that are not connected   1    0.25%" in printed
    assert printed[-1] == "    1 - 19                              1"
    summary = json.loads(report.read_text())
    assert summary["nb_joining_connected"] == 400
    assert summary["unconnected_pairs"] == [{"regions": ["1", "19"], "nb_streamlines": 1}]
    assert summary["share_joining_unconnected"] == pytest.approx(1 / 401)
    assert summary["regions"] == "20 labels"
    saved = nib.streamlines.load(invalid)
    stray = nib.streamlines.load(folder / "stray.trk").streamlines[-1]
    assert len(saved.streamlines) == 1
    np.testing.assert_allclose(saved.streamlines[0], stray, atol=1e-3)
    np.testing.assert_allclose(saved.affine, nib.load(folder / LABELS).affine, atol=1e-4)
    for path in (report, invalid):
        assert run(*command, "--json", report, "--save_invalid", invalid) == 2
        assert f"'{path}' exists" in capsys.readouterr().err
        path.unlink()
    # Without such a streamline there is no such file.
    command[1] = folder / "wb.trk"
    assert run(*command, "--save_invalid", invalid) == 0
    assert "was not written: no streamline joins regions that are not connected" in capsys.readouterr().out
    assert not invalid.exists()
    # That of an earlier run is replaced.
    shutil.copyfile(folder / "stray.trk", invalid)
    assert run(*command, "--save_invalid", invalid, "-f") == 0
    assert "was not written" not in capsys.readouterr().out
    assert len(nib.streamlines.load(invalid).streamlines) == 0


def test_a_tractogram_is_not_counted_twice(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, link, out = folder / "wb.trk", tmp_path / "link.trk", tmp_path / "m.npy"
    link.symlink_to(whole)
    assert run("connectivity_matrix", whole, link, out, "--labels", folder / LABELS) == 2
    assert f"The tractogram '{whole}' is given twice (also as '{link}'); give it once." in capsys.readouterr().err
    assert not out.exists()


FAULTS = {
    "no truth": (["wb.trk"], "No connectivity matrix was given; give MATRIX.npy, or an HDF5 file with --hdf5_file."),
    "no rows": (["wb.trk", "blocs.npy"], "The regions of MATRIX.npy were not given; give --nb_blocs or --labels."),
    "no reference": (["wb.tck", "blocs.npy", "--nb_blocs", "7"], "give an image of that volume as --reference"),
    "two blocs": (
        ["wb.trk", "blocs.npy", "--nb_blocs", "7", "6"],
        "one or three whole numbers from 1 to 100000, got 7 6",
    ),
    "other blocs": (["wb.trk", "blocs.npy", "--nb_blocs", "7"], "has 210 rows but 7 x 7 x 7 blocs are 343 regions"),
    "other labels": (["wb.trk", "blocs.npy", "--labels", LABELS], "has 210 rows but there are 20 labels other than 0"),
    "no labels": (["wb.trk", "labels.npy", "--labels", "x.nii"], "x.nii' was not found"),
    "not whole": (["wb.trk", "labels.npy", "--labels", "metrics/fa.nii.gz"], "Labels must be whole numbers"),
    "no matrix": (["wb.trk", "x.npy", "--nb_blocs", "7"], "x.npy' was not found"),
    "no tractogram": (["x.trk", "blocs.npy", "--nb_blocs", "7"], "The tractogram '"),
    "other kind": (["bundles", "labels.npy", "--labels", LABELS], "is not in a format that dwiml reads"),
    "image": (
        [MASK, "blocs.npy", "--nb_blocs", "7"],
        "is not in a format that dwiml reads; convert it to .trk, .tck or .trx",
    ),
    "not an image": (["wb.trk", "blocs.npy", "--nb_blocs", "7", "--reference", "wb.trk"], "is not an image"),
    "no matrix there": (
        ["wb.trk", "HDF5", "without"],
        "'without' of subject 'sub-02' has no connectivity matrix",
    ),
    "no group": (["wb.trk", "HDF5", "x"], "Streamlines group 'x' not found in"),
    "two truths": (["wb.trk", "labels.npy", "HDF5", "by_labels"], "MATRIX.npy was given with an HDF5 file"),
    "two regions": (["wb.trk", "HDF5", "by_labels", "--nb_blocs", "7"], "--nb_blocs was given with an HDF5 file"),
    "half": (["wb.trk", "--subject", "sub-02"], "--hdf5_file is missing; give --hdf5_file, --subject and"),
    "unlike": (
        ["wb.trk", "labels.npy", "--labels", LABELS, "--reference", "../sub-03/masks/wm.nii.gz"],
        "have different shapes",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), FAULTS.values(), ids=FAULTS.keys())
def test_bad_input_is_one_sentence(
    phantom: Path,
    hdf5_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(phantom / "subjects" / "sub-02")
    if "HDF5" in words:
        place = words.index("HDF5")
        group = ["--hdf5_file", str(hdf5_file), "--subject", "sub-02", "--streamline_group_name", words[place + 1]]
        words = [*words[:place], *group, *words[place + 2 :]]
    assert run("connectivity_score", *words) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["wb.trk", "m.txt", "--nb_blocs", "2"], "The name of the matrix must end in .npy, got 'm.txt'."),
        (["wb.trk", "no/m.npy", "--nb_blocs", "2"], "OUT.npy: the folder 'no' does not exist; create it first."),
        (["wb.trk", "m.npy", "--nb_blocs", "0"], "one or three whole numbers from 1 to 100000, got 0."),
        (["wb.trk", "m.npy", "--nb_blocs", "2", "--figure", "m.doc"], "Figure 'm.doc' must end in one of"),
        (["wb.trk", "../sub-03/wb.trk", "m.npy", "--nb_blocs", "2"], "have different shapes"),
        (["wb.trk", "wb.tck", "m.npy", "--nb_blocs", "2"], "'wb.tck' does not record the volume"),
        (["wb.trk", "dwi.npy", "--nb_blocs", "2"], "'dwi.npy' is a folder"),
    ],
)
def test_bad_input_of_the_matrix_is_one_sentence(
    phantom: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    folder = phantom / "subjects" / "sub-02"
    monkeypatch.chdir(folder)
    (folder / "dwi.npy").mkdir(exist_ok=True)
    assert run("connectivity_matrix", *words) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert not (folder / "m.npy").exists()


def test_a_damaged_trx_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.trx").write_bytes(b"no archive")
    assert run("connectivity_matrix", tmp_path / "x.trx", tmp_path / "m.npy", "--nb_blocs", 2) == 2
    assert "x.trx' is damaged (file is not a zip file)" in capsys.readouterr().err
