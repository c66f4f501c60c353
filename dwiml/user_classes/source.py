"""Tell the user when a class is not the recorded one of the same name: it is of another file, or its file changed."""

from __future__ import annotations

import hashlib
import logging
import sys
from typing import Any

from dwiml.user_classes import from_file
from dwiml.user_classes.finding import class_path, is_dwiml_class

logger = logging.getLogger(__name__)

_SAID: set[str] = set()
_DIGESTS: dict[type, str | None] = {}


def source_digest(found: type[Any]) -> str | None:
    """Return the SHA-256 of the file that defines a class of the user, in hexadecimal.

    The file is read once per class, so that later changes of the file are not mistaken for the code in use.

    Parameters
    ----------
    found
        The class.

    Returns
    -------
    str or None
        The digest; None for a class of dwiml, and for one whose file cannot be read (that of a notebook).
    """
    if found not in _DIGESTS:
        _DIGESTS[found] = None if is_dwiml_class(found) else _digest(found)
    return _DIGESTS[found]


def _digest(found: type[Any]) -> str | None:
    file = from_file.file_of(found.__module__) or getattr(sys.modules.get(found.__module__), "__file__", None)
    try:
        with open(str(file), "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return None


def warn_of_other_source(found: type[Any], path: str | None, digest: str | None, what: str) -> None:
    """Warn, once per process, if a class of the user is not the recorded one of the same name.

    Two files of the same content hold the same class, wherever they are. A script that is run again may have changed:
    it holds the choices of the training too, which are compared one by one.

    Parameters
    ----------
    found
        The class that will be used.
    path, digest
        Values of :func:`dwiml.user_classes.finding.class_path` and of :func:`source_digest` of the recorded class; None
        if they were not recorded.
    what
        What has the class, such as "The model of 'exp'", for the warning.
    """
    if path is None or is_dwiml_class(found):
        return
    now, current = class_path(found), source_digest(found)
    same_content = digest is not None and digest == current
    if same_content and path.rpartition(":")[2] == now.rpartition(":")[2]:
        return
    if path != now:
        message = (
            f"{what} was recorded with the class '{path[:300]}', and is now used with '{now}'. Check that both compute "
            "the same: otherwise, the weights do not belong to this class."
        )
    elif digest is not None and current is not None and found.__module__ != "__main__":
        message = (
            f"{what} is used with the class '{now}', whose file has changed since it was recorded. Check that it still "
            "computes the same: otherwise, the weights do not belong to this class."
        )
    else:
        return
    if message not in _SAID:
        _SAID.add(message)
        logger.warning("%s", message)
