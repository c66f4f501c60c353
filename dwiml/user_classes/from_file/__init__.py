"""Files that users name, imported as submodules of this package: ``my_model.py`` as ``my_model_<its path in hex>``.

The name of the module holds the path of its file. A process that unpickles an object of such a class, for instance a
data-loading worker, therefore imports the same file; and a file that is named twice is imported once.

The modules next to the file keep their own names, which are those of the whole process: one that has the name of
another module is an error, as the file would silently run the other one.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


class OtherModuleError(ImportError):
    """A module next to a user's file has the name of another module, which would be imported instead."""


class _FileFinder(MetaPathFinder):
    """Finds the file of a module of this package, for Python's import system."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of this package; None for other modules."""
        file = file_of(fullname)
        return None if file is None else spec_from_file_location(fullname, file)


def import_file(path: str | Path) -> ModuleType:
    """Import a Python file; if it was imported before, return the same module.

    Its folder is appended to ``sys.path``, so that the file can import the modules next to it.

    Parameters
    ----------
    path
        The file; links are followed.

    Raises
    ------
    OtherModuleError
        If a module next to the file has the name of another module, which would be imported instead.
    Exception
        Any error of the code of the file.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    name = f"{__name__}.{re.sub(r'[^a-zA-Z0-9]', '_', Path(real).stem)}_{_hex(real)}"
    if folder not in sys.path:
        # At the end: the modules of the folder must not hide those of Python and of installed packages. It stays, for
        # modules that are imported when a function runs, and for the processes that multiprocessing starts.
        sys.path.append(folder)
    if name not in sys.modules:
        _check_neighbors(Path(real))
    return importlib.import_module(name)


def file_of(module: str) -> str | None:
    """Return the path of the file of a module of this package; None for another module.

    Parameters
    ----------
    module
        Full name of the module.
    """
    package, _, name = module.rpartition(".")
    if package != __name__:
        return None
    try:
        return os.fsdecode(bytes.fromhex(name.rpartition("_")[2]))
    except ValueError:
        return None


def is_dwiml_module(module: str) -> bool:
    """Return whether a module, by its full name, is one of dwiml itself, not a file of the user."""
    return f"{module}.".startswith("dwiml.") and file_of(module) is None


def _hex(path: str) -> str:
    return os.fsencode(path).hex()


def _check_neighbors(file: Path) -> None:
    """Check that a file, and the modules next to it that it imports, get the modules of their own folder."""
    # In a package, an absolute import of a name of Python's library means that one; its own modules are relative.
    others = {"dwiml", *(sys.stdlib_module_names if (file.parent / "__init__.py").is_file() else ())}
    waiting, seen = [file], {file}
    while waiting:
        importing = waiting.pop()
        for name in sorted(_imported_names(importing) - others):
            neighbor = _neighbor(importing.parent if importing.name != "__init__.py" else file.parent, name)
            if neighbor is None or neighbor in seen:
                continue
            origin = _origin(name)
            if origin is None or not _is_same_module(Path(origin), neighbor):
                raise OtherModuleError(
                    f"'{importing}' imports '{name}', which is already the name of another module "
                    f"({origin or 'built into Python'}) than its neighbor '{neighbor}': rename the neighbor, or make a "
                    "package of the folder and give package.module:CLASS"
                )
            seen.add(neighbor)
            waiting.append(neighbor)


def _neighbor(folder: Path, name: str) -> Path | None:
    """Return the file of a module or of a package in a folder."""
    places = (folder / name / "__init__.py", folder / f"{name}.py")
    return next((each for each in places if each.is_file()), None)


def _origin(name: str) -> str | None:
    """Return the file that ``import name`` gives in this process, without importing it."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    spec = find_spec(name)
    return None if spec is None or not spec.has_location else spec.origin


def _is_same_module(one: Path, other: Path) -> bool:
    """Return whether two files are the same, or copies of one module: a package would have other files too."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    is_module = other.name != "__init__.py" and one.name == other.name and one.is_file()
    return is_module and one.read_bytes() == other.read_bytes()


def _imported_names(file: Path) -> set[str]:
    """Return the top-level names of the absolute imports of a file; none if it is not valid Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    names = {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {each.partition(".")[0] for each in names} - {""}


# On import: a process that unpickles an object of a user's class imports this package only.
if not any(isinstance(each, _FileFinder) for each in sys.meta_path):
    sys.meta_path.append(_FileFinder())
