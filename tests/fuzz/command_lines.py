"""Odd command lines of every command: valid ones, and then changed a little, each a function of its number.

Run as a program, it runs some of them and prints what came of them: ``command_lines.py FIRST LAST [COMMAND ...]``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shlex
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from command_line_words import BASES, EXTREMES, LEFT_OUT, LONG_WORK, NUMBERS, OUTPUTS, TEXTS, WORDS
from fuzzing import Outcome, give_up_root, run_watched

import dwiml
from dwiml.cli.main import COMMANDS, main

FIGURES = ("curves.png", "curves_compared.png")


@dataclass(frozen=True)
class CommandLine:
    """What is run, below the folder of the files."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["dwiml", *self.words]).encode(errors="backslashreplace").decode()


def add_odd_files(world: Path) -> None:
    """Add to :func:`small_world.make_world` what no command can read, or only by another name."""
    odd = world / "odd"
    odd.mkdir()
    # What a resumed one is put back from.
    shutil.copytree(world / "exps", world / "subjects" / "exps")
    shutil.copytree(world / "images", world / "masks", ignore=shutil.ignore_patterns("input*"))
    for suffix in ("trk", "tck", "trx", "nii.gz", "nii", "hdf5", "json", "npy", "txt", "png"):
        (odd / f"empty.{suffix}").touch()
    for name in ("lines.trk", "lines.tck", "lines.trx", "data.hdf5", "matrix.npy", "config.json", "images/mask.nii.gz"):
        content = (world / name).read_bytes()
        short = Path(name).name
        (odd / f"cut-{short}").write_bytes(content[: 2 * len(content) // 3])
        (odd / f"head-{short}").write_bytes(content[:100])
        # The content of one kind under the names of others.
        for suffix in ("trk", "nii.gz", "json", "hdf5", "npy", "trx"):
            (odd / f"{short.replace('.', '-')}.{suffix}").write_bytes(content)
    for name in ("pipe", "pipe.trk", "pipe.nii.gz", "pipe.json", "pipe.hdf5"):
        os.mkfifo(odd / name)
    (odd / "loop.trk").symlink_to("loop.trk")
    (odd / "gone.nii.gz").symlink_to("nowhere.nii.gz")
    (odd / "folder.trk").mkdir()
    (odd / "folder.trx").mkdir()
    shutil.copy(world / "lines.trk", odd / "h\u00e9 llo\n.trk")
    shutil.copy(world / "lines.trk", odd / "-f.trk")
    (odd / "unreadable.trk").write_bytes(b"TRACK")
    (odd / "unreadable.trk").chmod(0)
    np.save(odd / "objects.npy", np.array([{}], dtype=object))
    np.save(odd / "nan.npy", np.full((3, 3), np.nan))
    for name, text in {
        "list.json": "[1]",
        "deep.json": "[" * 10**5,
        "number.json": "7",
        "bom.json": "\ufeff{}",
    }.items():
        (odd / name).write_text(text)


def prepare(world: Path) -> None:
    """Empty ``out`` and put there what may be replaced or resumed."""
    out = world / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    shutil.copytree(world / "exps" / "exp", out / "exp")
    for suffix in ("trk", "json", "npy", "hdf5", "png"):
        (out / f"folder.{suffix}").mkdir()
    for name in ("old.trk", "old.json", "old.npy", "old.hdf5", "old.png"):
        # Only an HDF5 file is replaced by one.
        (out / name).write_bytes(b"\x89HDF\r\n\x1a\nolder")


class CommandLines:
    """The odd lines.

    Parameters
    ----------
    world
        The folder of the files: :func:`small_world.make_world` and :func:`add_odd_files`.
    commands
        Only lines of these; all without any.
    seed
        Of all that is drawn.
    """

    def __init__(self, world: Path, commands: Sequence[str] = (), seed: int = 0) -> None:
        self._seed = seed
        bases = [tuple(shlex.split(base)) for base in BASES]
        # A command that has no line here is run with odd options alone.
        known = {base[0] for base in bases}
        bases += [(name,) for name in COMMANDS if name not in known]
        self._bases = [base for base in bases if not commands or base[0] in commands]
        self._options = {name: _options(name) for name in COMMANDS}
        self._files = sorted(
            os.path.relpath(os.path.join(parent, name), world)
            for parent, folders, files in os.walk(world)
            for name in (*folders, *files)
            if not parent.startswith(f"{world}/out")
        )
        self._odd = [path for path in self._files if path.startswith("odd/")]

    def line(self, number: int) -> CommandLine:
        """Return one of the lines; the first ones are those without a change."""
        if number < len(self._bases):
            return CommandLine(self._bases[number])
        rng = np.random.default_rng([self._seed, number])
        words = list(_one_of(rng, self._bases))
        # Phantom and training take seconds, so they are drawn less often.
        if words[0] in ("phantom", "train") and rng.random() < 0.7:
            words = list(_one_of(rng, self._bases))
        ways = (self._value, self._value, self._path, self._path, self._output, self._option, self._word)
        changes = [_one_of(rng, ways) for _ in range(1 + int(rng.random() < 0.3))]
        # An output last: another file in its place could be one that may be replaced.
        for change in sorted(changes, key=lambda each: each == self._output):
            words = change(rng, words)
        return CommandLine(tuple(words))

    def _value(self, rng: np.random.Generator, words: list[str]) -> list[str]:
        """Give an option that is there an odd value."""
        names = [i for i, word in enumerate(words) if word.startswith("--")]
        places = [i + 1 for i in names if i + 1 < len(words) and not words[i + 1].startswith("--")]
        if not places:
            return self._option(rng, words)
        place = _one_of(rng, places)
        words[place] = self._odd_value(rng, words[place - 1][2:])
        return words

    def _odd_value(self, rng: np.random.Generator, option: str) -> str:
        if option in OUTPUTS:
            # A file that is there and not read may be replaced.
            return _one_of(rng, NUMBERS + TEXTS)
        if rng.random() < 0.6:
            return _one_of(rng, NUMBERS if option in LONG_WORK else NUMBERS + EXTREMES)
        return _one_of(rng, TEXTS + WORDS) if rng.random() < 0.7 else _one_of(rng, self._files)

    def _path(self, rng: np.random.Generator, words: list[str]) -> list[str]:
        """Give another file in the place of one that is read."""
        places = [i for i, word in enumerate(words) if i and word in self._files]
        if not places:
            return self._word(rng, words)
        words[_one_of(rng, places)] = _one_of(rng, self._odd if rng.random() < 0.7 else self._files)
        return words

    def _output(self, rng: np.random.Generator, words: list[str]) -> list[str]:
        """Write to what is read, to an experiment, to what is no file, or to an older file."""
        places = [i for i, word in enumerate(words) if word.startswith("out/")]
        if not places:
            return self._option(rng, words)
        place = _one_of(rng, places)
        suffix = words[place][words[place].rfind(".") :] if "." in words[place] else ""
        # In a folder that is read, a new file may be made.
        read = [word for word in words if word in self._files and "." in word]
        odd = ["odd/pipe", "odd/loop.trk", f"out/{'x' * 300}{suffix}", "out/new/deep/file.json"]
        odd += ["out/\udcff.trk", f"out/\udcff{suffix}", f"out/\u00e9 \u4e2d{suffix}", f"out/old{suffix}/x{suffix}"]
        odd += ["", ".", "/", f"out/old{suffix}", f"out/folder{suffix}"]
        # Another result may well be put beside an experiment that is not used.
        if any(word.startswith("exps/") for word in words):
            odd += [f"exps/exp/o{suffix}", "exps/exp/parameters.json", "exps/exp/best_model/model_state.pt"]
        words[place] = _one_of(rng, read if read and rng.random() < 0.4 else odd)
        if rng.random() < 0.5:
            words.append("-f")
        return words

    def _option(self, rng: np.random.Generator, words: list[str]) -> list[str]:
        """Add an option, or one that does not exist."""
        options = self._options[words[0]]
        if not options or rng.random() < 0.1:
            return [*words, _one_of(rng, ("--nonsense", "--f", "-z", "--json", "--out=", "--=1", "--seed=1"))]
        flag, nb_values = _one_of(rng, options)
        return [*words, flag, *(self._odd_value(rng, flag.lstrip("-")) for _ in range(nb_values))]

    def _word(self, rng: np.random.Generator, words: list[str]) -> list[str]:
        """Drop a word, repeat one, swap two, or put text in the place of one."""
        place = int(rng.integers(1, len(words))) if len(words) > 1 else 0
        how = rng.integers(4)
        if not place:
            return [*words, _one_of(rng, TEXTS)]
        if how == 0:
            del words[place]
        elif how == 1:
            words.insert(place, words[place])
        elif how == 2:
            other = int(rng.integers(1, len(words)))
            words[place], words[other] = words[other], words[place]
        elif words[place - 1].lstrip("-") not in LEFT_OUT:
            words[place] = _one_of(rng, TEXTS)
        return words


def run(world: Path, line: CommandLine, most_seconds: float = 20.0) -> Outcome:
    """Run a line in its own process, in the folder of the files.

    What may change: ``out``, the figures of ``visualize_logs``, and what is new beside all that was there.
    """
    prepare(world)
    there = {path.name for path in world.iterdir()}
    figures = [folder / name for folder in (world / "exps").glob("**/") for name in FIGURES]
    resumed = [world / "exps"] if "resume" in line.words[:1] else []
    try:
        outcome = run_watched(
            lambda: _act(line),
            watched=[world],
            outputs=[world / "out", *figures, *resumed],
            cwd=world,
            most_seconds=most_seconds,
        )
    finally:
        for path in figures:
            if path.is_file():
                path.unlink()
        for path in resumed:
            shutil.rmtree(path)
            shutil.copytree(world / "subjects" / "exps", path)
        new = [path for path in world.iterdir() if path.name not in there]
        for path in new:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    touched = [each for each in outcome.touched if Path(each).relative_to(world).parts[0] in there]
    return replace(outcome, touched=touched)


def _act(line: CommandLine) -> int:
    import torch

    # Threads of the process before the fork are not here.
    torch.set_num_threads(1)
    warnings.resetwarnings()
    give_up_root()
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        os.environ.pop(name, None)
    sys.argv[0] = "dwiml"
    return main(list(line.words))


def _options(command: str) -> list[tuple[str, int]]:
    """Return the options of a command, and how many values to give each."""
    module = importlib.import_module(f"dwiml.cli.{command}")
    parsers = (
        [module.build_model_parser(name) for name in module.MODELS] if command == "train" else [module.build_parser()]
    )
    actions = [action for parser in parsers for action in parser._actions]
    found = []
    for action in actions:
        if action.option_strings and action.dest not in LEFT_OUT:
            nb = action.nargs if isinstance(action.nargs, int) else 1
            found.append((action.option_strings[-1], nb))
    return found


def _one_of(rng: np.random.Generator, choices):  # type: ignore[no-untyped-def]
    return choices[int(rng.integers(len(choices)))]


def make(world: Path) -> None:
    """Make the files in a process of its own: a process that has used torch's threads cannot be forked well."""
    outcome = run_watched(lambda: _make(world), most_seconds=120)
    assert outcome.code == 0, outcome.err


def make_again(world: Path, name: str) -> None:
    """Put a file back as it was, from where its content is kept under another name."""
    shutil.copy(world / "odd" / f"{name.replace('.', '-')}.json", world / name)


def _make(world: Path) -> int:
    import h5py
    from small_world import add_transformer, make_world

    make_world(world)
    add_transformer(world)
    shutil.copy(world / "data.hdf5", world / "connected.hdf5")
    with h5py.File(world / "connected.hdf5", "r+") as handle:
        matrix = handle["sub-a/streamlines"].create_dataset("connectivity_matrix", data=np.ones((8, 8)))
        matrix.attrs["connectivity_matrix_type"] = "from_blocs"
        handle["sub-a/streamlines"].attrs["connectivity_nb_blocs"] = [2, 2, 2]
    add_odd_files(world)
    return 0


def import_all() -> None:
    """Import what the commands import when they run, so that each run does not."""
    for module in pkgutil.walk_packages(dwiml.__path__, "dwiml."):
        importlib.import_module(module.name)
    importlib.import_module("matplotlib.backends.backend_agg")
    importlib.import_module("matplotlib.backends.backend_svg")
    importlib.import_module("dipy.io.streamline")


def run_some(first: int, last: int, commands: Sequence[str]) -> None:
    """Run some lines and tell what came of them."""
    import_all()
    world = Path(tempfile.mkdtemp(prefix="dwiml_fuzz_"))
    make(world)
    lines, counts = CommandLines(world, commands), Counter[str]()
    for number in range(first, last):
        line = lines.line(number)
        outcome = run(world, line)
        counts[outcome.kind] += 1
        if outcome.is_fault or number < len(BASES):
            sys.stdout.write(f"#{number} {described(line, outcome)}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{dict(counts)}\n")
    shutil.rmtree(world)


def described(line: CommandLine, outcome: Outcome) -> str:
    """Return what came of a line, for people."""
    last = outcome.err.strip().splitlines()[-4:]
    told = [f"{outcome.kind} ({outcome.seconds:.1f} s): {line}", *outcome.touched, *last]
    return "\n    ".join(told)


if __name__ == "__main__":
    run_some(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
