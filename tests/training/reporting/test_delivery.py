"""Comet's client sends in the background: an epoch stays in the checkpoint until the client says that it is sent."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_comet import FakeComet, FakeExperiment

from dwiml.training.reporting.loggers import CometLogger, comet
from dwiml.training.reporting.loggers.delivery import Delivery


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CometLogger]:
    """Online, in its first epoch."""
    monkeypatch.setitem(sys.modules, "comet_ml", FakeComet())
    monkeypatch.setattr(comet, "can_reach", lambda url, *, timeout: True)
    monkeypatch.setattr(comet, "_CONFIRM_S", 0.1)
    running = CometLogger("team", "tracts", "my run", tmp_path)
    yield running
    running.close()


def _pending(log: CometLogger) -> tuple[list[int], int]:
    state = log.state_dict()
    return [record["epoch"] for record in state["pending"]], state["step"]


def _batch(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "batch": 0, "step": epoch + 1, "train_loss": 1.0}


def test_what_is_not_sent_yet_is_pending(log: CometLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeExperiment, "flush", lambda self: False)
    for epoch in (0, 1):
        log.log_batches([_batch(epoch)])
        log.log_metrics({"train_loss": 0.5}, epoch)
    assert _pending(log) == ([0, 1], 0)
    monkeypatch.setattr(FakeExperiment, "flush", lambda self: True)
    log.log_batches([_batch(2)])
    log.log_metrics({"train_loss": 0.5}, 2)
    assert _pending(log) == ([], 3)


def test_a_slow_server_is_asked_once(log: CometLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    # The queue is emptied twice for each question.
    answers = [threading.Event() for _ in range(4)]
    asked: list[int] = []

    def flush(self: FakeExperiment) -> bool:
        asked.append(len(asked))
        return answers[asked[-1]].wait(30)

    monkeypatch.setattr(FakeExperiment, "flush", flush)
    for epoch in range(3):
        log.log_metrics({"train_loss": 0.5}, epoch)
    assert asked == [0]
    assert _pending(log) == ([0, 1, 2], 0)
    # What it says of the first epoch is no answer for the others.
    monkeypatch.setattr(comet, "_CONFIRM_S", 5)
    for answer in answers:
        answer.set()
    assert log._delivery is not None
    assert log._delivery._flushing is not None
    wait([log._delivery._flushing], 30)
    log.log_metrics({"train_loss": 0.5}, 3)
    assert asked == [0, 1, 2, 3]
    assert _pending(log)[0] == []


def test_a_refusal_that_is_only_in_the_log_of_the_client_is_a_failure(
    log: CometLogger, caplog: pytest.LogCaptureFixture
) -> None:
    before = list(logging.getLogger("comet_ml.streamer").handlers)
    log.log_metrics({"train_loss": 0.5}, 0)
    sender = logging.getLogger("comet_ml.streamer.handlers.online_handler")
    with caplog.at_level(logging.WARNING, logger="dwiml"):
        sender.error("Error sending\nmetrics")
        log.log_metrics({"train_loss": 0.5}, 1)
        log.log_metrics({"train_loss": 0.5}, 2)
    own = [record.getMessage() for record in caplog.records if record.name.startswith("dwiml")]
    assert len(own) == 1
    assert own[0].startswith("Comet failed (ConnectionError: Error sending metrics)")
    assert _pending(log)[0] == [1, 2]
    sentence = log.close()
    assert sentence is not None
    assert sentence.startswith("Comet does not have all of this run")
    assert logging.getLogger("comet_ml.streamer").handlers == before


def test_a_lost_connection() -> None:
    delivery = Delivery()
    lost = SimpleNamespace(flush=lambda: True, streamer=SimpleNamespace(has_connection_to_server=lambda: False))
    assert delivery.confirm(lost, 5) is False
    assert delivery.problem(lost) == "the connection was lost"
    kept = SimpleNamespace(flush=lambda: True, streamer=SimpleNamespace(has_connection_to_server=lambda: True))
    assert delivery.confirm(kept, 5) is True
    assert delivery.problem(kept) == ""
    delivery.close()
