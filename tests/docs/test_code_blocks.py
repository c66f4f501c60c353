"""Every code block of the documentation is run (Python) or checked against the commands' parsers (bash).

The Python blocks of a page run in order, in one namespace, in an empty folder, with the names that the pages use:
``hdf5_file``, ``experiments_path``, ``experiment_name``, ``input_group_name``, ``streamline_group_name``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from code_blocks import ROOT, Block, blocks_of, commands_of, run_blocks
from small_training import logs

from dwiml import DWIMLTrainerOneInput
from dwiml.cli import train
from dwiml.cli.main import COMMANDS
from dwiml.cli.main import build_parser as build_dwiml_parser
from dwiml.cli.options.parsing import parse_known_options
from dwiml.models.direction_getters import DIRECTION_GETTERS
from dwiml.models.embeddings import EMBEDDINGS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
LANGUAGES = {"python", "bash", "json", "text"}
# This page goes on where the first script of another one has ended.
GOES_ON_FROM = {"tracking.rst": "README.md"}
# Run as a whole, by a test of its own.
RUN_AS_A_WHOLE = ROOT / "docs" / "your_model.rst"
# What a reader replaces: OUT_DIR, <name>, "$FOLDER".
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_.]*|<.*>|.*\$.*")

NOISY_TRAINING = """
from dwiml import DWIMLBatchIDSampler, DWIMLBatchLoaderOneInput, Learn2TrackModel, MultiSubjectDataset
dataset = MultiSubjectDataset(hdf5_file)
dataset.load_data()
groups = (input_group_name, streamline_group_name)
model = Learn2TrackModel(nb_features=dataset.nb_features[groups[0]], step_size=1.0, rnn_layer_sizes=[8])
loader = DWIMLBatchLoaderOneInput(dataset, model, *groups, noise_correlated_size=0.3)
sampler = DWIMLBatchIDSampler(dataset, groups[1])
TRAINER(model, experiments_path, experiment_name, sampler, loader, fast_dev_run=True).train_and_validate()
"""


def _accepting_placeholders(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let a parser take a placeholder where it wants a number or a choice."""

    def lenient(convert: Callable[[str], Any]) -> Callable[[str], Any]:
        return lambda text: text if PLACEHOLDER.fullmatch(text) else convert(text)

    class Choices(list[Any]):
        def __contains__(self, value: object) -> bool:
            return super().__contains__(value) or (isinstance(value, str) and bool(PLACEHOLDER.fullmatch(value)))

    for action in parser._actions:
        if callable(action.type):
            action.type = lenient(action.type)
        if action.choices is not None:
            action.choices = Choices(action.choices)
    return parser


def check_command(words: list[str]) -> str | None:
    """Return what is wrong with a command line of ours, or None; other programs' are not judged."""
    while words and re.fullmatch(r"\w+=.*|srun|exec|time", words[0]):
        words = words[1:]
    for word in words:
        if re.fullmatch(r"(\./)?scripts/[\w/]+\.(py|sh)", word) and not (ROOT / word).is_file():
            return f"there is no {word}"
    if not words or words[0] not in ("dwiml", "visualize_logs"):
        return None
    name, *arguments = words
    if name == "dwiml" and arguments[:1] and arguments[0] in COMMANDS:
        name, *arguments = arguments
    parser, required = build_dwiml_parser(), []
    if name == "train" and "--config" in arguments and arguments[0] not in train.MODELS:
        # The file names the model.
        arguments = ["learn2track", *arguments]
    if name == "train" and arguments[:1] and arguments[0] in train.MODELS:
        model, *arguments = arguments
        parser = _accepting_placeholders(train.build_model_parser(model))
        # They may be given without a name, or in a file.
        required = [each for each in parser._actions if each.required]
        for each in required:
            each.required = False
    elif name != "dwiml":
        parser = _accepting_placeholders(importlib.import_module(f"dwiml.cli.{name}").build_parser())
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            values = parse_known_options(parser, arguments, positional=tuple(train.PATHS) if required else ())
    except SystemExit as stop:
        return said.getvalue().strip().splitlines()[-1] if stop.code else None
    missing = [each.dest for each in required if getattr(values, each.dest) is None]
    in_file = {"--config", "--print_config"} & set(arguments)
    return f"missing: {missing}" if missing and not in_file else None


def check_bash(block: Block) -> list[str]:
    """Return what is wrong with a bash block."""
    found = []
    for number, words in commands_of(block.code):
        if wrong := check_command(words):
            found.append(f"{block.page.name}, line {block.line + number}: {' '.join(words)}: {wrong}")
    return found


def _pages_with(language: str) -> list[Path]:
    pages = [page for page in PAGES if page != RUN_AS_A_WHOLE]
    return [page for page in pages if any(block.language == language for block in blocks_of(page))]


@pytest.fixture
def page_namespace(tmp_path: Path, tiny_hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that pages use, in a module of their own (classes defined in a page need one), in an empty folder."""
    hdf5_file = tmp_path / "subjects.hdf5"
    shutil.copy(tiny_hdf5, hdf5_file)
    module = types.ModuleType("page_of_the_documentation")
    module.__dict__.update(
        hdf5_file=str(hdf5_file),
        experiments_path=str(tmp_path / "experiments"),
        experiment_name="my_experiment",
        input_group_name="input",
        streamline_group_name="streamlines",
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module.__dict__
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", _pages_with("python"), ids=lambda page: page.name)
def test_python_blocks_run(page: Path, page_namespace: dict[str, Any]) -> None:
    if before := GOES_ON_FROM.get(page.name):
        run_blocks([block for block in blocks_of(ROOT / before) if block.language == "python"][:1], page_namespace)
    # What a page registers is not for other tests.
    with mock.patch.dict(DIRECTION_GETTERS), mock.patch.dict(EMBEDDINGS):
        run_blocks([block for block in blocks_of(page) if block.language == "python"], page_namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["hdf5.rst", "looking.rst", "models.rst", "scores.rst", "spaces.rst", "tracking.rst"])
def test_python_blocks_run_again(page: str, page_namespace: dict[str, Any]) -> None:
    if before := GOES_ON_FROM.get(page):
        run_blocks([block for block in blocks_of(ROOT / before) if block.language == "python"][:1], page_namespace)
    with mock.patch.dict(DIRECTION_GETTERS), mock.patch.dict(EMBEDDINGS):
        for _ in range(2):
            run_blocks([each for each in blocks_of(ROOT / "docs" / page) if each.language == "python"], page_namespace)


@pytest.mark.parametrize("trainer_class", ["SmoothTrainer", "StreamlineTrainer", "StepTrainer"])
def test_custom_losses_train_with_correlated_noise(trainer_class: str, page_namespace: dict[str, Any]) -> None:
    page = ROOT / "docs" / "custom_trainers.rst"
    page_namespace.update(torch=torch, DWIMLTrainerOneInput=DWIMLTrainerOneInput)
    run_blocks([block for block in blocks_of(page) if f"class {trainer_class}" in block.code], page_namespace)
    run_blocks([Block(page, 1, "python", NOISY_TRAINING.replace("TRAINER", trainer_class))], page_namespace)


@pytest.mark.parametrize("page", _pages_with("bash"), ids=lambda page: page.name)
def test_commands_exist_and_take_these_options(page: Path) -> None:
    assert not [wrong for block in blocks_of(page) if block.language == "bash" for wrong in check_bash(block)]


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda script: script.name)
def test_scripts_call_commands_that_exist(script: Path) -> None:
    without_texts = re.sub(r"<<(\w+)\n.*?\n\1\n", "\n", script.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not check_bash(Block(script, 1, "bash", without_texts))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_a_language_that_is_checked(page: Path) -> None:
    assert not [block.place for block in blocks_of(page) if block.language not in LANGUAGES]


RST = """\
Title

.. code-block:: python
   :emphasize-lines: 1

   first = 1

   second = (first
             + 1)

Text.

  .. code-block:: bash

     ls
"""


def test_blocks_are_found_where_they_stand() -> None:
    python, bash = blocks_of(Path("page.rst"), RST)
    assert (python.line, python.language, bash.line, bash.code) == (6, "python", 15, "ls\n")
    assert python.code == "first = 1\n\nsecond = (first\n          + 1)\n"
    (markdown,) = blocks_of(Path("page.md"), "# T\n\n```python\nx = 1\n```\nText\n")
    assert (markdown.line, markdown.language, markdown.code) == (4, "python", "x = 1\n")


def test_an_error_says_the_line_of_the_page() -> None:
    block = Block(Path("page.rst"), 10, "python", "x = 1\n\ny = x / 0\n")
    with pytest.raises(pytest.fail.Exception, match=r"page\.rst, line 12: ZeroDivisionError"):
        run_blocks([block], {})


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("dwiml phantom OUT_DIR --seed SEED\n", []),
        ("ls | wc; X=1 srun dwiml phantom \\\n  out --seed 3  # comment\n", []),
        ("dwiml --version\n", []),
        ("dwiml fantom out\n", ["line 1: "]),
        ("dwiml phantom\n", ["line 1: "]),
        ("echo\ndwiml phantom out --sed 3\ndwiml phantom out --seed three", ["line 2: ", "line 3: "]),
        ("bash scripts/test.sh\n", []),
        ("bash scripts/tests.sh\n", ["line 1: "]),
    ],
)
def test_bad_commands_are_seen(code: str, wrong: list[str]) -> None:
    found = check_bash(Block(Path("page.rst"), 1, "bash", code))
    assert len(found) == len(wrong)
    assert all(expected in sentence for expected, sentence in zip(wrong, found, strict=True))


# The process dies in its epoch, after the loggers were called and before the checkpoint is written.
KILLED = """
import os, signal
from pathlib import Path
from small_training import small_trainer

trainer = small_trainer(Path({hdf5!r}), Path({folder!r}), max_epochs=3, resume="auto", loggers=[TableLogger({table!r})])
save = trainer.checkpointer.save

def die_or_save(*args):
    if trainer.position.epoch == {epoch} + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*args)

trainer.checkpointer.save = die_or_save
trainer.train_and_validate()
"""


@pytest.mark.slow
def test_the_table_of_the_page_has_each_epoch_once(tiny_hdf5: Path, tmp_path: Path) -> None:
    blocks = blocks_of(ROOT / "docs" / "custom_trainers.rst")
    (example,) = [block.code for block in blocks if "class TableLogger" in block.code]
    table = tmp_path / "own_logger.csv"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support"), *sys.path])}
    for epoch, nb_rows, code in ((0, 1, -signal.SIGKILL), (1, 2, -signal.SIGKILL), (9, 3, 0)):
        names = {"hdf5": str(tiny_hdf5), "folder": str(tmp_path), "table": str(table), "epoch": epoch}
        script = example.partition("\ntrainer = ")[0] + KILLED.format(**names)
        done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=120, check=False)
        assert done.returncode == code
        assert len(table.read_text().splitlines()) == nb_rows
    assert table.read_text().splitlines() == [
        f"{line['epoch']},{line['train_loss']}" for line in logs(tmp_path / "exp")
    ]
