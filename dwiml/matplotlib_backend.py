"""Matplotlib, imported whatever backend the environment names: a figure that is saved needs none."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger(__name__)

_VARIABLE = "MPLBACKEND"


def import_matplotlib() -> None:
    """Import matplotlib; without this, it fails where ``MPLBACKEND`` names a backend that is not installed.

    A notebook sets this variable for all programs that are started in it, in environments of their own too. A backend
    that is there stays chosen, for windows and notebooks.
    """
    named = os.environ.get(_VARIABLE)
    if not named or "matplotlib" in sys.modules:
        return
    del os.environ[_VARIABLE]
    try:
        import matplotlib as mpl

        mpl.rcParams["backend"] = named
    except ValueError:
        logger.info("matplotlib has no backend '%s' here, which %s names; it is not used.", named, _VARIABLE)
    finally:
        os.environ[_VARIABLE] = named
