"""Matplotlib, imported whatever backend the environment names: a figure that is saved needs none."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

logger = logging.getLogger(__name__)

VALUE_COLORS = "viridis from 0.25 to 1"
"""The colour map of values along streamlines, in words."""
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


def value_colormap() -> ListedColormap:
    """Return the colour map of values along streamlines: viridis without its dark end, which black hides."""
    import_matplotlib()
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.25, 1, 256)), name=VALUE_COLORS)
