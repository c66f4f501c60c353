"""The page about experiments: all that it should show, nothing that it should load."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_training import small_trainer

from dwiml.cli.main import main
from dwiml.inspection.report import write_report
from dwiml.training.reporting.loggers import LocalLogger


def experiment(folder: Path, nb_epochs: int = 3, **model: Any) -> Path:
    log = LocalLogger(folder)
    for epoch in range(nb_epochs):
        metrics = {"train_loss": 2.0 / (epoch + 1), "valid_loss": 3.0 / (epoch + 1), "train_duration_s": 60.0}
        log.log_metrics(metrics, epoch)
    parameters = {
        "trainer": {"max_epochs": nb_epochs, "learning_rates": 0.001},
        "model": {"class": "M", **model},
        "loader": {"input_group_name": "input", "streamline_group_name": "lines"},
        "data": {"hdf5_file": "/data/a.hdf5", "training_subjects": ["s1", "s2"], "validation_subjects": []},
        "versions": {"dwiml": "0.1.0", "torch": "2.13"},
    }
    (folder / "parameters.json").write_text(json.dumps(parameters))
    return folder


def tractogram(path: Path, *, loss: bool = False) -> Path:
    line = np.stack([np.linspace(0, 20, 12), np.linspace(0, 9, 12), np.zeros(12)], axis=1).astype(np.float32)
    data = {"loss": [np.linspace(0, 1, 12)[:, None].astype(np.float32)] * 3} if loss else None
    tractogram = nib.streamlines.Tractogram([line, line + 1, line + 2], data_per_point=data, affine_to_rasmm=np.eye(4))
    header = {"voxel_to_rasmm": np.eye(4), "dimensions": (30, 30, 30), "voxel_sizes": (1, 1, 1), "voxel_order": "RAS"}
    path.parent.mkdir(exist_ok=True)
    nib.streamlines.save(tractogram, str(path), header=header)
    return path


class Page(HTMLParser):
    """The texts, tables and elements of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> Any:
        found = re.search(r'<script id="data" type="application/json">(.*?)</script>', self.source, re.DOTALL)
        assert found is not None
        return json.loads(found[1])


def test_curves_parameters_and_data_are_on_the_page(tmp_path: Path) -> None:
    folders = [experiment(tmp_path / "a", dg_key="gaussian"), experiment(tmp_path / "b", 2, dg_key="l2-regression")]
    page = Page(write_report(folders, tmp_path / "out.html"))
    assert [run["name"] for run in page.data["runs"]] == ["a", "b"]
    columns = page.data["runs"][0]["columns"]["valid_loss"]
    assert columns == {"x": [0, 1, 2], "t": [1, 2, 3], "y": [3, 1.5, 1]}
    assert page.data["time_unit"] == "minutes"
    # Their data are the same: the names are not repeated.
    assert "all 2" in page.texts
    assert page.data["runs"][1]["best"] == {"epoch": 1, "t": 2, "value": 1.5}
    assert [panel["key"] for panel in page.data["panels"]] == ["loss", "epoch_time"]
    assert "defined differently (gaussian, l2-regression)" in page.data["panels"][0]["note"]
    assert len(page.all("figure")) == 2
    for text in ("dg_key", "gaussian", "l2-regression", "/data/a.hdf5", "2: 's1', 's2'", "2.13", "a, b"):
        assert text in page.texts, text
    same = next(text for text in page.texts if text.startswith("class: M"))
    assert "learning_rates: 0.001" in same
    alone = Page(write_report(folders[0], tmp_path / "one.html"))
    assert "learning_rates" in alone.texts


def test_nothing_is_loaded_and_no_name_is_markup(tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>&"
    page = Page(
        write_report(
            [experiment(tmp_path / name.replace("/", "_")), experiment(tmp_path / "b")],
            tmp_path / "out.html",
            title="<b>$</b>",
        )
    )
    assert not re.search(r"(src|href)=[\"']?(?!data:)", page.source.replace("src=x onerror", ""))
    assert "http:" not in page.source.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page.source
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    assert page.data["runs"][0]["name"] == name.replace("/", "_")
    assert "<b>$</b>" in page.texts
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv")]
    assert "default-src 'none'" in str(policy)


def test_scores_and_pictures(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "a")
    line, lossy = tractogram(tmp_path / "t/AF.trk"), tractogram(tmp_path / "t/CST.trk", loss=True)
    kinds = {kind: {"nb_streamlines": 1, "share": 0.25} for kind in ("valid", "invalid", "wrong_path", "none")}
    bundles = {"AF": {"nb_valid": 7, "overlap": 0.5, "overreach": 0.125, "f1": None}}
    one = {
        "nb_streamlines": 12,
        "connections": kinds,
        "mean": {"overlap": 0.5, "overreach": 0.1, "f1": None},
        "bundles": bundles,
    }
    for number in (1, 2):
        scores = {"ground_truth": "truth", "tractograms": {f"out_{k}.trk": one for k in range(number)}}
        (tmp_path / f"{number}.json").write_text(json.dumps(scores))
    out = tmp_path / "out.html"
    words = ["report", str(folder), str(out), "--tractograms", str(tmp_path / "t"), "--title", "Mine"]
    assert main([*words, "--scores", str(tmp_path / "1.json"), str(tmp_path / "2.json")]) == 0
    page = Page(out)
    assert {line.name, lossy.name} == {"AF.trk", "CST.trk"}
    assert [str(each["alt"]) for each in page.all("img")] == [
        "AF.trk: 3 streamlines, colored by direction",
        "CST.trk: 3 streamlines, colored by the loss",
    ]
    assert all(str(each["src"]).startswith("data:image/png;base64,iVBOR") for each in page.all("img"))
    assert page.texts.count("25.0%") == 3 * 4
    assert "50.0% / 12.5% / -" in page.texts
    assert "Mine" in page.texts


def test_a_real_training(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, "run", max_epochs=2).train_and_validate()
    page = Page(write_report(tmp_path, tmp_path / "out.html"))
    assert page.data["runs"][0]["name"] == "run"
    assert "done" in page.texts
    assert str(tiny_hdf5.resolve()) in page.texts


def test_what_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = experiment(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.json").write_text("{}")
    cases = {
        "must be a file .html": [str(tmp_path / "out.pdf")],
        "has no tractogram": [str(tmp_path / "out.html"), "--tractograms", str(tmp_path / "empty")],
        "is not a file of 'dwiml score --json'": [str(tmp_path / "out.html"), "--scores", str(tmp_path / "no.json")],
        "parameters.json": [str(folder / "parameters.json")],
        "inside the experiment": [str(folder / "out.html")],
    }
    for sentence, words in cases.items():
        assert main(["report", str(folder), *words]) == 2, words
        error = capsys.readouterr().err
        assert sentence in error or "experiment" in error, error
    assert not (tmp_path / "out.html").exists()
    assert main(["report", str(folder), str(tmp_path / "out.html")]) == 0
    assert main(["report", str(folder), str(tmp_path / "out.html")]) == 2
    assert main(["report", str(folder), str(tmp_path / "out.html"), "-f"]) == 0
