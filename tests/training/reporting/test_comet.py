"""Comet: offline for real (the archive is opened), online with a stand-in for comet_ml, failing in every way."""

from __future__ import annotations

import http.server
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_comet import FakeComet

from dwiml.training.reporting.loggers import BatchLog, CometLogger, comet
from dwiml.training.reporting.loggers.network import can_reach, within

RUN = """
import json, os, signal, sys, time
from pathlib import Path
from dwiml.training.reporting.loggers import CometLogger
folder, first, last, how = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
before = sys.excepthook, dict(os.environ)
log = CometLogger("team", "tracts", "my run", folder)
if (folder / "state.json").exists():
    log.load_state_dict(json.loads((folder / "state.json").read_text()))
log.log_parameters({"trainer": {"learning_rates": [0.001], "patience": None}, "model": {"hidden": 64}})
assert (sys.excepthook, dict(os.environ)) == before
assert not [each for each in sys.meta_path if "comet" in type(each).__module__], "libraries are patched"
for epoch in range(first, last):
    log.log_metrics({"train_loss": 1 / (epoch + 1)}, epoch)
(folder / "state.json").write_text(json.dumps(log.state_dict()))
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
print(log.close())
"""


def _run(folder: Path, first: int, last: int, how: str = "end") -> subprocess.CompletedProcess[str]:
    # A home of its own: no developer's API key may be found.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMET_")}
    environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(folder), str(first), str(last), how]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def _archived(archive: Path) -> tuple[dict[str, Any], dict[str, Any], dict[int, float]]:
    """Return an archive's description, its parameters, and the training loss by epoch."""
    with zipfile.ZipFile(archive) as content:
        experiment = json.loads(content.read("experiment.json"))
        messages = [json.loads(line) for line in content.read("messages.json").splitlines()]
    parameters: dict[str, Any] = {}
    losses: dict[int, float] = {}
    for payload in (message["payload"] for message in messages):
        for key in ("param", "params"):
            if key in payload and payload[key]["source"] == "manual":
                parameters[payload[key]["paramName"]] = payload[key]["paramValue"]
        if payload.get("metric", {}).get("metricName") == "train_loss":
            assert payload["metric"]["step"] == payload["metric"]["epoch"]
            assert payload["metric"]["epoch"] not in losses
            losses[payload["metric"]["epoch"]] = payload["metric"]["metricValue"]
    return experiment, parameters, losses


def test_offline_for_real_with_a_kill_and_a_resume(tmp_path: Path) -> None:
    folder = tmp_path / "my experiment"
    folder.mkdir()
    killed = _run(folder, 0, 2, "kill")
    assert killed.returncode == -9, killed.stderr
    offline = folder / "comet_offline"
    key = json.loads((folder / "state.json").read_text())["key"]

    ended = _run(folder, 2, 3)
    assert ended.returncode == 0, ended.stderr
    (archive,) = offline.iterdir()
    assert archive.name.startswith(key)
    experiment, parameters, losses = _archived(archive)
    assert losses == {0: 1.0, 1: 0.5, 2: pytest.approx(1 / 3)}
    assert experiment["offline_id"] == key
    assert (experiment["workspace"], experiment["project_name"]) == ("team", "tracts")
    # Uploaded twice, or after a first part was sent, it is still one experiment.
    assert experiment["resume_strategy"] == "get_or_create"
    assert parameters == {"trainer|learning_rates": [0.001], "trainer|patience": None, "model|hidden": 64}

    # The user is told what to type; nothing of Comet's own is printed.
    command = ended.stdout.strip().split("run: ")[1]
    assert shlex.split(command.removesuffix("/*.zip")) == ["comet", "upload", str(offline)]
    assert command.endswith("/*.zip")
    (warning,) = ended.stderr.splitlines()
    assert warning.startswith("Comet is offline: no API key is configured")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeComet:
    """comet_ml with a key and a server that answers."""
    module = FakeComet()
    monkeypatch.setitem(sys.modules, "comet_ml", module)
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: True)
    return module


def _logger(folder: Path, **options: Any) -> CometLogger:
    return CometLogger("team", "tracts", "my run", folder, **options)


def test_online_sends_parameters_and_metrics_and_nothing_else(tmp_path: Path, fake: FakeComet) -> None:
    log = _logger(tmp_path)
    log.log_parameters({"trainer": {"max_epochs": 2}})
    log.log_metrics({"train_loss": 0.5, "valid_loss": 0.75}, 0)
    log.log_metrics({"train_loss": 0.25}, 1)
    assert log.state_dict() == {"key": log.key, "pending": [], "step": 0}
    assert log.close() == "Comet shows this run at https://comet.test/team/tracts/key"
    assert log.close() is None
    (experiment,) = fake.experiments
    assert experiment.ended
    assert experiment.parameters == {"trainer": {"max_epochs": 2}}
    assert experiment.metrics == [({"train_loss": 0.5, "valid_loss": 0.75}, 0, 0), ({"train_loss": 0.25}, 1, 1)]
    config = experiment.options.pop("experiment_config")
    assert experiment.options == {
        "workspace": "team",
        "project_name": "tracts",
        "experiment_key": log.key,
        "mode": "get_or_create",
        "online": True,
    }
    assert 32 <= len(log.key) <= 50
    assert log.key.isalnum()
    assert config.pop("name") == "my run"
    assert config.pop("offline_directory") == str(tmp_path / "comet_offline")
    assert config.pop("display_summary_level") == 0
    assert config
    assert not any(config.values()), "something is gathered automatically"
    assert not (tmp_path / "comet_offline").exists()


def lines(*steps: int) -> list[dict[str, float]]:
    return [{"epoch": (step - 1) // 2, "batch": (step - 1) % 2, "step": step, "train_loss": 1 / step} for step in steps]


def test_batches_are_sent_with_their_epoch_and_once(tmp_path: Path, fake: FakeComet) -> None:
    local, log = BatchLog(tmp_path), _logger(tmp_path)
    for part in (lines(1), lines(2)):
        local.log_batches(part)
        log.log_batches(part)
    assert log.state_dict()["step"] == 0
    log.log_metrics({"train_loss": 0.5}, 0)
    assert log.state_dict()["step"] == 2
    local.log_batches(lines(3))
    log.log_batches(lines(3))
    state = log.state_dict()
    log.close()
    (first,) = fake.experiments
    assert [(values, step) for values, step, _ in first.metrics] == [
        ({"batch_train_loss": 1.0}, 1),
        ({"batch_train_loss": 0.5}, 2),
        ({"train_loss": 0.5}, 0),
    ]
    # A resumed run sends what the previous one had not: batch 3.
    resumed = _logger(tmp_path)
    resumed.load_state_dict(state)
    resumed.log_batches(lines(4))
    resumed.log_metrics({"train_loss": 0.25}, 1)
    assert [(step, values) for values, step, _ in fake.experiments[-1].metrics] == [
        (3, {"batch_train_loss": 1 / 3}),
        (4, {"batch_train_loss": 0.25}),
        (1, {"train_loss": 0.25}),
    ]
    with pytest.raises(ValueError, match="Comet's 'step' must be a number of batches"):
        resumed.load_state_dict({**state, "step": -1})
    resumed.load_state_dict({name: value for name, value in state.items() if name != "step"})
    assert resumed.state_dict()["step"] == 0


def test_a_resumed_run_goes_on_under_its_key_and_sends_what_was_never_sent(
    tmp_path: Path, fake: FakeComet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: False)
    first = _logger(tmp_path)
    first.log_metrics({"train_loss": 0.5}, 0)
    state = json.loads(json.dumps(first.state_dict()))
    assert fake.experiments[0].options["online"] is False
    first.close()

    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: True)
    second = _logger(tmp_path)
    second.load_state_dict(state)
    second.log_metrics({"train_loss": 0.25}, 1)
    assert second.key == first.key == fake.experiments[1].options["experiment_key"]
    assert [metrics[1] for metrics in fake.experiments[1].metrics] == [0, 1]
    assert second.state_dict()["pending"] == []
    with pytest.raises(ValueError, match="must have the keys 'key', 'pending' and 'step'"):
        second.load_state_dict({"key": "a"})


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("failing", ["", "log_metrics"])
def test_an_archive_is_removed_only_when_its_epochs_are_elsewhere(
    tmp_path: Path, fake: FakeComet, online: bool, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "comet_offline"
    folder.mkdir()
    key = "a" * 32
    old, other = folder / f"{key}-old.zip", folder / f"{'b' * 32}.zip"
    for path in (old, other):
        _write_archive(path)
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: online)
    fake.failing = failing
    log = _logger(tmp_path, key=key)
    log.load_state_dict({"key": key, "pending": [{"epoch": 0, "metrics": {"train_loss": 0.5}}]})
    log.log_parameters({"a": 1})
    if not online:
        _write_archive(folder / f"{key}-new.zip")
    sentence = log.close()
    assert old.exists() == bool(failing)
    assert other.exists()
    assert sentence is not None
    online_sentence = "Comet does not have all" if failing else "Comet shows"
    assert sentence.startswith(online_sentence if online else "Comet was offline")


def test_archives_of_a_run_that_is_not_continued_are_left_alone(tmp_path: Path, fake: FakeComet) -> None:
    (tmp_path / "comet_offline").mkdir()
    old = tmp_path / "comet_offline" / f"{'a' * 32}.zip"
    _write_archive(old)
    log = _logger(tmp_path, key="a" * 32)
    log.log_parameters({"a": 1})
    log.close()
    assert old.exists()


def _write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("messages.json", "")


@pytest.mark.parametrize("failing", ["start", "log_parameters", "log_metrics", "end"])
def test_a_failure_of_comet_is_one_warning_and_the_training_goes_on(
    tmp_path: Path, fake: FakeComet, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.failing = failing
    log = _logger(tmp_path)
    log.log_parameters({"a": 1})
    log.log_metrics({"train_loss": 0.5}, 0)
    log.log_metrics({"train_loss": 0.25}, 1)
    # What went through before is still finished properly.
    sentence = log.close()
    assert sentence is not None
    assert sentence.startswith("Comet does not have all of this run")
    assert sentence.endswith(f"dwiml comet_upload {tmp_path} -f")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"Comet's {failing} is broken" in record.message
    # What was never sent is sent when the run is resumed.
    pending = [each["epoch"] for each in log.state_dict()["pending"]]
    assert pending == ([] if failing == "end" else [0, 1])


def test_comet_that_is_not_installed_is_a_failure_like_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    log = _logger(tmp_path)
    log.log_metrics({"train_loss": 0.5}, 0)
    assert log.close() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("hanging", ["start", "end"])
def test_a_server_that_hangs_is_left(
    tmp_path: Path,
    fake: FakeComet,
    hanging: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(comet, "_COMET_TIMEOUT_S", 0.2)
    fake.hanging = hanging
    begin = time.monotonic()
    log = _logger(tmp_path)
    log.log_metrics({"train_loss": 0.5}, 0)
    assert "dwiml comet_upload" in (log.close() or "")
    assert time.monotonic() - begin < 10
    assert ["no answer within 0.2 s" in record.message for record in caplog.records] == [True]


def test_without_an_api_key_the_network_is_not_tried(
    tmp_path: Path, fake: FakeComet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", keyless := FakeComet(api_key=None))
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: pytest.fail("no need"))
    _logger(tmp_path, verbose=False).log_metrics({"train_loss": 0.5}, 0)
    assert keyless.experiments[0].options["online"] is False
    assert not caplog.records


def test_a_look_up_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(30))
    begin = time.monotonic()
    assert can_reach("https://comet.test/", timeout=0.3) is False
    assert time.monotonic() - begin < 5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server that answers /CODE with that status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(("code", "reached"), [(200, True), (401, True), (404, True), (407, False), (503, False)])
def test_any_answer_of_the_server_itself_counts(server: str, code: int, reached: bool) -> None:
    assert can_reach(f"{server}/{code}", timeout=5) is reached


def test_a_closed_port_and_a_silent_server_do_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begin = time.monotonic()
        assert can_reach(f"http://127.0.0.1:{port}/", timeout=0.3) is False
        assert time.monotonic() - begin < 5
    assert can_reach(f"http://127.0.0.1:{port}/", timeout=5) is False


def test_the_proxy_of_the_environment_is_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert can_reach("https://comet.test/", timeout=5) is False
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr(socket, "getaddrinfo", _only_local(socket.getaddrinfo))
    # The stand-in proxy is asked for the whole address, which it cannot read: it hangs up, and that is no answer.
    assert can_reach("http://comet.test/200", timeout=5) is False


def _only_local(resolve: Any) -> Any:
    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        assert host == "127.0.0.1", "the name was looked up here, not by the proxy"
        return resolve(host, *args, **kwargs)

    return look_up


def test_within_hands_on_results_and_errors() -> None:
    assert within(5, lambda: 3) == 3
    assert within(5, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
