"""Draw the streamlines of an epoch so that each bundle, or other data per streamline, has the same share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dwiml.arguments import quoted
from dwiml.data.dataset import MultisubjectSubset
from dwiml.data.streamlines import SubjectStreamlines

if TYPE_CHECKING:
    import numpy.typing as npt


def check_balance_key(subset: MultisubjectSubset, streamline_group: str, key: str) -> None:
    """Check that the streamlines of each subject have one value of a data per streamline.

    Parameters
    ----------
    subset
        The subjects; those without streamlines need no data.
    streamline_group
        Name of the streamlines group.
    key
        Name of the data per streamline.

    Raises
    ------
    ValueError
        If a subject does not have these data, or more than one value per streamline. The message names the subject.
    """
    for subject in subset:
        streamlines = subject.streamlines[streamline_group]
        if not len(streamlines):
            continue
        if key not in streamlines.data_per_streamline:
            raise ValueError(
                f"balance_by is '{key}', but the {streamlines.label} has no such data_per_streamline; it has: "
                f"{quoted(streamlines.data_per_streamline)}."
            )
        size = streamlines.data_per_streamline_size(key)
        if size != 1:
            raise ValueError(
                f"balance_by must be a data_per_streamline with one value per streamline, but '{key}' of the "
                f"{streamlines.label} has {size}."
            )


def read_classes(streamlines: SubjectStreamlines, key: str) -> npt.NDArray[np.int32]:
    """Return the class of each streamline: the index of its value among the distinct values, in ascending order.

    Parameters
    ----------
    streamlines
        S streamlines of a subject.
    key
        Name of a data per streamline with one value per streamline.

    Returns
    -------
    array of shape (S,), int32
        From 0 to the number of distinct values - 1.

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    if not len(streamlines):
        return np.zeros(0, dtype=np.int32)
    values = streamlines.gather_data_per_streamline(key)[:, 0]
    if np.isnan(values).any():
        raise ValueError(
            f"balance_by is '{key}', but this data_per_streamline of the {streamlines.label} is NaN for streamline "
            f"{int(np.isnan(values).argmax())}; give each streamline a number."
        )
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int32)


def draw_balanced(classes: npt.NDArray[np.integer], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw as many streamlines as there are, with the same number of each class, in random order.

    The numbers of two classes differ by at most one; chance decides which classes have one more. In a class with n
    streamlines, of which T are drawn, each is drawn floor(T / n) times, and T mod n of them, chosen by chance, once
    more.

    Parameters
    ----------
    classes : (S,) int
        Class of each streamline, from 0 to K - 1; no class is empty.
    rng
        Random generator; with the same one, the result is the same.

    Returns
    -------
    (S,) int64
        Ids of streamlines, from 0 to S - 1. Those of small classes are in it several times; some of those of large
        classes are not in it.
    """
    nb = len(classes)
    sizes = np.bincount(classes)
    nb_classes = max(len(sizes), 1)
    wanted = np.full(len(sizes), nb // nb_classes)
    wanted[rng.permutation(len(sizes))[: nb % nb_classes]] += 1
    # The streamlines class by class, in random order in each class.
    order = np.lexsort((rng.random(nb), classes))
    place = np.arange(nb) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    times = np.repeat(wanted // np.maximum(sizes, 1), sizes)
    times += place < np.repeat(wanted % np.maximum(sizes, 1), sizes)
    return rng.permutation(np.repeat(order, times))
