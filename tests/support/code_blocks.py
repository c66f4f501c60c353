"""The code blocks of the documentation."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Block:
    """A code block: where it stands (line of its first line of code, from 1), and what is in it."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.name}, line {self.line}"


def _rst_blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    for number, text in enumerate(lines):
        directive = re.fullmatch(r"(\s*)\.\. (?:code-block|code|sourcecode)::\s*(\S*)\s*", text)
        if directive is None:
            continue
        margin = len(directive[1])
        start = number + 1
        while start < len(lines) and (not lines[start].strip() or re.fullmatch(r"\s+:[\w-]+:.*", lines[start])):
            start += 1
        end = start
        while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > margin):
            end += 1
        yield Block(page, start + 1, directive[2], textwrap.dedent("\n".join(lines[start:end])).rstrip() + "\n")


def _markdown_blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    opened: tuple[int, str] | None = None
    for number, text in enumerate(lines):
        fence = re.fullmatch(r"\s*```\s*(\S*)\s*", text)
        if fence and opened is None:
            opened = (number + 1, fence[1])
        elif fence and opened is not None:
            start, language = opened
            yield Block(page, start + 1, language, textwrap.dedent("\n".join(lines[start:number])) + "\n")
            opened = None


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """Return the code blocks of a page."""
    lines = (page.read_text(encoding="utf-8") if text is None else text).splitlines()
    return list((_markdown_blocks if page.suffix == ".md" else _rst_blocks)(page, lines))


def run_blocks(blocks: list[Block], namespace: dict[str, Any]) -> None:
    """Run Python blocks in order; an error says the page and the line in it."""
    for block in blocks:
        try:
            tree = ast.increment_lineno(ast.parse(block.code), block.line - 1)
            exec(compile(tree, str(block.page), "exec"), namespace)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(frames) if f.filename == str(block.page)), block.line)
            if isinstance(error, SyntaxError) and error.lineno:
                line = block.line + error.lineno - 1
            pytest.fail(f"{block.page.name}, line {line}: {type(error).__name__}: {error}")


def commands_of(code: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line in the block from 0, words) of each simple command of a script."""
    first, joined = 0, ""
    for number, text in enumerate(code.splitlines()):
        first = first if joined else number
        joined += text.removesuffix("\\") + " "
        if text.endswith("\\"):
            continue
        lexer = shlex.shlex(joined, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("|&;"):
                words.append(word)
            elif words:
                yield first, words
                words = []
        joined = ""
