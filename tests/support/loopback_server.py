"""The base of stand-ins for the servers of logging services on this computer."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LoopbackServer(http.server.ThreadingHTTPServer):
    """A server on a free port of this computer that fails on demand.

    Parameters
    ----------
    handler
        A subclass of :class:`LoopbackHandler`.

    Attributes
    ----------
    failing
        ``error`` for status 500, ``hang up`` for a closed connection; empty if the server works.
    nb_failures
        Number of requests that have failed.
    """

    daemon_threads = True

    def __init__(self, handler: type[LoopbackHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.failing = ""
        self.nb_failures = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def is_failing(self) -> bool:
        """Return whether the next request fails."""
        return bool(self.failing)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a client that has been killed."""


class LoopbackHandler(http.server.BaseHTTPRequestHandler):
    """Reads requests of any kind, and answers with JSON; subclasses define :meth:`answer`."""

    server: Any
    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes) -> None:
        """Answer a request, with :meth:`respond`."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self._answer_or_fail(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer_or_fail(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

    do_PUT = do_POST

    def _answer_or_fail(self, body: bytes) -> None:
        if not self.server.is_failing():
            self.answer(body)
            return
        self.server.nb_failures += 1
        if self.server.failing == "hang up":
            self.close_connection = True
        else:
            self.respond(500, {"msg": "broken", "code": 500})

    def respond(self, code: int, answer: dict[str, Any]) -> None:
        """Send an answer."""
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
