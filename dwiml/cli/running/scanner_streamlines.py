"""The files of the commands that filter or change a tractogram: check of the outputs, streamlines of a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.tractograms.grid import Grid
    from dwiml.tractograms.tractogram import Streamlines
    from dwiml.tractograms.writing.writer import TractogramWriter


def check_tractogram_outputs(
    arguments: argparse.Namespace,
    outputs: Mapping[str, str | None],
    others: Sequence[Any] = (),
    *,
    experiments: Sequence[str] = (),
) -> None:
    """Check the outputs, tractograms that are written through a partial file, and the batch size.

    Parameters
    ----------
    arguments
        Arguments of the command.
    outputs
        {name of the output for the user: its path, or None}.
    others
        Files that are read, in addition to the tractogram and to ``--grid``.
    experiments
        Experiments that are used, in addition to that of the model.

    Raises
    ------
    ValueError, OSError
        See :func:`dwiml.files.check_outputs`.
    """
    from dwiml.arguments import check_whole
    from dwiml.files import check_outputs, refuse_inputs
    from dwiml.tractograms.writing.partial import partial_of
    from dwiml.tractograms.writing.sidecar import add_sidecars, tractogram_sidecar
    from dwiml.tractograms.writing.writer import extension_of

    check_whole("--batch_size", arguments.batch_size, low=1)
    model = Path(arguments.model)
    above = Path(os.path.realpath(model)).parent
    # The best model of an experiment is a folder in it.
    used: list[str | Path] = [*experiments, model, *([above] if (above / "parameters.json").is_file() else [])]
    inputs = [arguments.tractogram, *others, getattr(arguments, "grid", None)]
    if arguments.sidecar:
        # The new sidecar refers to IN, whose own sidecar must be kept.
        inputs.append(os.fspath(tractogram_sidecar(arguments.tractogram)))
    written = add_sidecars(outputs, of=list(outputs)) if arguments.sidecar else outputs
    check_outputs(written, inputs=inputs, experiments=used, overwrite=arguments.overwrite)
    for name, out in outputs.items():
        if out is not None:
            extension_of(Path(out))
            rest = [other for other in outputs.values() if other != out]
            partial = partial_of(Path(os.path.realpath(out)))
            refuse_inputs(partial, f"{name}, until it is whole", inputs=[*inputs, *rest])


@dataclass(frozen=True)
class ScannerStreamlines:
    """The streamlines of a file, on a voxel grid and in scanner space.

    Attributes
    ----------
    grid
        The voxel grid.
    stored
        Points (N, 3), voxel space of the grid, corner origin, with lengths and data per streamline.
    points
        The same points in mm: shape (N, 3), float32, rasmm, center origin.
    """

    grid: Grid
    stored: Streamlines
    points: NDArray[np.float32]

    def writer(
        self, path: str, widths: Mapping[str, int], *, overwrite: bool, sidecar: Mapping[str, Any] | None = None
    ) -> TractogramWriter:
        """Return a writer of a tractogram on this grid, with the data of the file and others.

        Parameters
        ----------
        path
            The file to write.
        widths
            {name of other data per streamline: number of values}.
        overwrite
            Whether an existing file may be replaced, also by a tractogram without streamlines.
        sidecar
            Content of its sidecar; None for none.
        """
        from dwiml.tractograms.writing.writer import TractogramWriter

        own = {name: values.shape[1] for name, values in self.stored.dps.items()}
        kept = {} if path.lower().endswith(".tck") else {**own, **widths}
        return TractogramWriter(path, grid=self.grid, data_per_streamline=kept, overwrite=overwrite, sidecar=sidecar)

    def data(self, path: str, some: NDArray[np.bool_] | slice) -> dict[str, NDArray[np.float32]]:
        """Return the data per streamline of some streamlines that a file can hold; a .tck holds none."""
        if path.lower().endswith(".tck"):
            return {}
        return {name: values[some] for name, values in self.stored.dps.items()}

    def write(self, path: str, writer: TractogramWriter, some: NDArray[np.bool_]) -> None:
        """Write some of the streamlines, with all their data per streamline.

        Parameters
        ----------
        path
            The file to write.
        writer
            Its writer, of :meth:`writer`.
        some
            Which streamlines, shape (S,).
        """
        lengths = self.stored.lengths
        with writer:
            writer.append(self.stored.points[some.repeat(lengths)], lengths[some], self.data(path, some))


def describe_kept(kept: NDArray[np.bool_], out: str) -> str:
    """Return how many streamlines were kept, of those of shape (S,), in the file `out`; for people."""
    from dwiml.arguments import counted

    share = f" ({kept.mean():.1%})" if len(kept) else ""
    return f"{counted(int(kept.sum()), 'streamline')} of {len(kept)} kept{share} in '{out}'."


def read_scanner_streamlines(
    path: str, label: str, *, image: str | None = None, otherwise: Grid | None = None, needs_grid: bool = False
) -> ScannerStreamlines:
    """Read the streamlines of a file.

    Parameters
    ----------
    path
        The tractogram.
    label
        Start of the error messages.
    image
        Image with the voxel grid, if the tractogram has none. If it has one, that of the image must be the same.
    otherwise
        The voxel grid of a tractogram that has none.
    needs_grid
        Whether the voxel grid is needed, for an output with a header.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is damaged, holds NaN or infinite coordinates, has another voxel grid than the image, or has none
        and one is needed.
    """
    import numpy as np

    from dwiml.ops.spaces import from_vox_corner
    from dwiml.tractograms.grid import Grid, read_image_grid
    from dwiml.tractograms.reading import check_finite, open_tractogram

    tractogram = open_tractogram(path, label)
    grid = tractogram.grid
    if image is not None:
        given = read_image_grid(image)
        if grid is not None and (difference := given.difference(grid)):
            raise ValueError(
                f"--grid '{image}' is not on the voxel grid of {label} '{path}', which OUT keeps: {difference}. Leave "
                "out --grid."
            )
        grid = grid or given
    grid = grid or otherwise
    if grid is None:
        if needs_grid:
            raise ValueError(f"'{path}' has no voxel grid, which OUT needs: write a .tck, or give --grid IMAGE.")
        grid = Grid(np.eye(4), (1, 1, 1))
    stored = tractogram.read(grid.affine, tractogram.dps_keys)
    check_finite(stored, path, label)
    points = from_vox_corner(
        stored.points, space="rasmm", origin="center", affine=grid.affine, voxel_sizes=grid.voxel_sizes
    )
    return ScannerStreamlines(grid, stored, points)
