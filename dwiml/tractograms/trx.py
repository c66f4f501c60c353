"""Tractograms in .trx files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import quoted
from dwiml.files.images import readable
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.tractogram import Overview, Sample, Stored, Tractogram, evenly
from dwiml.tractograms.trx_file import LINK, LinkInArchiveError, TrxFile, irregular_member

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)


class Trx(Tractogram):
    """A .trx file, or a folder with the same arrays, as used while the file is being written.

    Parameters
    ----------
    path, label
        See :class:`~dwiml.tractograms.tractogram.Tractogram`.
    groups
        Names of groups of the file: only streamlines of at least one of them are read. Empty: all streamlines.
    """

    def __init__(self, path: Path, label: str, groups: Sequence[str] = ()) -> None:
        super().__init__(path, label)
        self._groups = tuple(groups)

    def _chosen(self, file: TrxFile) -> npt.NDArray[np.bool_]:
        """Return which streamlines are read, shape (S,)."""
        existing = file.names("groups")
        missing = [name for name in self._groups if name not in existing]
        if missing:
            raise ValueError(
                f"{self.label}: groups {quoted(missing)} not found in '{self.path}'; it has: {quoted(existing)}."
            )
        chosen = np.full(file.nb_streamlines, not self._groups)
        with readable(self.path, self.label):
            for name in self._groups:
                chosen |= file.group(name)
        return chosen

    def _open(self) -> TrxFile:
        try:
            with readable(self.path, self.label):
                irregular = irregular_member(self.path)
                if irregular is None:
                    return TrxFile(self.path)
        except LinkInArchiveError as error:
            raise ValueError(f"{self.label}: in the file '{self.path}', '{error}' is {LINK}.") from error
        member, what = irregular
        raise ValueError(f"{self.label}: in the folder '{self.path}', '{member}' is {what}.")

    @cached_property
    def grid(self) -> Grid:
        """The voxel grid of the header."""
        with self._open() as file, readable(self.path, self.label):
            return Grid.from_header(file.affine, file.dimensions, self.path)

    @property
    def dps_keys(self) -> list[str]:
        """Names of the data per streamline."""
        with self._open() as file:
            return file.names("dps")

    def overview(self) -> Overview:
        """Return the counts of the header, and the names of the arrays."""
        with self._open() as file, readable(self.path, self.label):
            per_streamline, per_point = (
                {name: file.width(f"{kind}/{name}") for name in file.names(kind)} for kind in ("dps", "dpv")
            )
            return Overview(file.nb_streamlines, file.nb_points, per_streamline, per_point, file.group_sizes())

    def has_streamlines(self) -> bool:
        """Return whether the header announces streamlines, in the chosen groups if there are any."""
        with self._open() as file:
            return bool(self._chosen(file).any()) if self._groups else file.nb_streamlines > 0

    def _read(self, dps_keys: Sequence[str]) -> Stored:
        with self._open() as file:
            chosen = self._chosen(file)
            there = chosen & (file.lengths > 0)
            keys = dps_keys if there.any() else ()
            self.check_dps_keys(keys, file.names("dps"))
            with readable(self.path, self.label):
                dps = {key: file.values(f"dps/{key}")[there] for key in keys}
                points = file.rows_of("positions", np.flatnonzero(there)) if self._groups else file.points()
                return Stored(points, file.lengths[there], dps, int(np.count_nonzero(chosen & ~there)))

    def _sample(self, most: int, name: str | None, hint: str) -> Sample:
        with self._open() as file:
            by_name = name is not None and file.nb_streamlines > 0
            if by_name:
                self._check_name(str(name), file.names("dpv"), file.names("dps"), hint)
            chosen = np.flatnonzero(self._chosen(file))
            with readable(self.path, self.label):
                ids = chosen[evenly(len(chosen), most)]
                lengths, points, values = file.lengths[ids], file.rows_of("positions", ids), None
                if by_name and name in file.names("dpv"):
                    values = file.rows_of(f"dpv/{name}", ids)
                elif by_name:
                    values = np.repeat(file.values(f"dps/{name}")[ids], lengths, axis=0)
        return Sample(len(chosen), points, lengths, values)
