"""``dwiml score``, run for real."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scoring_support import LOWER, OBLIQUE, SHAPE, UPPER, along_x, joined, save_lines, save_volume

from dwiml import __version__
from dwiml.cli.main import main
from dwiml.cli.running.input_files import short_names
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

LINES = {
    "valid": [along_x(2.5, z=1.5), along_x(2.5, z=2.5), along_x(7.5)],
    "wrong_path": [np.array([[0.5, 2.5, 1.5], [5.5, 9.5, 1.5], [11.5, 2.5, 1.5]])],
    "invalid": [np.array([[0.5, 2.5, 1.5], [11.5, 7.5, 1.5]])],
    "none": [along_x(5.5)] * 3,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a truth of two bundles, tractograms, and a truth of masks only."""
    for name, bundle in (("lower", LOWER), ("upper", UPPER)):
        for part, volume in bundle.items():
            where = tmp_path / "truth" / part
            where.mkdir(parents=True, exist_ok=True)
            save_volume(where / f"{name}.nii.gz", volume, OBLIQUE)
    config = {name: {part: f"{part}/{name}.nii.gz" for part in ("mask", "head", "tail")} for name in ("lower", "upper")}
    (tmp_path / "truth" / "ground_truth.json").write_text(json.dumps(config))
    save_lines(tmp_path / "lines.trk", [line for lines in LINES.values() for line in lines], OBLIQUE)
    save_lines(tmp_path / "good.tck", LINES["valid"], OBLIQUE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main(["score", *arguments, "--ground_truth", "truth", "--mask_tolerance", "0"])


def test_one_tractogram(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lines.trk", "--json", "out.json", "--figure", "out.png", "--save_split", "split") == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "2 true bundles of 'truth'\n"
        "tolerances: 0 mm (mask), 0 mm (ends), at most 5 % of a streamline's length outside\n"
        "\n"
        "bundle  valid bundle  VC  VC %  WPC  overlap %  overreach %  F1 (Dice) %  BA mm\n"
        "lower            yes   2  25.0    1      100.0          0.0        100.0   0.00\n"
        "upper            yes   1  12.5    0       50.0          0.0         66.7   1.25\n"
        "\n"
        "total                            lines\n"
        "streamlines                          8\n"
        "valid connections (VC), %         37.5\n"
        "wrong path connections (WPC), %   12.5\n"
        "invalid connections (IC), %       12.5\n"
        "no connections (NC), %            37.5\n"
        "valid bundles (VB)                 2/2\n"
        "invalid bundles (IB)                 1\n"
        "mean overlap, %                   75.0\n"
        "mean overreach, %                  0.0\n"
        "mean F1 (Dice), %                 83.3\n"
        "mean bundle adjacency (BA), mm    0.62\n"
        "\n"
        "Invalid bundles (streamlines: regions):\n"
        "  1: lower head - upper tail\n"
    )
    assert printed.err == ""
    written = json.loads((folder / "out.json").read_text())
    assert {key: written[key] for key in written if key != "tractograms"} == {
        "dwiml_version": __version__,
        "ground_truth": "truth",
        "config": None,
        "mask_tolerance": 0,
        "end_tolerance": 0,
        "max_outside": 0.05,
        "min_coverage": 0.5,
    }
    scores = written["tractograms"]["lines"]
    assert scores["file"] == "lines.trk"
    assert scores["connections"]["valid"] == {"nb_streamlines": 3, "share": 0.375}
    assert scores["bundles"]["upper"]["overlap"] == 0.5
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


def test_streamlines_are_saved_by_connection(folder: Path) -> None:
    assert run("lines.trk", "--save_split", "split") == 0
    expected = {
        "valid/lower.trk": LINES["valid"][:2],
        "valid/upper.trk": LINES["valid"][2:],
        "wrong_path/lower.trk": LINES["wrong_path"],
        "invalid.trk": LINES["invalid"],
        "no_connection.trk": LINES["none"],
    }
    files = sorted(file.relative_to("split").as_posix() for file in Path("split").rglob("*") if file.is_file())
    assert files == sorted(expected)
    for name, lines in expected.items():
        saved = nib.streamlines.load(Path("split", name))
        np.testing.assert_allclose(saved.header["voxel_to_rasmm"], OBLIQUE, atol=1e-5)
        assert len(saved.streamlines) == len(lines)
        for line, found in zip(lines, saved.streamlines, strict=True):
            np.testing.assert_allclose(found, (line - 0.5) @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3], atol=1e-4)


def test_a_split_is_replaced_completely(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lines.trk", "--save_split", "split") == 0
    assert run("good.tck", "--save_split", "split") == 2
    assert "exists; replace the results with -f." in capsys.readouterr().err
    (folder / "split" / "mine.txt").write_text("mine")
    assert run("good.tck", "--save_split", "split", "-f") == 0
    files = sorted(file.relative_to("split").as_posix() for file in Path("split").rglob("*") if file.is_file())
    assert files == ["mine.txt", "valid/lower.trk", "valid/upper.trk"]


def test_inputs_are_never_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", "lines.trk", "--ground_truth", "truth", "--save_split", "split"]
    assert main(command) == 0
    kept = (folder / "split" / "invalid.trk").read_bytes()
    assert main(["score", "split/no_connection.trk", *command[2:], "-f"]) == 2
    assert "--save_split: 'split/no_connection.trk' is an input" in capsys.readouterr().err
    # A tractogram that cannot be read costs no older result.
    (folder / "cut.trk").write_bytes((folder / "lines.trk").read_bytes()[:-20])
    assert main(["score", "cut.trk", *command[2:], "-f"]) == 2
    assert (folder / "split" / "invalid.trk").read_bytes() == kept
    assert (folder / "split" / "no_connection.trk").exists()
    capsys.readouterr()
    assert main(["score", "lines.trk", "--ground_truth", "truth", "--json", "lines.trk", "-f"]) == 2
    assert "'lines.trk' is an input" in capsys.readouterr().err


def test_several_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lines.trk", "good.tck", "--json", "o.json", "--figure", "o.pdf", "--save_split", "split") == 0
    assert capsys.readouterr().out.split("\n\n", 1)[1] == (
        "overlap / overreach / F1 (%)                lines                 good\n"
        "lower                         100.0 / 0.0 / 100.0  100.0 / 0.0 / 100.0\n"
        "upper                           50.0 / 0.0 / 66.7    50.0 / 0.0 / 66.7\n"
        "\n"
        "total                            lines   good\n"
        "streamlines                          8      3\n"
        "valid connections (VC), %         37.5  100.0\n"
        "wrong path connections (WPC), %   12.5    0.0\n"
        "invalid connections (IC), %       12.5    0.0\n"
        "no connections (NC), %            37.5    0.0\n"
        "valid bundles (VB)                 2/2    2/2\n"
        "invalid bundles (IB)                 1      0\n"
        "mean overlap, %                   75.0   75.0\n"
        "mean overreach, %                  0.0    0.0\n"
        "mean F1 (Dice), %                 83.3   83.3\n"
        "mean bundle adjacency (BA), mm    0.62   0.62\n"
    )
    written = json.loads((folder / "o.json").read_text())["tractograms"]
    assert {name: each["nb_streamlines"] for name, each in written.items()} == {"lines": 8, "good": 3}
    assert (folder / "o.pdf").read_bytes().startswith(b"%PDF")
    assert len(nib.streamlines.load(folder / "split/good/valid/lower.trk").streamlines) == 2
    assert (folder / "split/lines/invalid.trk").is_file()


def test_a_compact_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lines.trk", "good.tck", "--compare", "--repeats", "--json", "o.json", "--figure", "o.png") == 0
    assert capsys.readouterr().out.split("\n\n") == [
        "2 true bundles of 'truth'\ntolerances: 0 mm (mask), 0 mm (ends), at most 5 % of a streamline's length outside",
        "tractogram          streamlines   VC %  WPC %  IC %  NC %   VB   IB  OL %  OR %  F1 %  BA mm\n"
        "lines                         8   37.5   12.5  12.5  37.5  2/2    1  75.0   0.0  83.3   0.62\n"
        "good                          3  100.0    0.0   0.0   0.0  2/2    0  75.0   0.0  83.3   0.62\n"
        "mean                              68.8    6.2   6.2  18.8  2.0  0.5  75.0   0.0  83.3   0.62\n"
        "standard deviation                44.2    8.8   8.8  26.5  0.0  0.7   0.0   0.0   0.0   0.00",
        "VC, WPC, IC, NC: valid, wrong path, invalid and no connections; VB, IB: valid and invalid bundles;\n"
        "OL, OR, F1, BA: mean overlap, overreach, F1 (Dice) and bundle adjacency\n",
    ]
    repeats = json.loads((folder / "o.json").read_text())["repeats"]
    assert repeats["valid_connections"] == {
        "mean": 0.6875,
        "std": pytest.approx(np.std([0.375, 1], ddof=1)),
        "nb": 2,
    }
    assert run("lines.trk", "good.tck", "--repeats") == 0
    printed = capsys.readouterr().out
    assert "overlap / overreach / F1 (%)" in printed
    assert "standard deviation" in printed
    assert run("lines.trk", "--compare") == 0
    assert "\nlines " in capsys.readouterr().out


def test_bootstrap_intervals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for seed in ("0", "0", "1"):
        assert run("lines.trk", "--bootstrap", "500", "--seed", seed, "--json", "o.json", "-f") == 0
        written.append(json.loads((folder / "o.json").read_text()))
    first, again, other = written
    assert first == again
    assert first["bootstrap"] == {"nb_resamples": 500, "seed": 0, "confidence": 0.95}
    intervals = first["tractograms"]["lines"]["intervals"]
    # Two bundles, with overlaps of 100 and 50%.
    assert intervals["overlap"] == [0.5, 1]
    assert 0 <= intervals["valid_connections"][0] < 0.375 < intervals["valid_connections"][1] < 1
    assert other["tractograms"]["lines"]["intervals"] != intervals
    assert "95% interval " in capsys.readouterr().out


def test_the_confusion_matrix(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lines.trk", "--confusion", "c.csv") == 0
    assert (folder / "c.csv").read_text().splitlines() == [
        "region,lower head,lower tail,upper head,upper tail",
        "lower head,0,0,0,1",
        "lower tail,0,0,0,0",
        "upper head,0,0,0,0",
        "upper tail,1,0,0,0",
    ]
    expected = "invalid connections  (1)  (2)\n(1) lower head         0    1\n(2) upper tail         1    0\n"
    assert capsys.readouterr().out.endswith(expected)
    assert run("lines.trk", "good.tck", "--confusion", "c.csv", "-f") == 0
    assert len((folder / "c.csv").read_text().splitlines()) == 9
    assert capsys.readouterr().out.endswith("good\nNo invalid connections.\n")


def test_scilpy_s_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = {side: f"{side}/lower.nii.gz" for side in ("head", "tail")}
    config = {"lower": {"gt_mask": "mask/lower.nii.gz", "all_mask": "mask/lower.nii.gz", **ends, "length": [0, 500]}}
    (folder / "truth" / "gt_config.json").write_text(json.dumps(config))
    command = ["score", "lines.trk", "--ground_truth", "truth", "--json", "o.json", "-f"]
    assert main([*command, "--preset", "ismrm2015"]) == 0
    assert (
        "tolerances: 0 mm (mask), 0 mm (ends), at most 0 % of a streamline's length outside" in capsys.readouterr().out
    )
    with_preset = json.loads((folder / "o.json").read_text())
    assert with_preset.pop("preset") == "ismrm2015"
    assert (with_preset["mask_tolerance"], with_preset["max_outside"]) == (0, 0)
    assert with_preset["tractograms"]["lines"]["bundles"]["lower"]["nb_valid"] == 2
    assert main([*command, "--config", "truth/gt_config.json"]) == 0
    with_config = json.loads((folder / "o.json").read_text())
    assert with_config["tractograms"] == with_preset["tractograms"]
    assert main([*command, "--preset", "ismrm2015", "--max_outside", "1"]) == 0
    written = json.loads((folder / "o.json").read_text())
    assert written["tractograms"]["lines"]["bundles"]["lower"]["nb_valid"] == 3
    capsys.readouterr()
    (folder / "elsewhere.json").write_text(json.dumps(config))
    command = ["score", "lines.trk", "--ground_truth", "truth", "--preset", "ismrm2015", "--config", "elsewhere.json"]
    assert main([*command, "--json", "elsewhere.json", "-f"]) == 2
    assert "'elsewhere.json' is an input" in capsys.readouterr().err


def test_one_bundle_is_in_the_singular(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "truth/mask/upper.nii.gz").unlink()
    assert main(["score", "lines.trk", "--ground_truth", "truth/mask"]) == 0
    assert capsys.readouterr().out.startswith("1 true bundle of 'truth/mask'\n")


def test_masks_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "lines.trk", "--ground_truth", "truth/mask", "--min_coverage", "0.6"]) == 0
    assert capsys.readouterr().out == (
        "2 true bundles of 'truth/mask'\n"
        "tolerances: 3 mm (mask), 0 mm (ends), at most 5 % of a streamline's length outside\n"
        "2 have no end regions: valid when 60 % of the mask is covered, connections not available\n"
        "\n"
        "bundle  valid bundle  in the mask  overlap %\n"
        "lower            yes            2      100.0\n"
        "upper             no            1       50.0\n"
        "\n"
        "total               lines\n"
        "streamlines             8\n"
        "valid bundles (VB)    1/2\n"
        "mean overlap, %      75.0\n"
    )


def test_options_reach_the_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.json").write_text(json.dumps({"low": {"mask": "mask/lower.nii.gz"}}))
    options = ["--max_outside", "0.95", "--end_tolerance", "9", "--config", "other.json", "--json", "o.json"]
    assert run("lines.trk", *options) == 0
    written = json.loads((folder / "o.json").read_text())
    assert (written["max_outside"], written["end_tolerance"], written["config"]) == (0.95, 9, "other.json")
    assert written["tractograms"]["lines"]["bundles"]["low"]["nb_in_mask"] == 4
    assert list(written["tractograms"]["lines"]["bundles"]) == ["low"]
    capsys.readouterr()
    assert run("lines.trk", "--max_outside", "0.95") == 0
    assert "wrong path connections (WPC), %    0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.trk"], "The tractogram 'none.trk' was not found."),
        (
            ["lines.trk", "truth/mask/lower.nii.gz"],
            "is not in a format that dwiml reads; convert it to .trk, .tck or .trx.",
        ),
        (["lines.trk", "./lines.trk"], "The tractogram 'lines.trk' is given twice; give it once."),
        (["lines.trk", "--ground_truth", "none"], "The ground truth 'none' is not a folder."),
        (["lines.trk", "--ground_truth", "."], "'.' holds neither 'ground_truth.json' nor a NIfTI mask"),
        (["lines.trk", "--config", "none.json"], "The config of the ground truth 'none.json' was not found."),
        (["lines.trk", "--mask_tolerance", "-1"], "--mask_tolerance must be a number from 0 to 1000, got -1.0."),
        (["lines.trk", "--end_tolerance", "1e300"], "--end_tolerance must be a number from 0 to 1000, got 1e+300."),
        (["lines.trk", "--end_tolerance", "nan"], "--end_tolerance must be a number from 0 to 1000, got nan."),
        (["lines.trk", "--max_outside", "5"], "--max_outside must be a number from 0 to 1, got 5.0."),
        (["lines.trk", "--min_coverage", "-1"], "--min_coverage must be a number from 0 to 1, got -1.0."),
        (["lines.trk", "--json", "none/o.json"], "--json: the folder 'none' does not exist"),
        (["lines.trk", "--json", "truth"], "--json: 'truth' is a folder"),
        (["lines.trk", "--json", "lines.trk"], "'lines.trk' is an input"),
        (["lines.trk", "--figure", "o.jpeg2"], "Figure 'o.jpeg2' must end in one of: "),
        (["lines.trk", "--figure", "none/o.png"], "--figure: the folder 'none' does not exist; create it first."),
        (["lines.trk", "--save_split", "lines.trk"], "--save_split: 'lines.trk' is a file; give a folder."),
        (["lines.trk", "--preset", "ismrm2015"], "'truth' holds neither 'gt_config.json' nor both"),
        (["lines.trk", "--repeats"], "--repeats needs at least two tractograms of the same tracker, got one."),
        (["lines.trk", "--bootstrap", "5"], "--bootstrap must be a whole number of at least 100, got 5."),
        (["lines.trk", "--seed", "-5"], "seed must be an integer from 0"),
        (["lines.trk", "--seed", "5"], "--seed is that of --bootstrap, which was not given."),
        (["lines.trk", "--confusion", "o.png"], "--confusion: 'o.png' must end in .csv."),
        (["lines.trk", "--confusion", "none/o.csv"], "--confusion: the folder 'none' does not exist"),
        (
            ["lines.trk", "--ground_truth", "truth/mask", "--confusion", "o.csv"],
            "No bundle has end regions, which are needed for invalid connections; leave out --confusion.",
        ),
        (
            ["lines.trk", "--ground_truth", "truth/mask", "--save_split", "split"],
            "No bundle has end regions, which are needed to split streamlines; leave out --save_split.",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["score", "--ground_truth", "truth", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_a_bundle_that_cannot_name_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {part: f"{part}/lower.nii.gz" for part in ("mask", "head", "tail")}
    (folder / "truth" / "ground_truth.json").write_text(json.dumps({"../up": entry}))
    assert run("lines.trk", "--save_split", "split") == 2
    assert (
        "Bundle '../up' cannot be used as a file name: it contains a slash, and would refer to another folder; rename"
        in capsys.readouterr().err
    )
    assert run("lines.trk") == 0


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.trk"], ["a"]),
        (["x/a.trk", "y/b.trk"], ["a", "b"]),
        (["a.trk", "a.tck"], ["a.trk", "a.tck"]),
        (["x/a.trk", "y/a.trk"], ["x/a", "y/a"]),
        (["x/a.trk", "y/a.trk", "y/a.tck"], ["x/a.trk", "y/a.trk", "y/a.tck"]),
        (["a.b.trk", "a.c.trk"], ["a.b", "a.c"]),
    ],
)
def test_names_are_short_and_distinct(files: list[str], names: list[str]) -> None:
    assert list(short_names(files)) == names
    assert [str(path) for path in short_names(files).values()] == files


def test_a_config_names_its_files_in_any_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .trx tells its grid, as a .trk does; a .tck tells none."""
    truth = folder / "truth"
    save_lines(truth / "lower.trk", [along_x(2.5)], OBLIQUE)
    save_lines(truth / "upper.tck", [along_x(7.5)], OBLIQUE)
    with TractogramWriter(truth / "middle.trx", grid=Grid(OBLIQUE, SHAPE)) as writer:
        writer.append(*joined([along_x(4.5)]))
    files = {"AF": "middle.trx", "CST": "lower.trk", "CC": "upper.tck"}
    found = []
    for names in itertools.permutations(files):
        config = folder / "config.json"
        config.write_text(json.dumps({name: {"tractogram": files[name]} for name in names}))
        assert run("lines.trk", "--config", "config.json", "--json", "scores.json", "-f") == 0
        written = json.loads((folder / "scores.json").read_text())["tractograms"]["lines"]["bundles"]
        found.append({name: written[name] for name in sorted(written)})
    assert len(found) == 6
    assert found[0]["CST"]["overlap"] == 1
    assert all(each == found[0] for each in found)
    capsys.readouterr()
