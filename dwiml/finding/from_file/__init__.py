"""Files that users name, imported as submodules of this package: ``my_model.py`` as ``my_model_<its path in hex>``.

The name of the module holds the path of its file. A process that unpickles an object of such a class, for instance a
data-loading worker, therefore imports the same file; and a file that is named twice is imported once.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


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
    Exception
        Any error of the code of the file.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    if folder not in sys.path:
        # At the end: the modules of the folder must not hide those of Python and of installed packages.
        sys.path.append(folder)
    return importlib.import_module(f"{__name__}.{re.sub(r'[^a-zA-Z0-9]', '_', Path(real).stem)}_{_hex(real)}")


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


def is_of_dwiml(module: str) -> bool:
    """Return whether a module, by its full name, is one of dwiml itself, not a file of the user."""
    return f"{module}.".startswith("dwiml.") and file_of(module) is None


def _hex(path: str) -> str:
    return os.fsencode(path).hex()


if not any(isinstance(each, _FileFinder) for each in sys.meta_path):
    sys.meta_path.append(_FileFinder())
