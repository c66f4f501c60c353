"""Totals, repeats, intervals and the confusion matrix, against hand-made scores, statistics and scipy."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from scoring_support import LOWER, UNIT, UPPER, along_x, joined

from dwiml.scoring.comparison.confusion import confusion_matrix, confusion_table, write_confusion
from dwiml.scoring.comparison.intervals import bootstrap_intervals
from dwiml.scoring.comparison.table import comparison_table, interval_table
from dwiml.scoring.comparison.totals import TOTALS, over_repeats, totals
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth, TrueBundle
from dwiml.scoring.scores import BundleScore, InvalidBundle, Scores, score_streamlines

TRUTH = GroundTruth.from_volumes(
    {"lower": TrueBundle(**LOWER), "upper": TrueBundle(**UPPER)}, UNIT, mask_tolerance=0, end_tolerance=0
)
HEADS = np.array([[0.5, 2.5, 1.5], [0.5, 7.5, 1.5]])
ACROSS = np.array([[0.5, 2.5, 1.5], [11.5, 7.5, 1.5]])


def made(seed: int, nb_bundles: int = 12, *, nb_missed: int = 0) -> Scores:
    """Return random scores of 200 streamlines; the last bundles are missed."""
    rng = np.random.default_rng(seed)
    bundles = [
        BundleScore(
            name=f"bundle_{b}",
            has_ends=True,
            found=b < nb_bundles - nb_missed,
            nb_valid=1,
            nb_wrong_path=1,
            nb_in_mask=None,
            nb_voxels=10,
            overlap=float(rng.uniform()),
            overreach=float(rng.uniform(0, 2)),
            f1=float(rng.uniform()),
            adjacency=float(rng.uniform(1, 3)) if b < nb_bundles - nb_missed else None,
        )
        for b in range(nb_bundles)
    ]
    kind = rng.permutation(np.repeat([0, 1, 2, 3], [70, 25, 5, 100])).astype(np.int8)
    return Scores(kind, np.full(200, -1), tuple(bundles), (InvalidBundle(("a", "b"), 25),))


def test_totals_by_hand() -> None:
    scores = score_streamlines(*joined([along_x(2.5), along_x(5.5), HEADS, ACROSS]), TRUTH)
    assert totals(scores) == {
        "valid_connections": 0.25,
        "wrong_path_connections": 0,
        "invalid_connections": 0.5,
        "no_connections": 0.25,
        "valid_bundles": 1,
        "invalid_bundles": 2,
        "overlap": 0.25,
        "overreach": 0,
        "f1": pytest.approx(1 / 3),
        # The other row of the mask is 1 mm away; all voxels crossed are in the mask.
        "adjacency": 0.5,
    }
    assert tuple(totals(scores)) == TOTALS
    assert set(totals(score_streamlines(*joined([]), TRUTH)).values()) == {None, 0}


def test_repeats_against_statistics() -> None:
    scores = {str(seed): made(seed) for seed in range(5)}
    found = over_repeats(scores)
    for name in ("overlap", "f1", "adjacency", "valid_connections"):
        values = [totals(each)[name] for each in scores.values()]
        assert found[name]["mean"] == pytest.approx(statistics.fmean(values))
        assert found[name]["std"] == pytest.approx(statistics.stdev(values))
        assert found[name]["nb"] == 5
    nothing = {"a": score_streamlines(*joined([along_x(5.5)]), TRUTH), "b": made(0)}
    assert over_repeats(nothing)["adjacency"] == {"mean": made(0).mean("adjacency"), "std": None, "nb": 1}


def test_intervals_of_means_are_those_of_scipy() -> None:
    scores = made(1, nb_missed=3)
    found = bootstrap_intervals(scores, nb_resamples=20_000, seed=3)
    for measure in ("overlap", "overreach", "f1", "adjacency"):
        values = [getattr(each, measure) for each in scores.bundles if getattr(each, measure) is not None]
        assert len(values) == (9 if measure == "adjacency" else 12)
        other = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=77)
        assert found[measure] == pytest.approx(tuple(other.confidence_interval), abs=0.02)
        low, high = found[measure]
        assert low < scores.mean(measure) < high
        # For a mean of n values, the standard error of the bootstrap is that of the plain formula.
        assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(len(values)), rel=0.1)


def test_intervals_of_shares_are_those_of_scipy() -> None:
    scores = made(2)
    found = bootstrap_intervals(scores, nb_resamples=20_000, seed=3)
    for name, kind in (("valid_connections", Connection.VALID), ("wrong_path_connections", Connection.WRONG_PATH)):
        flags = (scores.kind == kind).astype(float)
        other = bootstrap((flags,), np.mean, n_resamples=20_000, batch=1000, method="percentile", random_state=5)
        assert found[name] == pytest.approx(tuple(other.confidence_interval), abs=0.0051)
    every = score_streamlines(*joined([along_x(2.5)] * 5), TRUTH)
    assert bootstrap_intervals(every, nb_resamples=100, seed=0)["valid_connections"] == (1, 1)


def test_intervals_depend_on_the_seed_only() -> None:
    scores = made(0)
    first = bootstrap_intervals(scores, nb_resamples=200, seed=0)
    np.random.default_rng(0).random(10)
    assert bootstrap_intervals(scores, nb_resamples=200, seed=0) == first
    assert bootstrap_intervals(scores, nb_resamples=200, seed=1) != first
    assert list(first) == [name for name in TOTALS if not name.endswith("_bundles")]


def test_intervals_that_are_not_available() -> None:
    none = bootstrap_intervals(score_streamlines(*joined([]), TRUTH), nb_resamples=100, seed=0)
    assert none["valid_connections"] is None
    # Two bundles that were missed are two zeros.
    assert (none["overlap"], none["adjacency"]) == ((0, 0), None)
    one = bootstrap_intervals(made(0, 1), nb_resamples=100, seed=0)
    assert one["overlap"] is None
    with pytest.raises(ValueError, match="nb_resamples must be a whole number of at least 100, got 99"):
        bootstrap_intervals(made(0), nb_resamples=99, seed=0)


def test_the_confusion_matrix_by_hand(tmp_path: Path) -> None:
    scores = score_streamlines(*joined([along_x(2.5), HEADS, HEADS[::-1], ACROSS]), TRUTH)
    matrix = confusion_matrix(scores, TRUTH.regions)
    assert TRUTH.regions == ("lower head", "lower tail", "upper head", "upper tail")
    assert matrix.tolist() == [[0, 0, 2, 1], [0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]]
    assert np.triu(matrix).sum() == scores.count(Connection.INVALID)
    write_confusion(tmp_path / "one.csv", {"x": matrix}, TRUTH.regions)
    with (tmp_path / "one.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["region", *TRUTH.regions]
    assert [row[0] for row in rows] == list(TRUTH.regions)
    assert [[int(cell) for cell in row[1:]] for row in rows] == matrix.tolist()
    write_confusion(tmp_path / "two.csv", {"x": matrix, "y": 2 * matrix}, TRUTH.regions)
    with (tmp_path / "two.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["tractogram", "region"]
    assert [row[0] for row in rows] == ["x"] * 4 + ["y"] * 4
    assert [[int(cell) for cell in row[2:]] for row in rows[4:]] == (2 * matrix).tolist()
    assert confusion_table(matrix, TRUTH.regions) == (
        "invalid connections  (1)  (2)  (3)\n"
        "(1) lower head         0    2    1\n"
        "(2) upper head         2    0    0\n"
        "(3) upper tail         1    0    0"
    )
    assert confusion_table(0 * matrix, TRUTH.regions) == "No invalid connections."


def test_only_the_regions_with_most_invalid_connections_are_shown() -> None:
    nb = 40
    matrix = np.zeros((nb, nb), dtype=int)
    for i in range(0, nb, 2):
        matrix[i, i + 1] = matrix[i + 1, i] = i + 1
    lines = confusion_table(matrix, [f"region {i}" for i in range(nb)]).splitlines()
    assert len(lines) == 17
    assert lines[-2].startswith("(15) region 39 ")
    assert lines[-1] == "(15 of the 40 regions with invalid connections)"


def test_tables() -> None:
    scores = {"first": score_streamlines(*joined([along_x(2.5), HEADS]), TRUTH), "b": made(0)}
    lines = comparison_table(scores, over_repeats(scores)).splitlines()
    assert lines[0].split()[2:] == [
        *["VC", "%", "WPC", "%", "IC", "%", "NC", "%"],
        *["VB", "IB", "OL", "%", "OR", "%", "F1", "%", "BA", "mm"],
    ]
    assert lines[1].split() == ["first", "2", "50.0", "0.0", "50.0", "0.0", "1/2", "1", "25.0", "0.0", "33.3", "0.50"]
    assert lines[3].split()[:7] == ["mean", "50.0", "1.2", "31.2", "17.5", "6.5", "1.0"]
    assert lines[4].startswith("standard deviation")
    assert len(comparison_table({}, over_repeats(scores)).splitlines()[0].split()) == len(lines[0].split())
    intervals = {"empty": bootstrap_intervals(score_streamlines(*joined([]), TRUTH), nb_resamples=100, seed=0)}
    header, row = interval_table(intervals).splitlines()
    assert header.split()[:4] == ["95%", "interval", "VC", "%"]
    cells = re.split(r"\s{2,}", row)
    assert cells == ["empty", "-", "-", "-", "-", "0.0 to 0.0", "0.0 to 0.0", "0.0 to 0.0", "-"]
