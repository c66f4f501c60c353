"""Import matplotlib even if the environment names a missing backend, which is not needed to save figures."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

logger = logging.getLogger(__name__)

VALUE_COLORS = "viridis from 0.25 to 1"
"""Name of the colormap of values along streamlines."""
_VARIABLE = "MPLBACKEND"


def import_matplotlib() -> None:
    """Import matplotlib, which would fail if ``MPLBACKEND`` names a backend that is not installed.

    A notebook sets this variable for all programs started in it, even those in other environments. An installed backend
    is kept.
    """
    named = os.environ.get(_VARIABLE)
    if not named or "matplotlib" in sys.modules:
        return
    del os.environ[_VARIABLE]
    try:
        import matplotlib as mpl

        mpl.rcParams["backend"] = named
    except ValueError:
        logger.info("The matplotlib backend '%s', given by %s, is not installed; it is ignored.", named, _VARIABLE)
    finally:
        os.environ[_VARIABLE] = named


def value_colormap() -> ListedColormap:
    """Return the colormap of values along streamlines: viridis without its dark end, invisible on black."""
    import_matplotlib()
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.25, 1, 256)), name=VALUE_COLORS)
