"""Read the streamlines of VTK files (.vtk, .fib, .vtp)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from dwiml.files import check_memory, open_regular
from dwiml.files.images import readable
from dwiml.tractograms.headerless import HeaderlessTractogram
from dwiml.tractograms.tractogram import Stored
from dwiml.tractograms.vtk import legacy, xml_format
from dwiml.tractograms.vtk.lines import PolyLines


class Vtk(HeaderlessTractogram):
    """A file of VTK lines, legacy or XML; its data per point and per line are not read.

    DIPY reads these files with VTK and FURY, which are large and are not dependencies of dwiml; and VTK itself trusts
    the counts of a file.
    """

    def _content(self, *, only_count: bool) -> PolyLines | bool:
        with readable(self.path, self.label), open_regular(self.path, f"{self.label}: the file") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(len(legacy.START))
            stream.seek(0)
            if not start.lstrip(b"\xef\xbb\xbf").startswith(b"<"):
                return legacy.has_lines(stream, size) if only_count else legacy.read_legacy(stream, size)
            check_memory(size, "its content")
            content = stream.read(size)
            try:
                return xml_format.has_lines(content) if only_count else xml_format.read_xml(content)
            except ElementTree.ParseError as error:
                raise ValueError(f"its XML: {error}") from error

    def has_streamlines(self) -> bool:
        """Return whether the file announces lines."""
        return bool(self._content(only_count=True))

    def _read(self, dps_keys: Sequence[str]) -> Stored:
        lines = self._content(only_count=False)
        assert isinstance(lines, PolyLines)
        there = lines.lengths > 0
        self._check_no_dps(dps_keys, int(there.sum()))
        points = self._to_rasmm(lines.points[lines.rows], lines.space, warn=bool(there.any()))
        return Stored(points, lines.lengths[there], {}, int(np.count_nonzero(~there)))
