"""The page about models of one's own is run from top to bottom: its files are written, its commands and calls run."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from code_blocks import ROOT, Block, blocks_of, commands_of, run_blocks

from dwiml.cli.main import main
from dwiml.phantom.create import create_phantom

PAGE = ROOT / "docs" / "your_model.rst"
# What makes the page take minutes.
QUICKER = {"--nb_seeds": "100", "--min_length": "2"}


def file_named(block: Block) -> str | None:
    """Return the name of the file that a block is, which its caption gives."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()[: block.line - 1]
    caption = re.fullmatch(r"\s*:caption: (\S+\.(?:py|yaml))", next(line for line in reversed(lines) if line.strip()))
    return caption[1] if caption else None


def run_commands(block: Block) -> None:
    for number, words in commands_of(block.code):
        place = f"{PAGE.name}, line {block.line + number}: {' '.join(words)}"
        assert words.pop(0) == "dwiml", place
        for option, value in QUICKER.items():
            if option in words:
                words[words.index(option) + 1] = value
        if words[0] == "phantom":
            create_phantom(Path(words[1]), nb_subjects=6, size="small")
            continue
        try:
            code = main(words)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        assert code == 0, place


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    namespace: dict[str, Any] = {}
    for block in blocks_of(PAGE):
        if block.language == "bash":
            run_commands(block)
        elif name := file_named(block):
            code = block.code.replace("batch_size_training: 300", "batch_size_training: 100")
            Path(name).write_text(code.replace("max_epochs: 4", "max_epochs: 2"))
        elif block.language == "python":
            code = block.code.replace("nb_seeds=2000, min_length=20", "nb_seeds=100, min_length=2")
            run_blocks([replace(block, code=code)], namespace)
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert printed.count("valid connections") >= 3
    assert "--hidden_size N" in printed
    assert sorted(path.name for path in (tmp_path / "experiments").iterdir()) == [
        "perceptron",
        "recurrent",
        "transformer",
    ]
