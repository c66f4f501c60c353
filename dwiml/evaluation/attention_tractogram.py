"""Write streamlines colored by the attention that their points receive."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.evaluation.attention import StreamlineAttention
from dwiml.evaluation.losses_by_point import SubjectReader
from dwiml.matplotlib_backend import COLOR_QUANTILES, value_colors
from dwiml.tractograms.writing.sidecar import describe
from dwiml.tractograms.writing.with_data import Part, write_with_data

if TYPE_CHECKING:
    import numpy.typing as npt


def write_attention_tractogram(
    path: Path,
    reader: SubjectReader,
    attentions: Sequence[StreamlineAttention],
    group: str,
    *,
    point: int | None = None,
    sources: Sequence[str | os.PathLike[str] | None] | None = None,
) -> list[npt.NDArray[np.float64]]:
    """Write a .trk or .trx file with the attention at each point, in rasmm, center origin; it is complete, or absent.

    Each point has ``weight`` and ``ratio`` (see :func:`~dwiml.evaluation.attention.attention_at_points`; the ratio is 0
    after `point`), and ``color`` (red, green and blue from 0 to 255), from the 5th to the 95th percentile of the ratio;
    it is gray after `point`. Each streamline has ``id``, its index in the HDF5 file.

    Parameters
    ----------
    path
        The .trk or .trx file; an existing one is replaced.
    reader
        Reader of the subject.
    attentions
        Attention within each streamline; the mean over its layers and heads is taken.
    group
        Group of layers.
    point
        Index of the point that attends, from 0, or from the end if negative; None for all points.
    sources
        The experiment and its HDF5 file, to write a sidecar; None to write none.

    Returns
    -------
    list of (L,) float64
        The ratio at each point of each streamline; NaN after `point`.

    Raises
    ------
    ValueError
        If a streamline does not have the point, or `path` has another extension.
    OSError
        If the file cannot be written.
    """
    found = [each.at_points(group, point) for each in attentions]
    ratios = [ratio for _, ratio in found]
    low, high = np.nanquantile(np.concatenate(ratios), COLOR_QUANTILES).tolist()

    def parts() -> Iterator[Part]:
        for each, (weight, ratio) in zip(attentions, found, strict=True):
            per_point: dict[str, npt.NDArray[Any]] = {
                "weight": weight[:, None],
                "ratio": np.nan_to_num(ratio)[:, None],
                "color": value_colors(ratio, low, high),
            }
            yield Part(each.points, np.array([len(weight)]), per_point, {"id": np.array([[each.id]])})

    description = (
        f"True streamlines of subject '{reader.data.subject_id}', with the attention (group '{group}') of a trained "
        "transformer at each point."
    )
    sidecar = None if sources is None else describe(description, sources)
    write_with_data(path, reader.find_grid(), parts(), sidecar=sidecar)
    return ratios
