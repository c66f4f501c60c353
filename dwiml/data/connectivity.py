"""Read the connectivity matrix of a streamlines group, and the regions that its rows stand for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import quoted
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import StoredDataset, StoredGroup, open_hdf5
from dwiml.hdf5.stored.digests import ArrayDigest
from dwiml.hdf5.stored.layout import groups_of_type
from dwiml.ops.connectivity_matrix import ConnectivityMatrix, connections_of, is_background_counted
from dwiml.ops.regions import BlocRegions, LabelRegions, Regions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connectivity:
    """The connectivity of a subject, as used by :func:`dwiml.ops.connectivity_matrix.connection_status`.

    Attributes
    ----------
    regions
        The R regions, in the subject's voxel space, corner origin.
    connections
        The connected pairs of regions, a sparse matrix of shape (R, R).
    """

    regions: Regions
    connections: ConnectivityMatrix


def read_connectivity(path: str | Path, subject: str, group: str) -> Connectivity | None:
    """Read the connectivity matrix of a streamlines group, a few rows at a time.

    Only the connected pairs are kept in memory.

    Parameters
    ----------
    path
        An HDF5 file created by ``dwiml create_hdf5`` or by dwi_ml.
    subject, group
        Names of the subject and of its streamlines group.

    Returns
    -------
    Connectivity or None
        None if the group has no matrix.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the subject or the group does not exist, or the matrix is damaged. The message names the file, the subject
        and the group.
    """
    with open_hdf5(path) as file:
        known = groups_of_type(file.root.group(subject), schema.TYPE_STREAMLINES) if subject in file.root else []
        if group not in known:
            raise ValueError(f"'{path}' has no streamlines group '{group}' for the subject '{subject}'.")
        return _Reader(file.root.group(subject).group(group)).read()


class _Reader:
    """Reads the connectivity of one group; each fault is raised as one sentence."""

    def __init__(self, node: StoredGroup) -> None:
        self._node = node

    def read(self) -> Connectivity | None:
        if schema.CONNECTIVITY_MATRIX not in self._node:
            return None
        try:
            regions = self._regions()
            matrix = _HashedRows(self._node.dataset(schema.CONNECTIVITY_MATRIX))
            if len(matrix.shape) == 2 and is_background_counted(regions, matrix.shape[0]):
                logger.warning(
                    "The first row of the connectivity matrix of '%s' is the background (label 0); it is ignored.",
                    self._node.name,
                )
            connections = connections_of(matrix, regions)
            matrix.check_digest()
            return Connectivity(regions, connections)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            reason = str(error).rstrip(".")
            if str(self._node.file.path) in reason:
                # The message already names the file and the object.
                raise
            self._refuse(reason[:1].lower() + reason[1:])

    def _regions(self) -> Regions:
        kind = schema.read_text(self._attribute(schema.CONNECTIVITY_MATRIX_TYPE))
        shape = tuple(int(size) for size in np.ravel(self._node.attribute(schema.DIMENSIONS, ())))
        if kind == schema.FROM_BLOCS:
            given = np.asarray(self._attribute(schema.CONNECTIVITY_NB_BLOCS)).reshape(-1)
            blocs = [int(nb) for nb in (given if len(given) != 1 else np.repeat(given, 3))]
            if not shape:
                raise ValueError(f"the group has no '{schema.DIMENSIONS}', which is needed to divide it into blocs")
            return BlocRegions(shape, tuple(blocs))  # type: ignore[arg-type]
        if kind == schema.FROM_LABELS:
            if schema.CONNECTIVITY_LABEL_VOLUME not in self._node:
                raise ValueError(f"the group has no '{schema.CONNECTIVITY_LABEL_VOLUME}'")
            dataset = self._node.dataset(schema.CONNECTIVITY_LABEL_VOLUME)
            volume = dataset.read()
            dataset.check_digest(volume)
            labels = LabelRegions.from_volume(volume)
            if shape and labels.shape != shape:
                raise ValueError(f"the labels have shape {labels.shape}, but the volume of the streamlines {shape}")
            return labels
        raise ValueError(
            f"its type is '{kind}', but must be {quoted([schema.FROM_BLOCS])} or {quoted([schema.FROM_LABELS])}"
        )

    def _attribute(self, name: str) -> Any:
        """Return an attribute of the group, or of the matrix itself."""
        for node in (self._node, self._node.dataset(schema.CONNECTIVITY_MATRIX)):
            if node.has_attribute(name):
                return node.attribute(name)
        raise ValueError(f"the group has no '{name}'")

    def _refuse(self, reason: str) -> NoReturn:
        subject, group = self._node.name.split("/", 1)
        raise ValueError(
            f"'{self._node.file.path}': the connectivity matrix of streamlines group '{group}' of subject "
            f"'{subject}' is damaged: {reason}; recreate the HDF5 file."
        )


class _HashedRows:
    """A matrix whose rows are read once, in order, to compute their digest at the same time."""

    def __init__(self, dataset: StoredDataset) -> None:
        self._dataset, self.shape = dataset, dataset.shape
        self._digest = ArrayDigest(dataset.shape, dataset.dtype) if dataset.digest else None

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        values = self._dataset[rows]
        if self._digest is not None:
            self._digest.update(values)
        return values

    def check_digest(self) -> None:
        if self._digest is not None:
            self._dataset.check_digest_is(self._digest.text())
