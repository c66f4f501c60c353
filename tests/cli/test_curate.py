"""``dwiml curate``, run for real."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scoring_support import LOWER, OBLIQUE, SHAPE, UPPER, along_x, save_lines, save_volume

import dwiml
from dwiml.cli.main import main
from dwiml.curation.curating import curate_tractograms
from dwiml.curation.settings import CurationSettings
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

# Six streamlines of the bundle at y = 2, the last one far from the others in its mask; two of that at y = 7.
FIRST = [along_x(2.1 + i / 20, z=1.2) for i in range(5)] + [along_x(2.9, z=2.9)]
SECOND = [along_x(7.5), along_x(7.6)[::-1]]
INVALID = [np.array([[0.5, 2.5, 1.5], [11.5, 7.5, 1.5]]), along_x(5.5), along_x(2.5, last=6.5)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a truth of three bundles, one of them without end regions, and tractograms."""
    config = {}
    for name, bundle in (("lower", LOWER), ("upper", UPPER)):
        for part, volume in bundle.items():
            where = tmp_path / "truth" / part
            where.mkdir(parents=True, exist_ok=True)
            save_volume(where / f"{name}.nii.gz", volume, OBLIQUE)
        config[name] = {part: f"{part}/{name}.nii.gz" for part in ("mask", "head", "tail")}
    config = {"lower": config["lower"], "whole": {"mask": "mask/lower.nii.gz"}, "upper": config["upper"]}
    (tmp_path / "truth" / "ground_truth.json").write_text(json.dumps(config))
    save_lines(tmp_path / "one.trk", [INVALID[0], *FIRST[:3], SECOND[0]], OBLIQUE)
    save_lines(tmp_path / "two.tck", [*INVALID[1:], SECOND[1], *FIRST[3:]], OBLIQUE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> int:
    return main(["curate", *(str(word) for word in words)])


def curate(*words: object) -> int:
    return run("one.trk", "two.tck", "--bundles", "truth", "--mask_tolerance", "0", *words)


def read(path: str) -> list[tuple[float, np.ndarray]]:
    """Return (bundle_id, points in voxels, corner origin) of each streamline, as nibabel reads them."""
    saved = nib.streamlines.load(path)
    ids = saved.tractogram.data_per_streamline["bundle_id"]
    assert ids.shape == (len(saved.streamlines), 1)
    inverse = np.linalg.inv(OBLIQUE)
    points = [line @ inverse[:3, :3].T + inverse[:3, 3] + 0.5 for line in saved.streamlines]
    return list(zip(ids[:, 0].tolist(), points, strict=True))


def check_lines(found: list[tuple[float, np.ndarray]], expected: list[tuple[float, np.ndarray]]) -> None:
    assert [number for number, _ in found] == [number for number, _ in expected]
    for (_, line), (_, wanted) in zip(found, expected, strict=True):
        np.testing.assert_allclose(line, wanted, atol=1e-4)


def test_valid_connections_of_all_files_are_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert curate("-o", "out.trk", "--report", "out_report.json", "--seed", "4") == 0
    check_lines(read("out.trk"), [(0, line) for line in FIRST] + [(1, line) for line in SECOND])
    np.testing.assert_allclose(nib.streamlines.load("out.trk").header["voxel_to_rasmm"], OBLIQUE, atol=1e-5)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert caplog.messages == ["Bundles without end regions, which are left out: 'whole'."]
    sizes = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    mm = 11 * sizes[0]
    assert printed.out == (
        "tractogram  streamlines  valid\n"
        "one.trk               5      4\n"
        "two.tck               6      4\n"
        "total                11      8\n"
        "\n"
        "bundle  bundle_id  valid  outliers  kept  written   mm  overlap % before  after\n"
        f"lower           0      6         0     6        6   {6 * mm:.0f}             100.0  100.0\n"
        f"upper           1      2         0     2        2   {2 * mm:.0f}              50.0   50.0\n"
        f"total                  8         0     8        8  {8 * mm:.0f}                         \n"
    )
    report = json.loads(Path("out_report.json").read_text())
    bundles = report.pop("bundles")
    assert [bundle.pop("mm_written") for bundle in bundles] == pytest.approx([6 * mm, 2 * mm], rel=1e-5)
    numbers = {"nb_outliers": 0, "overlap_before": 1.0, "overlap_after": 1.0}
    half = {"nb_outliers": 0, "overlap_before": 0.5, "overlap_after": 0.5}
    assert bundles == [
        {"bundle_id": 0, "name": "lower", "nb_valid": 6, "nb_kept": 6, "nb_written": 6, **numbers},
        {"bundle_id": 1, "name": "upper", "nb_valid": 2, "nb_kept": 2, "nb_written": 2, **half},
    ]
    assert report == {
        "dwiml_version": dwiml.__version__,
        "out": "out.trk",
        "ground_truth": "truth",
        "config": None,
        "mask_tolerance": 0.0,
        "end_tolerance": 0.0,
        "max_outside": 0.05,
        "settings": {
            "min_confidence": None,
            "max_mdf": 5.0,
            "power": 1.0,
            "max_streamlines": None,
            "max_mm": None,
            "min_streamlines": None,
            "choose": "coverage",
            "seed": 4,
        },
        "tractograms": [
            {"file": "one.trk", "nb_streamlines": 5, "nb_valid": 4},
            {"file": "two.tck", "nb_streamlines": 6, "nb_valid": 4},
        ],
        "bundle_names": ["lower", "upper"],
        "bundles_without_end_regions": ["whole"],
    }


def test_outliers_are_removed(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # The last one is about 4 mm from the others: their confidence is many times larger.
    assert curate("-o", "out.trk", "--min_confidence", "2", "--max_mdf", "5") == 0
    check_lines(read("out.trk"), [(0, line) for line in FIRST[:5]] + [(1, line) for line in SECOND])
    assert "lower           0      6         1     5        5" in capsys.readouterr().out
    # The two of the small bundle are 0.2 mm apart, so that each has a confidence of about 5.
    assert curate("-o", "high.trk", "--min_confidence", "6") == 0
    assert {number for number, _ in read("high.trk")} == {0}
    assert caplog.messages[-1] == "Bundles without a streamline in 'high.trk': 'upper'."
    assert curate("-o", "squared.trk", "--min_confidence", "6", "--power", "2") == 0
    assert {number for number, _ in read("squared.trk")} == {0, 1}


def test_bundles_are_balanced(folder: Path) -> None:
    options = ("--max_streamlines", "3", "--min_streamlines", "3", "--seed", "1")
    assert curate("-o", "out.trk", *options, "--report", "report.json") == 0
    found = read("out.trk")
    assert Counter(number for number, _ in found) == {0: 3, 1: 3}
    # Repeats of a streamline follow each other.
    places = [float(line[0, 1]) for number, line in found if number == 1]
    assert np.round(places, 1).tolist() in ([7.5, 7.5, 7.6], [7.5, 7.6, 7.6])
    numbers = [
        tuple(each[name] for name in ("nb_valid", "nb_kept", "nb_written"))
        for each in json.loads(Path("report.json").read_text())["bundles"]
    ]
    assert numbers == [(6, 3, 3), (2, 2, 3)]
    assert curate("-o", "again.trk", *options) == 0
    assert Path("again.trk").read_bytes() == Path("out.trk").read_bytes()
    drawn = set()
    for seed in range(6):
        assert curate("-o", "out.trk", "-f", *options[:-1], seed) == 0
        drawn.add(tuple(round(float(line[0, 1]), 2) for number, line in read("out.trk") if number == 0))
    assert len(drawn) > 1


def test_a_cap_in_mm(folder: Path) -> None:
    mm = 11 * np.linalg.norm(OBLIQUE[:3, 0])
    assert curate("-o", "out.trk", "--max_mm", 4.5 * mm, "--min_streamlines", "10") == 0
    assert Counter(number for number, _ in read("out.trk")) == {0: 4, 1: 4}


def test_the_draw_of_a_bundle_does_not_depend_on_the_others(folder: Path) -> None:
    config = json.loads(Path("truth/ground_truth.json").read_text())
    Path("lower.json").write_text(json.dumps({"lower": config["lower"]}))
    assert curate("-o", "out.trk", "--max_streamlines", "2", "--seed", "5") == 0
    assert curate("-o", "lower.trk", "--max_streamlines", "2", "--seed", "5", "--config", "lower.json") == 0
    check_lines(read("lower.trk"), read("out.trk")[:2])


def test_coverage_covers_more_than_chance(tmp_path: Path) -> None:
    # 40 streamlines in one row of voxels, and one in each of the seven others of the mask.
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 2:6, 1:3] = True
    lines = [along_x(2.5, z=1.5)] * 40
    lines += [along_x(y + 0.5, z=z + 0.5) for y in range(2, 6) for z in (1, 2)][1:]
    save_lines(tmp_path / "bundle.trk", lines, OBLIQUE)
    overlaps = {}
    for choose in ("coverage", "random"):
        found = []
        for seed in range(10):
            result = curate_tractograms(
                [tmp_path / "bundle.trk"],
                tmp_path / "out.trk",
                labelled=True,
                settings=CurationSettings(max_streamlines=8, choose=choose, seed=seed),
                overwrite=True,
            )
            found.append(result.bundles[0].overlap_after)
        overlaps[choose] = np.mean(found)
    # With coverage, the weights are 40 of 1/40, together 1, and seven of 1. By chance, 7 of 47 are rare.
    assert overlaps["coverage"] > 0.8
    assert overlaps["random"] < 0.5


def test_labelled_tractograms(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Path("x").mkdir()
    save_lines(Path("x/AF.left.tck"), FIRST, OBLIQUE)
    save_lines(Path("x/CST.trk"), [*SECOND, np.full((3, 3), 2.5), np.array([[1.5, 1.5, 1.5]])], OBLIQUE)
    save_lines(Path("x/empty.trk"), [], OBLIQUE)
    with TractogramWriter(Path("x/whole.trx"), grid=Grid(OBLIQUE, SHAPE)) as writer:
        writer.append(np.concatenate(INVALID), [len(line) for line in INVALID])
    files = ("x/AF.left.tck", "x/CST.trk", "x/empty.trk", "x/whole.trx")
    assert run(*files, "--labelled", "-o", "out.trk", "--report", "report.json") == 0
    expected = [(0, line) for line in FIRST] + [(1, line) for line in SECOND] + [(3, line) for line in INVALID]
    check_lines(read("out.trk"), expected)
    assert caplog.messages == ["Bundles without a streamline in 'out.trk': 'empty'."]
    report = json.loads(Path("report.json").read_text())
    assert report["bundle_names"] == ["AF.left", "CST", "empty", "whole"]
    assert [each["overlap_after"] for each in report["bundles"]] == [1.0, 1.0, None, 1.0]
    assert report["tractograms"][1] == {"file": "x/CST.trk", "nb_streamlines": 4, "nb_valid": 2}
    assert "max_outside" not in report
    assert run("x/AF.left.tck", "--labelled", "-o", "tck.trk") == 2
    assert "error: None of the tractograms has a voxel grid" in capsys.readouterr().err
    assert run("x/AF.left.tck", "--labelled", "-o", "tck.trk", "--grid", "truth/mask/lower.nii.gz") == 0
    check_lines(read("tck.trk"), [(0, line) for line in FIRST])


def test_a_trx(folder: Path) -> None:
    assert curate("-o", "out.trx") == 0
    assert main(["curate", "out.trx", "--labelled", "-o", "again.trk"]) == 0
    assert len(read("again.trk")) == 8


def test_the_sidecar(folder: Path) -> None:
    assert curate("-o", "out.trk", "--sidecar", "--max_streamlines", "3", "--seed", "1") == 0
    content = json.loads(Path("out.json").read_text())
    assert content["Sources"] == ["one.trk", "two.tck", "truth"]
    assert content["StreamlineAcceptanceCriteria"] == {
        "Connection": "valid",
        "mask_tolerance": 0.0,
        "end_tolerance": 0.0,
        "max_outside": 0.05,
        "Bundles": ["lower", "upper"],
        "max_streamlines": 3,
        "choose": "coverage",
        "seed": 1,
    }
    assert run("one.trk", "--labelled", "-o", "labelled.trk", "--sidecar") == 0
    criteria = json.loads(Path("labelled.json").read_text())["StreamlineAcceptanceCriteria"]
    assert criteria["Bundles"] == ["one"]
    assert "Connection" not in criteria


def test_candidates_with_their_labels(folder: Path) -> None:
    assert curate("-o", "out.trk", "--max_streamlines", "3", "--candidates", "all.trk", "--sidecar") == 0
    saved = nib.streamlines.load("all.trk")
    inverse = np.linalg.inv(OBLIQUE)
    points = [line @ inverse[:3, :3].T + inverse[:3, 3] + 0.5 for line in saved.streamlines]
    expected = [INVALID[0], *FIRST[:3], SECOND[0], *INVALID[1:], SECOND[1], *FIRST[3:]]
    for line, wanted in zip(points, expected, strict=True):
        np.testing.assert_allclose(line, wanted, atol=1e-4)
    valid = saved.tractogram.data_per_streamline["valid"]
    # All valid connections, also those that are not kept.
    np.testing.assert_array_equal(valid, np.array([0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1], dtype=np.float32)[:, None])
    assert len(read("out.trk")) == 5
    content = json.loads(Path("all.json").read_text())
    assert content["Sources"] == ["one.trk", "two.tck", "truth"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("one.trk --labelled -o out.trk --candidates all.trk", "--candidates needs --bundles: with --labelled, all"),
        ("one.trk --bundles truth -o out.trk --candidates all.tck", "a .tck has no data per streamline, where 'valid'"),
        ("one.trk --bundles truth -o out.trk --candidates two.tck", "a .tck has no data per streamline"),
        ("one.trk --bundles truth -o out.trk --candidates one.trk -f", "candidates: 'one.trk' is an input"),
        ("one.trk --bundles truth -o out.trk --candidates out.trk -f", "'out.trk' is also the file of"),
        ("one.trk --bundles truth -o out.tck", "'out.tck': a .tck has no data per streamline, where 'bundle_id' is"),
        ("one.trk --bundles truth -o out.vtk", "does not have the extension of a tractogram"),
        ("one.trk --bundles truth -o one.trk -f", "out: 'one.trk' is an input"),
        ("one.trk --bundles truth -o out.trk --report truth/ground_truth.json -f", "is a file of 'truth', which is"),
        ("one.trk --bundles truth -o out.trk --report two.tck", "report: 'two.tck' exists; replace it with -f."),
        ("one.trk --bundles truth -o out.trk --report out.json --sidecar", "'out.json' is also the file of report"),
        ("one.trk two.tck one.trk --bundles truth -o out.trk", "The tractogram 'one.trk' is given twice; give it once"),
        ("none.trk --bundles truth -o out.trk", "The tractogram 'none.trk' was not found."),
        ("one.trk none.trk --labelled -o out.trk", "The tractogram 'none.trk' was not found."),
        ("one.trk --bundles none -o out.trk", "The ground truth 'none' is not a folder."),
        ("one.trk --bundles truth/mask -o out.trk", "No bundle of 'truth/mask' has end regions"),
        ("one.trk --labelled -o out.trk --end_tolerance 1", "--end_tolerance has no effect with --labelled"),
        ("one.trk --bundles truth -o out.trk --grid one.trk", "--grid has no effect with --bundles"),
        ("one.trk --bundles truth -o out.trk --max_mdf 3", "--max_mdf has no effect without --min_confidence"),
        ("one.trk --bundles truth -o out.trk --max_outside 3", "max_outside must be a number from 0 to 1, got 3.0."),
        ("one.trk --bundles truth -o out.trk --mask_tolerance -1", "mask_tolerance must be a number from 0 to 1000"),
        (
            "one.trk --bundles truth -o out.trk --max_streamlines 0",
            "max_streamlines must be a whole number of at least",
        ),
        ("one.trk --bundles truth -o out.trk --max_mm 0", "max_mm must be positive, got 0.0."),
        ("one.trk --bundles truth -o out.trk --min_confidence nan", "min_confidence must be a number, 0 or more"),
        ("one.trk --bundles truth -o out.trk --min_confidence 1 --power 0", "power must be positive"),
        (
            "one.trk --bundles truth -o out.trk --max_streamlines 2 --min_streamlines 3",
            "must be at most max_streamlines",
        ),
        ("one.trk --bundles truth -o out.trk --choose best", "choose must be one of 'coverage', 'random', got 'best'."),
        ("one.trk --bundles truth -o out.trk --seed -1", "seed must be an integer from 0 to"),
    ],
)
def test_errors(folder: Path, capsys: pytest.CaptureFixture[str], command: str, sentence: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(*command.split()) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("error: ") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_two_bundles_of_one_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x").mkdir()
    save_lines(Path("x/one.tck"), FIRST, OBLIQUE)
    assert run("one.trk", "x/one.tck", "--labelled", "-o", "out.trk") == 2
    assert "'one.trk' and 'x/one.tck' have the same name, which is that of their bundle" in capsys.readouterr().err


def test_from_python(folder: Path) -> None:
    with pytest.raises(ValueError, match="Give one of bundles, the folder of the true bundles, and labelled=True."):
        curate_tractograms(["one.trk"], "out.trk")
    with pytest.raises(ValueError, match="Give one of bundles"):
        curate_tractograms(["one.trk"], "out.trk", bundles="truth", labelled=True)
    result = curate_tractograms(["one.trk", "two.tck"], "out.trk", bundles="truth", mask_tolerance=0)
    assert [bundle.nb_written for bundle in result.bundles] == [6, 2]
    assert result.left_out == ("whole",)
    assert 0 <= result.settings.seed < 2**31
    with pytest.raises(FileExistsError, match="out: 'out.trk' exists; replace it with overwrite=True."):
        curate_tractograms(["one.trk"], "out.trk", bundles="truth")
