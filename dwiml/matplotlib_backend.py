"""Import matplotlib even if the environment names a missing backend, which is not needed to save figures."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.colors import ListedColormap

logger = logging.getLogger(__name__)

VALUE_COLORS = "viridis from 0.25 to 1"
"""Name of the colormap of values along streamlines."""
COLOR_QUANTILES = (0.05, 0.95)
"""Quantiles of the values at the ends of the color map: a few extreme values would give all others the same color."""
_COLOR_WITHOUT_VALUE = (128.0, 128.0, 128.0)
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


def value_colors(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """Return a color for each value, to be stored in a tractogram.

    Parameters
    ----------
    values : (N,)
        Values at points, such as losses.
    low, high
        Values at the two ends of the color map; those outside this range get the color of the nearest end.

    Returns
    -------
    (N, 3) float32
        Red, green and blue, from 0 to 255; gray for NaN.
    """
    import numpy as np

    share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.0)
    colors: npt.NDArray[np.float32] = (255 * value_colormap()(np.clip(share, 0, 1))[:, :3]).astype(np.float32)
    colors[np.isnan(values)] = _COLOR_WITHOUT_VALUE
    return colors
