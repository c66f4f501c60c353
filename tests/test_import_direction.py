"""Imports point one way: a room sees those before it, never those after it."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import dwiml
from dwiml.cli.main import COMMANDS

PACKAGE = Path(dwiml.__file__).parent

# Modules that import nothing, or only another leaf.
LEAVES = {
    "seeding",
    "signals",
    "failures",
    "arguments",
    "files",
    "user_classes",
    "matplotlib_backend",
    "overriding",
    "params",
    "ops",
    "hdf5.directions",
    "hdf5.schema",
    "hdf5.stored",
}
# What each room may import beside itself. A dotted name is a single module, or a folder inside a room.
ROOMS = {
    "arguments": set(),
    "files": {"arguments"},
    "user_classes": {"arguments"},
    "matplotlib_backend": set(),
    "overriding": {"arguments", "user_classes"},
    "params": {"arguments", "overriding"},
    "signals": set(),
    "failures": {"user_classes"},
    "seeding": {"ops", "params"},
    "ops": {"arguments"},
    "tractograms": {"arguments", "files", "params", "ops"},
    "hdf5": LEAVES | {"tractograms"},
    "data": LEAVES | {"tractograms"},
    "batching": LEAVES | {"data"},
    "models": LEAVES - {"hdf5.directions", "hdf5.schema", "hdf5.stored"},
    "tracking": LEAVES | {"data", "models", "tractograms"},
    "training": LEAVES | {"data", "batching", "models"},
    "importing": LEAVES | {"data", "models", "tractograms", "training"},
    "evaluation": LEAVES | {"data", "batching", "models", "training", "tractograms"},
    "trained": LEAVES | {"data", "batching", "models", "tracking", "training", "tractograms"},
    "viz": {
        "arguments",
        "files",
        "matplotlib_backend",
        "ops",
        "params",
        "tractograms",
        "importing.logs",
        "training.experiment.lock",
        "training.reporting.events",
        "training.reporting.loggers",
        "training.reporting.metrics",
    },
    "inspection": LEAVES | {"hdf5.inputs.connectivity", "data", "models", "tractograms", "training", "viz"},
    "phantom": {"files", "ops", "params"},
    "scoring": LEAVES | {"hdf5.inputs.connectivity", "tractograms"},
    "curation": {"arguments", "files", "ops", "tractograms", "scoring"},
    "cli": LEAVES
    | {"tractograms", "hdf5", "data", "batching", "models", "tracking", "training", "evaluation", "viz", "phantom"}
    | {"scoring", "curation", "importing", "inspection", "trained"},
}
# Reading of an HDF5 file knows nothing of how one is made.
_STORED_NAMES = (
    *("collection", "datasets", "digests", "fingerprint", "heaps", "identity", "layout", "links", "nodes"),
    *("open_file", "provenance"),
)
STORED = ("", *(f".{name}" for name in _STORED_NAMES))
# Modules that see otherwise than their room.
MODULES = {
    "hdf5.schema": {"files", "ops"},
    **{f"hdf5.stored{name}": {"arguments", "files", "hdf5.schema", "hdf5.stored"} for name in STORED},
    # It summarizes the affines of the training subjects.
    "hdf5.stored.provenance": {"arguments", "files", "hdf5.schema", "hdf5.stored", "ops"},
    **{
        f"hdf5.directions{name}": {"arguments", "files", "hdf5.schema", "hdf5.stored", "hdf5.directions", "ops"}
        for name in ("", ".alignment", ".recorded", ".sidecar")
    },
    "tracking.sources": ROOMS["tracking"] | {"tracking", "hdf5.inputs.standalone", "hdf5.inputs.standardization"},
    # DIPY and scilpy keep streamlines in HDF5 files, which are read with the same checks as those of dwiml.
    "tractograms.in_hdf5": ROOMS["tractograms"] | {"tractograms", "hdf5.stored"},
    # A finished training draws its curves for the services, if there are any.
    "training.reporting.loggers": ROOMS["training"] | {"training", "viz.logs"},
    "training.generation.phase": ROOMS["training"] | {"training", "tracking", "tractograms", "scoring"},
    "training.generation.settings": ROOMS["training"] | {"training", "tracking"},
    "training.generation.measures": ROOMS["training"] | {"training", "scoring"},
}


def _is_type_checking(node: ast.If) -> bool:
    return "TYPE_CHECKING" in {getattr(node.test, "id", None), getattr(node.test, "attr", None)}


def _statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run, those inside functions too; imports for annotations only do not tie modules."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and _is_type_checking(node):
            for other in node.orelse:
                yield from _statements(ast.Module([other], []))
        else:
            yield from _statements(node)


@functools.cache
def _exists(module: str) -> bool:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _imported_by_name(tree: ast.AST) -> set[str]:
    """Return the modules whose names, as literals, are given to ``import_module``."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    return {
        str(call.args[0].value)
        for call in calls
        if "import_module" in {getattr(call.func, "id", None), getattr(call.func, "attr", None)}
        and isinstance(call.args[0], ast.Constant)
    }


@functools.cache
def imported_modules(source: str, package: str) -> frozenset[str]:
    """Return the dwiml modules that a source imports, without ``dwiml.``; `package` is where the source stands."""
    tree = ast.parse(source)
    found = _imported_by_name(tree)
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            above = package.split(".")
            base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            if base == "dwiml" and alias.name in dwiml._MODULE_OF:
                found.add(dwiml._MODULE_OF[alias.name])
            else:
                found.add(name if _exists(name) else base)
    return frozenset(name.removeprefix("dwiml.") for name in found if name.startswith("dwiml."))


def forbidden_imports(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return the imports of a module (named without ``dwiml.``) that point the wrong way."""
    room = module.split(".")[0]
    allowed = MODULES.get(module, ROOMS[room] | {room})
    package = f"dwiml.{module}" if is_package else f"dwiml.{module}".rpartition(".")[0]
    return sorted(
        target
        for target in imported_modules(source, package)
        if not any(f"{target}.".startswith(f"{name}.") for name in allowed)
    )


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in {"__init__"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert module.split(".")[0] in ROOMS, f"{module} is in no known room: say in ROOMS what it may import."
    assert not forbidden_imports(path.read_text(encoding="utf-8"), module, is_package=is_package)


def test_each_command_is_one_module() -> None:
    names = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    assert names == {*COMMANDS, "main", "__init__"}, "What commands share is in a folder of dwiml/cli."


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("ops.sequences", "import dwiml.data.dataset", ["data.dataset"]),
        ("ops.sequences", "from dwiml.params import Parameterized", ["params"]),
        ("ops.sequences", "from dwiml.ops import randomness\nimport torch", []),
        ("models.base", "def f():\n    from dwiml.data import dataset", ["data.dataset"]),
        ("models.base", "from dwiml import MultiSubjectDataset", ["data.dataset"]),
        ("models.base", "from dwiml import __version__", []),
        ("models.base", "import importlib\nimportlib.import_module('dwiml.viz.logs')", ["viz.logs"]),
        (
            "models.base",
            "if TYPE_CHECKING:\n    from dwiml.data.dataset import X\nelse:\n    import dwiml.viz",
            ["viz"],
        ),
        ("models.base", "from ..hdf5 import schema\nfrom . import one_input", ["hdf5.schema"]),
        ("tractograms.reading", "from dwiml.hdf5.schema import VERSION", ["hdf5.schema"]),
        ("tractograms.reading", "from dwiml.files.images import readable\nfrom dwiml.ops import spaces", []),
        ("data.volumes", "from dwiml.tractograms.grid import Grid", []),
        ("tracking.tracker", "from dwiml.hdf5.inputs.standalone import read_mask", ["hdf5.inputs.standalone"]),
        ("data.dataset", "from dwiml.hdf5.schema import VERSION", []),
        ("data.dataset", "from dwiml.hdf5.creator import create_hdf5", ["hdf5.creator"]),
        (
            "data.dataset",
            "try:\n    from dwiml.batching.sampler import X\nexcept ImportError:\n    pass",
            ["batching.sampler"],
        ),
        ("hdf5.schema", "import dwiml.hdf5.creator", ["hdf5.creator"]),
        ("hdf5.stored.nodes", "import dwiml.hdf5.creator", ["hdf5.creator"]),
        ("training.trainer", "from dwiml.tracking.propagation import X", ["tracking.propagation"]),
        ("training.generation.phase", "from dwiml.tracking.propagation import X", []),
        (
            "viz.logs",
            "from dwiml.training.reporting.loggers.local import X\nfrom dwiml.training.trainer import Y",
            ["training.trainer"],
        ),
    ],
)
def test_the_check_sees_what_is_forbidden(module: str, source: str, expected: list[str]) -> None:
    assert forbidden_imports(source, module) == expected


def _reached_by(module: str) -> set[str]:
    """Return a module and all modules that it imports, directly or through others."""
    seen: set[str] = set()
    left = [module]
    while left:
        current = left.pop()
        path = PACKAGE.joinpath(*current.split("."))
        is_room = (path / "__init__.py").is_file()
        file = path / "__init__.py" if is_room else path.with_suffix(".py")
        if current in seen or not file.is_file():
            continue
        seen.add(current)
        package = current if is_room else current.rpartition(".")[0]
        left += imported_modules(file.read_text(), f"dwiml.{package}".rstrip("."))
    return seen


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_that_writes_a_tractogram_has_a_sidecar(command: str) -> None:
    writers = {"tractograms.writing.writer", "tractograms.writing.with_data"}
    writes = bool(writers & _reached_by(f"cli.{command}"))
    options = set()
    if command != "train":
        parser = importlib.import_module(f"dwiml.cli.{command}").build_parser()
        options = {option for action in parser._actions for option in action.option_strings}
    assert ("--sidecar" in options) == writes
