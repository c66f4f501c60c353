"""A stand-in for the server of Comet on this computer, which keeps what the real client sends."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback_server import LoopbackHandler, LoopbackServer

CREATE = "/clientlib/logger/add/run"
METRICS = "/clientlib/batch/logger/experiment/metric"
PARAMETERS = "/clientlib/batch/logger/experiment/parameter"
FIGURES = "/clientlib/visualizations/upload"
# Comet's code for an experiment that exists already.
_EXISTS = 90999
# The parts of the protocol that every answer may have.
_ANSWER = {
    "runId": "1",
    "project_id": "2",
    "is_alive_beat_duration_millis": 10000,
    "gpu_monitor_interval_millis": 10000,
    "cpu_monitor_interval_millis": 10000,
    "parameter_update_interval_millis": 100,
    "pending_rpcs": False,
    "version": "9.9.9",
    "msg": "",
    "code": 200,
}


class CometServer(LoopbackServer):
    """Answers as Comet does; each request is kept.

    Attributes
    ----------
    fails_after
        Number of batches of metrics after which ``failing`` applies; None for at once.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.fails_after: int | None = None
        self.requests: list[tuple[str, dict[str, list[str]], Any]] = []

    @property
    def address(self) -> str:
        """Where the server is, and what it says of each experiment."""
        return f"{super().address}/"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to use this server."""
        return {
            "COMET_URL_OVERRIDE": f"{self.address}clientlib/",
            "COMET_API_KEY": "k" * 25,
        }

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies that arrived at a path."""
        with self.lock:
            return [body for each, _, body in self.requests if each == path]

    def experiments(self) -> set[str]:
        """Return the keys of the experiments."""
        return {body["experimentKey"] for body in self.bodies(CREATE)}

    def metrics(self, key: str | None = None) -> list[tuple[str, int, int, float]]:
        """Return the name, step, epoch and value of all metrics of an experiment or of all, as they arrived."""
        bodies = [body for body in self.bodies(METRICS) if key in (None, body["experimentKey"])]
        values = [each for body in bodies for each in body["values"]]
        return [(each["metricName"], each["step"], each["epoch"], float(each["metricValue"])) for each in values]

    def parameters(self) -> dict[str, Any]:
        """Return the last value of each parameter."""
        values = [each for body in self.bodies(PARAMETERS) for each in body["values"]]
        return {each["parameterName"]: each["parameterValue"] for each in values}

    def figures(self) -> list[tuple[str, bytes]]:
        """Return the name and the content of each figure."""
        with self.lock:
            return [(query["figName"][0], body) for path, query, body in self.requests if path == FIGURES]

    def is_failing(self) -> bool:
        """Return whether the next request fails."""
        return super().is_failing() and (self.fails_after is None or len(self.bodies(METRICS)) >= self.fails_after)


class _Handler(LoopbackHandler):
    def answer(self, body: bytes) -> None:
        server, address = self.server, urlsplit(self.path)
        is_json = "json" in self.headers.get("Content-Type", "") and body
        content = json.loads(body) if is_json else body
        exists = address.path == CREATE and content["experimentKey"] in server.experiments()
        with server.lock:
            server.requests.append((address.path.replace("//", "/"), parse_qs(address.query), content))
        if exists and not content["getOrCreateEnabled"]:
            self.respond(400, {"msg": "exists", "sdk_error_code": _EXISTS})
        else:
            self.respond(200, _ANSWER | {"focusUrl": server.address})
