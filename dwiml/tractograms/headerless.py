"""Formats that are read as a whole; most of them record neither a voxel grid nor their space."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dwiml.tractograms.tractogram import Array, Sample, Tractogram, evenly

logger = logging.getLogger(__name__)


class WholeTractogram(Tractogram):
    """A tractogram in a format that is read as a whole, also when only some streamlines are needed."""

    def _sample(self, most: int, name: str | None, hint: str) -> Sample:
        if name is not None and self.has_streamlines():
            self._check_name(name, (), self.dps_keys, hint)
        stored = self._read(() if name is None else (name,))
        ids = evenly(len(stored.lengths), most)
        kept = np.zeros(len(stored.lengths), dtype=bool)
        kept[ids] = True
        lengths = stored.lengths[kept]
        values = None if name not in stored.dps else np.repeat(stored.dps[name][kept], lengths, axis=0)
        nb_in_file = len(stored.lengths) + stored.nb_without_points
        return Sample(nb_in_file, stored.points[np.repeat(kept, stored.lengths)], lengths, values)


class HeaderlessTractogram(WholeTractogram):
    """A tractogram in a format that has neither a voxel grid nor data per streamline.

    Parameters
    ----------
    path, label
        See :class:`~dwiml.tractograms.tractogram.Tractogram`.
    space
        One of :data:`~dwiml.tractograms.kinds.SPACES`; None: rasmm, unless the file states its space.
    """

    grid = None

    def __init__(self, path: Path, label: str, space: str | None = None) -> None:
        super().__init__(path, label)
        self._space = space

    @property
    def dps_keys(self) -> list[str]:
        """Names of the data per streamline: none."""
        return []

    def _to_rasmm(self, points: Array, stated: str | None, *, warn: bool) -> Array:
        """Return points in rasmm, shape (N, 3).

        Parameters
        ----------
        points : (N, 3)
            In mm, in the space of the file.
        stated
            The space that the file states; None if it states none.
        warn
            Whether to log that the space is assumed.

        Raises
        ------
        ValueError
            If the space that was given is not that of the file.
        """
        if stated is not None and self._space not in (None, stated):
            raise ValueError(
                f"{self.label}: '{self.path}' states that its points are in {stated}, but the space given for it is "
                f"{self._space}; correct one of them."
            )
        space = stated or self._space
        if space is None and warn:
            logger.warning(
                "%s: '%s' does not state the space of its points; rasmm is assumed (in a groups config, state it with "
                "'space').",
                *(self.label, self.path),
            )
        if space == "lpsmm":
            flipped: Array = points * np.array([-1, -1, 1], dtype=points.dtype)
            return flipped
        return points

    def _check_no_dps(self, dps_keys: Sequence[str], nb_streamlines: int) -> None:
        if nb_streamlines:
            self.check_dps_keys(dps_keys, [])
