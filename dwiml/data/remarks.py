"""What is unusual in the data of a subject, but does not prevent its use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dwiml.arguments import counted, grouped
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.ops.ragged import sequence_ids, slabs

_SLAB_POINTS = 2**20
# Longer than any axon bundle of the human brain.
_LONGEST_MM = 500.0
_MOST_SHOWN = 10


@dataclass
class _Counts:
    """Number of streamlines of each kind."""

    partly_outside: int = 0
    with_repeated_points: int = 0
    repeated_points: int = 0

    def add(
        self, points: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], dimensions: npt.NDArray[np.int64]
    ) -> None:
        """Add streamlines; points (N, 3), voxel space, corner origin; lengths (S,); dimensions (3,), in voxels."""
        owner = sequence_ids(lengths)
        if (dimensions > 0).all():
            outside = ((points < 0) | (points > dimensions)).any(axis=1)
            self.partly_outside += len(np.unique(owner[outside]))
        repeated = (points[1:] == points[:-1]).all(axis=1) & (owner[1:] == owner[:-1])
        self.with_repeated_points += len(np.unique(owner[1:][repeated]))
        self.repeated_points += int(np.count_nonzero(repeated))


def remarks_on_streamlines(streamlines: SubjectStreamlines) -> list[str]:
    """Return what is unusual in the streamlines of a subject; all points are read, a few streamlines at a time.

    Parameters
    ----------
    streamlines
        The streamlines, whose points were checked (:meth:`SubjectStreamlines.check_points`).

    Returns
    -------
    list of str
        One clause for each remark, with the number of streamlines: no streamlines, points outside the volume, repeated
        points (steps of length zero), fewer than two different points, or an implausible length.
    """
    nb, counts = len(streamlines), _Counts()
    if nb == 0:
        return ["no streamlines"]
    for some, _ in slabs(streamlines.lengths, _SLAB_POINTS):
        counts.add(*streamlines.gather(some), streamlines.dimensions)
    lengths_mm = streamlines.lengths_mm
    total = counted(nb, "streamline")
    found = {
        "have points outside the volume": counts.partly_outside,
        f"have repeated points ({grouped(counts.repeated_points)} steps of length zero)": counts.with_repeated_points,
        "have a length of zero; models cannot learn from them": int(np.count_nonzero(lengths_mm == 0)),
        f"are longer than {_LONGEST_MM:g} mm, up to {lengths_mm.max():.0f} mm": int(
            np.count_nonzero(lengths_mm > _LONGEST_MM)
        ),
    }
    return [f"{grouped(number)} of {total} {what}" for what, number in found.items() if number]


def remarks_on_volume(volume: SubjectVolume) -> list[str]:
    """Return what is unusual in a volume: the features that are constant; all values are read.

    Parameters
    ----------
    volume
        The volume.

    Returns
    -------
    list of str
        One clause, or none.

    Raises
    ------
    ValueError
        If the volume is damaged, or has NaN or infinite values.
    """
    values = volume.as_tensor().numpy()
    first = values[0, 0, 0]
    varies = np.zeros(volume.nb_features, dtype=bool)
    for slab in values:
        varies |= (slab != first).any(axis=(0, 1))
    constant = np.flatnonzero(~varies)
    if not len(constant):
        return []
    if len(constant) == volume.nb_features:
        return [f"all values are {first[0]:g}" if volume.nb_features == 1 else "all features are constant"]
    names = ", ".join(map(str, constant[:_MOST_SHOWN].tolist())) + (", ..." if len(constant) > _MOST_SHOWN else "")
    return [f"{len(constant)} of {volume.nb_features} features are constant (number {names}, from 0)"]
