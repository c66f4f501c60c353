"""Lines in every way that VTK writes them. VTK is not a dependency: its files are kept in tests/tractograms.

To write them again: ``pip install vtk`` (9.7.2 was used), then ``python tests/support/vtk_files.py FILE.zip``.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

LINES = [
    np.array([[1.5, 2.25, 3.125], [2, 3, 4], [3.5, 4, 5]]),
    np.array([[4.0, 4, 4], [5, 5.25, 5.5]]),
    np.array([[0.1, 0.2, 0.3], [1.1, 1.2, 1.3], [2.1, 2.2, 2.3], [3, 3, 3]]),
]
# The names of the files whose points are stated to be LPS.
LPS = "lps_"


def _poly_data(dtype: Any, space: str | None) -> Any:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    def named(values: np.ndarray, name: str) -> Any:
        array = numpy_to_vtk(values, deep=True)
        array.SetName(name)
        return array

    poly, points, lines, vertices = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkCellArray()
    points.SetData(numpy_to_vtk(np.concatenate(LINES).astype(dtype), deep=True))
    poly.SetPoints(points)
    start = 0
    for line in LINES:
        lines.InsertNextCell(len(line))
        for place in range(start, start + len(line)):
            lines.InsertCellPoint(place)
        start += len(line)
    poly.SetLines(lines)
    poly.GetPointData().AddArray(named(np.arange(9, dtype=np.float32), "fa"))
    if space is not None:
        vertices.InsertNextCell(1)
        vertices.InsertCellPoint(3)
        poly.SetVerts(vertices)
        text = vtk.vtkStringArray()
        text.SetName("SPACE")
        text.InsertNextValue(space)
        poly.GetFieldData().AddArray(text)
        poly.GetFieldData().AddArray(named(np.arange(3.0), "three numbers"))
    return poly


def _write_all(folder: Path) -> None:
    import vtk

    for space, dtype, start in ((None, np.float32, ""), ("LPS", np.float64, LPS)):
        poly = _poly_data(dtype, space)
        for kind in ("ASCII", "Binary"):
            for version in (42, 51):
                writer = vtk.vtkPolyDataWriter()
                getattr(writer, f"SetFileTypeTo{kind}")()
                writer.SetFileVersion(version)
                writer.SetHeader("a title" if space is None else f"3D Slicer output. SPACE={space}")
                writer.SetInputData(poly)
                writer.SetFileName(str(folder / f"{start}{kind}_{version}.vtk"))
                writer.Write()
        for mode, compressor, encoded, size in (
            ("Ascii", "None", True, 32),
            ("Binary", "None", True, 32),
            ("Binary", "ZLib", True, 64),
            ("Appended", "None", False, 64),
            ("Appended", "None", True, 32),
            ("Appended", "ZLib", False, 32),
            ("Appended", "ZLib", True, 64),
        ):
            writer = vtk.vtkXMLPolyDataWriter()
            getattr(writer, f"SetDataModeTo{mode}")()
            getattr(writer, f"SetCompressorTypeTo{compressor}")()
            getattr(writer, f"SetHeaderTypeToUInt{size}")()
            # Blocks so small that there are several.
            writer.SetBlockSize(48)
            writer.SetEncodeAppendedData(encoded)
            writer.SetInputData(poly)
            writer.SetFileName(str(folder / f"{start}{mode}_{compressor}_{encoded}_{size}.vtp"))
            writer.Write()
    for name, compressor in (("lz4.vtp", "LZ4"), ("big_endian.vtp", "ZLib")):
        writer = vtk.vtkXMLPolyDataWriter()
        getattr(writer, f"SetCompressorTypeTo{compressor}")()
        if compressor == "ZLib":
            writer.SetByteOrderToBigEndian()
        writer.SetInputData(_poly_data(np.float32, None))
        writer.SetFileName(str(folder / name))
        writer.Write()
    for name, writer in (("empty.vtk", vtk.vtkPolyDataWriter()), ("empty.vtp", vtk.vtkXMLPolyDataWriter())):
        writer.SetInputData(vtk.vtkPolyData())
        writer.SetFileName(str(folder / name))
        writer.Write()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive:
        _write_all(Path(place))
        for path in sorted(Path(place).iterdir()):
            archive.write(path, path.name)
