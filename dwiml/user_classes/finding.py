"""Find the class that a user names, and the name under which a class is recorded.

Only what the user names, or has installed, is imported; never what a file of an experiment names.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, TypeVar

from dwiml.arguments import did_you_mean, kind_shown, quoted, shown
from dwiml.user_classes import from_file
from dwiml.user_classes.user_code import note_user_class

Found = TypeVar("Found", bound=type[Any])
Loaded = TypeVar("Loaded")

_FORMS = "FILE.py:CLASS or package.module:CLASS"
# A training says how to resume it by the names that the user gave.
_FOUND: dict[type, str] = {}


def find_class(
    name: str | type[Any],
    base: Found,
    *,
    parameter: str,
    known: Mapping[str, str] | None = None,
    group: str | None = None,
) -> Found:
    """Return the class that a user names.

    Parameters
    ----------
    name
        ``"path/to/file.py:MyClass"``, ``"package.module:MyClass"``, a name of `known`, the name of an entry point of an
        installed package, or the class itself.
    base
        The class of which it must be a subclass.
    parameter
        Name of the parameter, for error messages.
    known
        {short name: path of a class of dwiml}.
    group
        Group of the entry points, such as ``"dwiml.models"``.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If there is no such class (similar names are suggested), it is not a subclass of `base` or does not define its
        abstract methods, or the code of its module raises an error.
    TypeError
        If `name` is neither a string nor a class.
    """
    if not isinstance(name, str):
        if not isinstance(name, type):
            raise TypeError(f"{parameter} must be a class, or text such as {_FORMS}, got {kind_shown(name)}.")
        return _checked(name, base, parameter)
    place, colon, attribute = name.rpartition(":")
    if colon:
        module = _module(place, attribute, parameter)
        found = _attribute(module, attribute, base, name, parameter)
        is_file = from_file.file_of(module.__name__) is not None
        absolute = f"{os.path.realpath(place)}:{attribute}" if is_file else name
    else:
        known, absolute = known or {}, name
        found = resolve_name(known[name]) if name in known else _installed(name, parameter, known, group)
    checked = _checked(found, base, f"{parameter} '{name}'")
    _FOUND[checked] = absolute
    note_user_class(checked)
    return checked


def found_as(found: type[Any]) -> str | None:
    """Return the name by which this process found a class, with the absolute path of its file; None if it did not."""
    return _FOUND.get(found)


def is_dwiml_class(found: type[Any]) -> bool:
    """Return whether a class is part of dwiml."""
    return from_file.is_dwiml_module(found.__module__)


def is_dwiml_path(path: str) -> bool:
    """Return whether a path returned by :func:`class_path` is that of a class of dwiml."""
    return path.startswith("dwiml.")


def class_path(found: type[Any]) -> str:
    """Return where a class is defined, as recorded for the user: ``package.module:MyClass`` or ``FILE.py:MyClass``."""
    file = from_file.file_of(found.__module__)
    if file is None and found.__module__ == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        file = None if file is None else os.path.realpath(file)
    return f"{file or found.__module__}:{found.__qualname__}"


def installed_names(group: str) -> list[str]:
    """Return the names of the entry points of a group among the installed packages, sorted; nothing is imported."""
    return sorted({each.name for each in entry_points(group=group)})


def installed_class(path: str, base: Found, group: str) -> Found | None:
    """Return the class of an installed package that was recorded under a path; None if no entry point has it.

    Only entry points of the group that have the same class name are imported, never the path.

    Parameters
    ----------
    path
        Value of :func:`class_path`, for instance of an untrusted file.
    base
        The class of which it must be a subclass.
    group
        Group of the entry points.

    Raises
    ------
    ValueError
        If the code of the package raises an error, or the class is not a subclass of `base`.
    """
    attribute = path.rpartition(":")[2]
    for entry in entry_points(group=group):
        if entry.attr == attribute:
            found = _loaded(entry, "the model")
            if isinstance(found, type) and class_path(found) == path:
                checked = _checked(found, base, f"The model '{entry.name}'")
                note_user_class(checked)
                return checked
    return None


def _installed(name: str, parameter: str, known: Mapping[str, str], group: str | None) -> Any:
    entries = () if group is None else entry_points(group=group, name=name)
    if len({each.value for each in entries}) > 1:
        raise ValueError(
            f"{parameter} '{name}' is the name of several installed classes: "
            f"{quoted(sorted({each.value for each in entries}))}; give one of these."
        )
    if entries:
        return _loaded(next(iter(entries)), parameter)
    if name.endswith(".py"):
        classes = _classes_in_source(Path(name))
        end = f"; the classes of the file are {quoted(classes, limit=5)}" if classes else ""
        raise ValueError(f"{parameter} '{name}' names no class: give FILE.py:CLASS{end}.")
    names = [*known, *(() if group is None else installed_names(group))]
    end = _suggestion(name, names, f"; known names are {quoted(names)}." if names else ".")
    raise ValueError(f"{parameter} must be {_FORMS}{' or a known name' if names else ''}, got {shown(name)}{end}")


def _loaded(entry: EntryPoint, parameter: str) -> Any:
    package = getattr(entry.dist, "name", None) or "an installed package"
    return _run(entry.load, f"{parameter} '{entry.name}' ({entry.value}, of {package})", None)


def _module(place: str, attribute: str, parameter: str) -> ModuleType:
    """Import the file or the module that a user names."""
    if place.endswith(".py") or os.sep in place:
        path = Path(place)
        if os.path.exists(path) and not os.path.isfile(path):
            kind = "a folder" if os.path.isdir(path) else "a device or a pipe"
            raise ValueError(f"{parameter}: '{path}' is {kind}, not a Python file (.py).")
        if not os.path.isfile(path):
            names = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise FileNotFoundError(f"{parameter}: '{path}' was not found{_suggestion(path.name, names)}")
        if path.suffix != ".py":
            raise ValueError(f"{parameter}: '{path}' is not a Python file (.py).")
        return _run(lambda: from_file.import_file(path), f"{parameter} '{place}:{attribute}'", path)
    if not place or not all(part.isidentifier() for part in place.split(".")):
        raise ValueError(f"{parameter} must be {_FORMS}, got {shown(f'{place}:{attribute}')}.")

    def import_module() -> ModuleType:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            file = f"{place.replace('.', os.sep)}.py"
            hint = f"did you mean {file}:{attribute}?" if Path(file).is_file() else "for a file, give FILE.py:CLASS."
            raise _NotFoundError(f"{parameter}: there is no module '{error.name}'; {hint}") from error

    return _run(import_module, f"{parameter} '{place}:{attribute}'", None)


class _NotFoundError(ValueError):
    """There is no such module."""


def _run(load: Callable[[], Loaded], what: str, file: Path | None) -> Loaded:
    """Run code of the user; an error of it becomes one sentence, with the place of the error."""
    try:
        return load()
    except _NotFoundError:
        raise
    except from_file.OtherModuleError as error:
        raise ValueError(f"{what} cannot be imported: {error}.") from error
    except SystemExit as error:
        raise ValueError(
            f"{what} cannot be imported, because its module ends the program ({_place_of(error, file)}): put what a "
            "script does under 'if __name__ == \"__main__\":'."
        ) from error
    except Exception as error:
        (*_, last) = traceback.format_exception_only(type(error), error)
        reason = " ".join(last.split()).rstrip(".")
        if isinstance(error, ImportError) and (error.name or "").startswith(from_file.__name__):
            reason = f"{type(error).__name__}: relative imports need a package, so give package.module:CLASS"
        raise ValueError(f"{what} cannot be imported: {reason}, in {_place_of(error, file)}.") from error


def _place_of(error: BaseException, file: Path | None) -> str:
    """Return FILE:LINE of an error: the last line of the user's file that was running, or else the last line of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    own = [each for each in frames if file is not None and each.filename == os.path.realpath(file)]
    place = (own or frames)[-1]
    return f"{place.filename}:{place.lineno}"


def _attribute(module: ModuleType, attribute: str, base: type[Any], name: str, parameter: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is not None:
        return found
    own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    names = [each.__qualname__ for each in own if issubclass(each, base)] or [each.__qualname__ for each in own]
    end = _suggestion(attribute, names, f"; its classes are {quoted(names, limit=5)}.")
    raise ValueError(f"{parameter} '{name}': there is no class {shown(attribute)}{end}")


def _checked(found: Any, base: Found, what: str) -> Found:
    if not isinstance(found, type):
        raise ValueError(f"{what} is {kind_shown(found)}, not a class.")
    if not issubclass(found, base):
        raise ValueError(f"{what} is not a subclass of dwiml's {base.__name__}.")
    missing = sorted(getattr(found, "__abstractmethods__", ())) if inspect.isabstract(found) else []
    if missing:
        raise ValueError(f"{what} does not define {' and '.join(missing)}, which {base.__name__} requires.")
    return found  # type: ignore[return-value]


def _classes_in_source(path: Path) -> list[str]:
    """Return the names of the classes of a file, without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _suggestion(unknown: str, names: list[str], otherwise: str = ".") -> str:
    """Return the end of a sentence about an unknown name: similar names, or the given text."""
    close = [each for each in names if each.lower() == unknown.lower()] or difflib.get_close_matches(unknown, names)
    return f"; {did_you_mean(close)}" if close else otherwise
