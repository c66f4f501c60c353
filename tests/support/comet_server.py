"""A stand-in for the server of Comet on this computer, which keeps what the real client sends."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


class CometServer(http.server.ThreadingHTTPServer):
    """Answers as Comet does; each request is kept.

    Attributes
    ----------
    failing
        ``error`` for status 500, ``hang up`` for a closed connection; empty if the server works.
    fails_after
        Number of batches of metrics after which ``failing`` applies; None for at once.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failing = ""
        self.fails_after: int | None = None
        self.requests: list[tuple[str, dict[str, list[str]], Any]] = []
        self.nb_failures = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where the server is, and what it says of each experiment."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

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
        if not self.failing:
            return False
        return self.fails_after is None or len(self.bodies(METRICS)) >= self.fails_after

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a client that has been killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: CometServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        server = self.server
        address = urlsplit(self.path)
        if server.is_failing():
            server.nb_failures += 1
            if server.failing == "hang up":
                self.close_connection = True
                return
            self._respond(500, {"msg": "broken", "code": 500})
            return
        is_json = "json" in self.headers.get("Content-Type", "") and body
        content = json.loads(body) if is_json else body
        exists = address.path == CREATE and content["experimentKey"] in server.experiments()
        with server.lock:
            server.requests.append((address.path.replace("//", "/"), parse_qs(address.query), content))
        if exists and not content["getOrCreateEnabled"]:
            self._respond(400, {"msg": "exists", "sdk_error_code": _EXISTS})
        else:
            self._respond(200, _ANSWER | {"focusUrl": server.address})

    def _respond(self, code: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(server: Any) -> Iterator[Any]:
    """Run a server in a thread while the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
