"""A stand-in for the server of Weights & Biases on this computer, which keeps what the real client sends."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from loopback_server import LoopbackHandler, LoopbackServer

Row = dict[str, Any]
_HISTORY = "wandb-history.jsonl"


class WandbServer(LoopbackServer):
    """Answers as Weights & Biases does; the rows, the parameters and the files of each run are kept.

    Attributes
    ----------
    fails_after
        Number of rows after which ``failing`` applies.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.fails_after = 0
        self.unknown: list[str] = []
        self.rows: dict[str, list[Row]] = {}
        self.config: dict[str, Row] = {}
        self.summary: dict[str, Row] = {}
        self.files: dict[str, bytes] = {}
        self.ends: list[tuple[str, int]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to use this server."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false"}

    def is_failing(self) -> bool:
        """Return whether the next request fails."""
        with self.lock:
            return super().is_failing() and sum(len(rows) for rows in self.rows.values()) >= self.fails_after

    def stream(self, run: str, body: Row) -> None:
        """Keep rows that arrive, at the place that the client gives them."""
        for name, part in body.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == _HISTORY:
                # What is there already is replaced, as the server does.
                self.rows[run][part["offset"] :] = lines
            elif name == "wandb-summary.json":
                self.summary[run] = lines[-1]
        if body.get("complete"):
            self.ends.append((run, body["exitcode"]))

    def query(self, operation: str, variables: Row) -> Row:
        """Return the data that answer a query."""
        if operation == "RunResumeStatus":
            run = variables["name"]
            return {"model": {**_project(variables), "bucket": self._bucket(run) if run in self.rows else None}}
        if operation == "UpsertBucket":
            run = variables["name"]
            is_new = run not in self.rows
            self.rows.setdefault(run, [])
            self.config[run] = json.loads(variables["config"])
            bucket = {**self._bucket(run), "project": _project(variables)}
            return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        self.unknown.append(operation)
        return {}

    def _bucket(self, run: str) -> Row:
        rows = self.rows[run]
        return {
            "id": run,
            "name": run,
            "displayName": run,
            "description": "",
            "sweepName": None,
            "summaryMetrics": json.dumps(self.summary.get(run, {})),
            "logLineCount": 0,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(self.config[run]),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }


def _project(variables: Row) -> Row:
    return {"id": "project", "name": variables["project"], "entity": {"id": "entity", "name": variables["entity"]}}


class _Handler(LoopbackHandler):
    def answer(self, body: bytes) -> None:
        server = self.server
        parts = unquote(self.path).strip("/").split("/")
        answer: Row = {}
        with server.lock:
            if self.path == "/graphql":
                request = json.loads(body)
                answer = {"data": server.query(request.get("operationName", ""), request["variables"])}
            elif parts[-1] == "file_stream":
                server.stream(parts[-2], json.loads(body))
            elif parts[0] == "upload":
                server.files["/".join(parts[1:])] = body
        self.respond(200, answer)
