"""The page of a report in headless Chromium: pointing at a curve, hiding a run, zooming, the theme, a phone, print."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwiml.inspection.report import write_report
from dwiml.training.reporting.loggers import LocalLogger

pytestmark = pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs Chromium and its driver")
FIRST = "document.querySelector('figure.chart svg')"


class Browser:
    """A session of chromedriver, with the protocol WebDriver of the W3C."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{session['sessionId']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=content, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def run(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def pointer(self, *actions: dict[str, Any]) -> None:
        source = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": list(actions)}
        self.call("POST", "/actions", {"actions": [source]})

    def place(self, x: float, y: float) -> dict[str, Any]:
        """Return the move to a place in the first chart, in shares of its size."""
        self.run(f"{FIRST}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"const b = {FIRST}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]")
        at = (round(box[0] + x * box[2]), round(box[1] + y * box[3]))
        return {"type": "pointerMove", "duration": 30, "x": at[0], "y": at[1]}


@pytest.fixture
def browser() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(["chromedriver", f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        session = Browser(port)
        yield session
        session.call("DELETE", "")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    for name, factor in (("first", 1.0), ("second", 3.0)):
        log = LocalLogger(tmp_path / "runs" / name)
        for epoch in range(11):
            log.log_metrics({"train_loss": factor * (epoch + 1), "valid_loss": factor, "grad_norm": 1.0}, epoch)
    return write_report(tmp_path / "runs", tmp_path / "page.html")


def test_the_page(browser: Browser, page: Path) -> None:
    browser.call("POST", "/url", {"url": page.as_uri()})
    nb_paths = f"return {FIRST}.querySelectorAll('path').length"
    assert browser.run(nb_paths) == 4
    tip = "return document.querySelector('figure.chart .tip')"
    assert browser.run(f"{tip}.hidden") is True
    # At the middle of the axis.
    browser.pointer(browser.place(0.525, 0.4))
    assert browser.run(f"{tip}.hidden") is False
    text = browser.run(f"{tip}.innerText")
    assert text.splitlines()[0] == "epoch 5"
    assert "18 training second" in text
    assert "6 training first" in text
    # A run is hidden, and shown again.
    toggle = "document.querySelectorAll('.legend button')[1]"
    browser.run(f"{toggle}.click()")
    assert browser.run(nb_paths) == 2
    assert browser.run(f"return {toggle}.getAttribute('aria-pressed')") == "false"
    browser.run(f"{toggle}.click()")
    assert browser.run(nb_paths) == 4
    # Zoom by dragging, in all charts; the button shows all again.
    labels = f"return [...{FIRST}.querySelectorAll('text')].map((each) => each.textContent)"
    assert "10" in browser.run(labels)
    drag = [{"type": "pointerDown", "button": 0}, browser.place(0.5, 0.4), {"type": "pointerUp", "button": 0}]
    browser.pointer(browser.place(0.2, 0.4), *drag)
    assert browser.run("return document.getElementById('reset').hidden") is False
    assert "10" not in browser.run(labels)[5:]
    # Epochs are whole numbers.
    epochs = browser.run(labels.replace("'text'", "'text[text-anchor=middle]'"))[:-1]
    assert len(epochs) >= 2
    assert all(text.isdigit() for text in epochs)
    browser.run("document.getElementById('reset').click()")
    assert "10" in browser.run(labels)
    # Another axis, another scale, another theme.
    browser.run("const x = document.getElementById('x'); x.value = 'time'; x.dispatchEvent(new Event('change'))")
    assert any("time of the training" in each for each in browser.run(labels))
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = browser.run(ground)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) != before
    # Nothing failed, and nothing was asked of the network.
    assert browser.call("POST", "/se/log", {"type": "browser"}) == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def test_a_phone_and_paper(browser: Browser, page: Path) -> None:
    browser.call("POST", "/window/rect", {"width": 500, "height": 800})
    browser.call("POST", "/url", {"url": page.as_uri()})
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(f"return {FIRST}.getBoundingClientRect().width > 0.7 * innerWidth")
    pdf = base64.b64decode(browser.call("POST", "/print", {"background": True}))
    assert pdf.startswith(b"%PDF")
