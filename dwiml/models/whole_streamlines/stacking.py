"""Streamlines of the same number of points, as one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from dwiml.arguments import grouped
from dwiml.ops.sequences import TensorSequence


def check_lengths(streamlines: TensorSequence, nb_points: int, model: str) -> None:
    """Check that each streamline has the number of points of a model, or one point.

    Parameters
    ----------
    streamlines
        The streamlines.
    nb_points
        The number of points of the model.
    model
        Name of its class, for the error message.

    Raises
    ------
    ValueError
        If a streamline has another number of points.
    """
    wrong = (streamlines.lengths != nb_points) & (streamlines.lengths != 1)
    if bool(wrong.any()):
        number = int(wrong.nonzero()[0])
        raise ValueError(
            f"{model} takes streamlines of {nb_points} points; streamline {number} of {len(streamlines)} has "
            f"{grouped(int(streamlines.lengths[number]))}: resample them with resample_nb_points, as the batch loader "
            "does."
        )


def stacked(rows: TensorSequence, nb_points: int, model: str) -> Tensor:
    """Return the rows of streamlines as a tensor; the row of a streamline of one point is repeated.

    Parameters
    ----------
    rows
        One row of F values for each point: (N, F). Each of S streamlines has `nb_points` points, or one.
    nb_points, model
        As in :func:`check_lengths`.

    Returns
    -------
    Tensor
        Shape (S, nb_points, F).

    Raises
    ------
    ValueError
        If a streamline has another number of points.
    """
    check_lengths(rows, nb_points, model)
    data = rows.data
    if bool((rows.lengths == 1).any()):
        counts = torch.where(rows.lengths == 1, nb_points, 1)
        data = data.repeat_interleave(torch.repeat_interleave(counts, rows.lengths).to(rows.device), dim=0)
    return data.reshape(len(rows), nb_points, data.shape[1])
