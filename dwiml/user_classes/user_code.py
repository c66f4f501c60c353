"""Say where in the user's own code an error was raised: in a class that the user names, or in what it calls."""

from __future__ import annotations

import os
import sys
import traceback
from types import FrameType

from dwiml.user_classes.from_file import file_of, is_dwiml_module

_PACKAGES: set[str] = set()
_FOLDERS: set[str] = set()


def note_user_class(found: type) -> None:
    """Note that a class, found by the name that the user gave, is code of the user, and so are its package and parents.

    Parameters
    ----------
    found
        The class; those of dwiml, torch and Python are ignored.
    """
    for module in {each.__module__ for each in found.__mro__}:
        package, file = module.partition(".")[0], file_of(module)
        if file is not None:
            _FOLDERS.add(os.path.dirname(file))
        elif package not in {"dwiml", "torch", *sys.stdlib_module_names}:
            _PACKAGES.add(package)


def error_in_user_code(error: BaseException) -> str | None:
    """Describe an error that the user's own code has raised: ``KeyError: 'x', in my_model.py:15 (MyModel.forward)``.

    Parameters
    ----------
    error
        The error, with its traceback.

    Returns
    -------
    str or None
        Type and message of the error, and the last line of the user's code that was running. None if no code of the
        user was running, or if it had called dwiml, which raised the error: the message is then one of dwiml.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    while frames and not _is_of_user(frames[-1][0]):
        frame, _ = frames.pop()
        if is_dwiml_module(_module_of(frame)):
            return None
    if not frames:
        return None
    frame, line = frames[-1]
    code = frame.f_code
    (*_, last) = traceback.format_exception_only(type(error), error)
    # Python 3.10 has only the name of the function.
    function = getattr(code, "co_qualname", code.co_name)
    return f"{' '.join(last.split()).rstrip('.')}, in {code.co_filename}:{line} ({function})"


def _is_of_user(frame: FrameType) -> bool:
    module = _module_of(frame)
    package = module.partition(".")[0]
    if file_of(module) is not None or package in _PACKAGES:
        return True
    # A module next to the user's file, which it imports by its own name.
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None or package in {"dwiml", *sys.stdlib_module_names}:
        return False
    folder = os.path.dirname(os.path.realpath(file))
    return (os.path.dirname(folder) if os.path.basename(file) == "__init__.py" else folder) in _FOLDERS


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
