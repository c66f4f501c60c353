"""Which regions of a subject are connected: the matrix of a streamlines group, and what its rows are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from dwiml.hdf5 import schema
from dwiml.ops.connectivity import Connections, check_same_number
from dwiml.ops.regions import BlocRegions, LabelRegions, Regions


@dataclass(frozen=True)
class Connectivity:
    """What :func:`dwiml.ops.connectivity.connection_status` needs to know of a subject.

    Attributes
    ----------
    regions
        The regions of the subject's voxel space, corner origin.
    connections
        The pairs of them that are connected.
    """

    regions: Regions
    connections: Connections


def read_connectivity(path: str | Path, subject: str, group: str) -> Connectivity | None:
    """Read the matrix of a streamlines group, some rows at a time; only the pairs that it connects stay in memory.

    Parameters
    ----------
    path
        An HDF5 file made by ``dwiml create_hdf5``, or by the field's existing tool.
    subject, group
        The subject and its streamlines group.

    Returns
    -------
    Connectivity, or None
        None when the group has no matrix.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When there is no such subject or group, or its matrix is damaged: the message names the file, the subject and
        the group.
    """
    with schema.open_file(path) as handle:
        if subject not in handle or group not in schema.groups_of_type(handle[subject], schema.TYPE_STREAMLINES):
            raise ValueError(f"'{path}' has no streamlines group '{group}' of a subject '{subject}'.")
        return _Reader(handle[subject][group]).read()


class _Reader:
    """Reads one group, each fault told in one sentence."""

    def __init__(self, node: h5py.Group) -> None:
        self._node = node

    def read(self) -> Connectivity | None:
        if schema.CONNECTIVITY_MATRIX not in self._node:
            return None
        try:
            regions = self._regions()
            matrix = self._node[schema.CONNECTIVITY_MATRIX]
            if matrix.shape[:1] != ():
                check_same_number(regions, matrix.shape[0])
            return Connectivity(regions, Connections.from_dense(matrix))
        except OSError as error:
            self._refuse(f"it cannot be read ({' '.join(str(error).split())})")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error).rstrip(".")
            self._refuse(reason[:1].lower() + reason[1:])

    def _regions(self) -> Regions:
        kind = schema.read_text(self._attribute(schema.CONNECTIVITY_MATRIX_TYPE))
        shape = tuple(int(size) for size in self._node.attrs.get(schema.DIMENSIONS, ()))
        if kind == schema.FROM_BLOCS:
            given = np.asarray(self._attribute(schema.CONNECTIVITY_NB_BLOCS)).reshape(-1)
            blocs = [int(nb) for nb in (given if len(given) != 1 else np.repeat(given, 3))]
            if not shape:
                raise ValueError(f"the group lacks '{schema.DIMENSIONS}', which blocs are parts of")
            return BlocRegions(shape, tuple(blocs))  # type: ignore[arg-type]
        if kind == schema.FROM_LABELS:
            if schema.CONNECTIVITY_LABEL_VOLUME not in self._node:
                raise ValueError(f"the group lacks '{schema.CONNECTIVITY_LABEL_VOLUME}'")
            labels = LabelRegions.from_volume(self._node[schema.CONNECTIVITY_LABEL_VOLUME][()])
            if shape and labels.shape != shape:
                raise ValueError(f"labels have shape {labels.shape}, the streamlines' volume is {shape}")
            return labels
        raise ValueError(
            f"its type is '{kind}'; it must be {schema.quoted([schema.FROM_BLOCS])} or "
            f"{schema.quoted([schema.FROM_LABELS])}"
        )

    def _attribute(self, name: str) -> Any:
        """Return an attribute of the group, or of the matrix itself."""
        for node in (self._node, self._node[schema.CONNECTIVITY_MATRIX]):
            if name in node.attrs:
                return node.attrs[name]
        raise ValueError(f"the group lacks '{name}'")

    def _refuse(self, reason: str) -> NoReturn:
        subject, group = self._node.name.strip("/").split("/", 1)
        raise ValueError(
            f"'{self._node.file.filename}': the connectivity matrix of streamlines group '{group}' of subject "
            f"'{subject}' is damaged: {reason}; make the HDF5 again."
        )
