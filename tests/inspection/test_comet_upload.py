"""An experiment is sent to Comet from its local logs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_comet import FakeComet
from small_training import small_trainer

from dwiml.cli.main import main
from dwiml.inspection.comet_upload import RECEIPT_FILE
from dwiml.training.reporting.loggers import comet, read_metrics
from dwiml.training.reporting.loggers.batches import read_batches


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeComet:
    module = FakeComet()
    monkeypatch.setitem(sys.modules, "comet_ml", module)
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: True)
    return module


@pytest.fixture(scope="module")
def finished(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    small_trainer(tiny_hdf5, folder, max_epochs=2, log_batches=1).train_and_validate()
    return folder / "exp"


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "exp"))


def upload(experiment: Path, *words: str) -> int:
    return main(["comet_upload", str(experiment), "--workspace", "team", "--project", "tracts", *words])


def test_all_of_the_logs_is_sent(experiment: Path, fake: FakeComet, capsys: pytest.CaptureFixture[str]) -> None:
    assert upload(experiment) == 0
    (sent,) = fake.experiments
    assert f"Comet shows this experiment at {sent.url}" in capsys.readouterr().out
    assert (sent.options["workspace"], sent.options["project_name"], sent.ended) == ("team", "tracts", True)
    expected: list[tuple[dict[str, Any], int, int]] = []
    batches = read_batches(experiment)
    for record in read_metrics(experiment):
        epoch = record.pop("epoch")
        for row in [i for i in range(len(batches["step"])) if batches["epoch"][i] == epoch]:
            names = set(batches) - {"epoch", "batch", "step"}
            values = {f"batch_{name}": batches[name][row] for name in names}
            expected.append((values, int(batches["step"][row]), epoch))
        expected.append((record, epoch, epoch))
    assert sent.metrics == expected
    assert len(sent.figures["curves"].axes) > 3
    recorded = json.loads((experiment / "parameters.json").read_text())
    assert sent.parameters == recorded
    assert {"dwiml", "torch", "python"} <= sent.parameters["versions"].keys()


def test_it_is_sent_once(experiment: Path, fake: FakeComet, capsys: pytest.CaptureFixture[str]) -> None:
    assert upload(experiment) == 0
    assert upload(experiment) == 2
    assert "was sent to Comet before (https://comet.test/team/tracts/key)" in capsys.readouterr().err
    assert len(fake.experiments) == 1
    assert upload(experiment, "-f") == 0
    first, second = fake.experiments
    assert first.options["experiment_key"] != second.options["experiment_key"]


def test_the_names_are_those_of_the_training(
    experiment: Path, fake: FakeComet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["comet_upload", str(experiment)]) == 2
    assert "records no workspace and project on Comet" in capsys.readouterr().err
    path = experiment / "parameters.json"
    recorded = json.loads(path.read_text())
    recorded["trainer"] |= {"comet_workspace": "w", "comet_project": "p"}
    path.write_text(json.dumps(recorded))
    (experiment / "comet_offline").mkdir()
    (experiment / "comet_offline" / "key.zip").touch()
    assert main(["comet_upload", str(experiment)]) == 2
    told = capsys.readouterr().err
    assert "has logged to Comet itself" in told
    assert f"comet upload {experiment}/comet_offline/*.zip" in told
    (experiment / "comet_offline" / "key.zip").unlink()
    assert main(["comet_upload", str(experiment)]) == 2
    assert main(["comet_upload", str(experiment), "-f"]) == 0
    assert fake.experiments[0].options["workspace"] == "w"


def test_nothing_is_sent_of_a_damaged_log(
    experiment: Path, fake: FakeComet, capsys: pytest.CaptureFixture[str]
) -> None:
    with (experiment / "logs" / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 7, "train_loss": "low"}\n')
    (experiment / "parameters.json").write_text('{"trainer": []}')
    assert upload(experiment) == 2
    assert "'train_loss' of epoch 7 must be a single number" in capsys.readouterr().err
    assert fake.experiments == []


def test_a_link_is_not_followed(experiment: Path, fake: FakeComet, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (experiment / RECEIPT_FILE).symlink_to(other)
    assert upload(experiment, "-f") == 0
    assert other.read_text() == "mine"


@pytest.mark.parametrize("failing", ["start", "log_metrics", "end"])
def test_a_failure_is_an_error_and_leaves_no_receipt(
    experiment: Path, fake: FakeComet, failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.failing = failing
    assert upload(experiment) == 2
    assert "Comet failed" in capsys.readouterr().err
    assert not (experiment / RECEIPT_FILE).exists()


def test_offline_nothing_is_written(
    experiment: Path, fake: FakeComet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: False)
    before = sorted(experiment.rglob("*"))
    assert upload(experiment) == 2
    assert "https://comet.test/clientlib/ cannot be reached. Nothing was sent." in capsys.readouterr().err
    assert sorted(experiment.rglob("*")) == before
    assert main(["comet_upload", str(experiment / "logs")]) == 2
    assert "has no logs/metrics.jsonl" in capsys.readouterr().err
