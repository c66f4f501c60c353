"""Checks of the number of points in streamlines, before a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwiml.arguments import grouped
from dwiml.data.dataset import SUBSETS, MultiSubjectDataset
from dwiml.ops.resampling import MAX_POINTS, Resampling, check_number_of_points

if TYPE_CHECKING:
    from dwiml.models.protocols import LoaderModel

# A streamline of 250 mm has 2500 points at steps of 0.1 mm.
MANY_POINTS = 5000


def resampling_of(model: LoaderModel) -> Resampling:
    """Return the resampling that a model requires: its ``step_size``, ``nb_points`` or ``compress_lines``."""
    return Resampling(step_size=model.step_size, nb_points=model.nb_points, compress=model.compress_lines)


class LongestStreamline(NamedTuple):
    """The streamline with the most points, after resampling.

    Attributes
    ----------
    nb_points
        Its number of points (an upper bound if streamlines are compressed).
    subject_id, number
        Its subject, and its index among the subject's streamlines, from 0.
    """

    nb_points: int
    subject_id: str
    number: int


def longest_streamline(
    dataset: MultiSubjectDataset, streamline_group: str, model: LoaderModel
) -> LongestStreamline | None:
    """Return the training or validation streamline with the most points after resampling; None without streamlines."""
    resampling = resampling_of(model)
    found: list[LongestStreamline] = []
    for phase in ("training", "validation"):
        for subject in dataset.subset(phase):
            streamlines = subject.streamlines[streamline_group]
            if not len(streamlines):
                continue
            nb_points = resampling.nb_points_after(streamlines.lengths, streamlines.lengths_mm)
            number = int(nb_points.argmax())
            found.append(LongestStreamline(int(nb_points[number]), subject.subject_id, number))
    return max(found, default=None)


def length_warnings(dataset: MultiSubjectDataset, streamline_group: str, model: LoaderModel) -> list[str]:
    """Return warnings about streamlines with very many points, to show before a training.

    Raises
    ------
    ValueError
        If a streamline has more than 100 000 points and the model does not resample it, or more points than the model
        takes (its ``max_len``).
    """
    longest = longest_streamline(dataset, streamline_group, model)
    if longest is not None:
        _check_max_len(longest, model)
    if longest is None or longest.nb_points <= MANY_POINTS:
        return []
    description = (
        f"Streamline {longest.number} of subject '{longest.subject_id}' has {grouped(longest.nb_points)} points"
    )
    if longest.nb_points > MAX_POINTS:
        raise ValueError(
            f"{description}; the maximum is {grouped(MAX_POINTS)}: give the model a step_size (mm), or recreate the "
            "HDF5 file without this streamline."
        )
    return [
        f"{description} after resampling. A recurrent model computes one step per point, which may take minutes per "
        "batch. Give the model a larger step_size (mm), or recreate the HDF5 file without this streamline."
    ]


def _check_max_len(longest: LongestStreamline, model: LoaderModel) -> None:
    max_len = getattr(model, "max_len", None)
    nb_points = longest.nb_points - (0 if model.forward_uses_last_point else 1)
    # The number of points after compression is not known before.
    if max_len is None or nb_points <= max_len or model.compress_lines is not None:
        return
    raise ValueError(
        f"Streamline {longest.number} of subject '{longest.subject_id}' gives the model {grouped(nb_points)} points; "
        f"it takes at most {grouped(max_len)} (max_len): give the model a larger max_len, or a larger step_size (mm)."
    )


def check_step_size(dataset: MultiSubjectDataset, streamline_group: str, resampling: Resampling) -> None:
    """Check that a step size (mm) gives a sensible number of points for the longest streamline of the dataset.

    Raises
    ------
    ValueError
        If the longest streamline would have more than 100 000 points, or is shorter than one step. The message names
        the step size, the subject, and the length or number of points.
    """
    if resampling.step_size is None:
        return
    longest = [
        (float(subject.streamlines[streamline_group].lengths_mm.max(initial=0.0)), subject.subject_id)
        for phase in SUBSETS
        for subject in dataset.subset(phase)
    ]
    if longest:
        mm, subject = max(longest)
        check_number_of_points(resampling.step_size, mm, f"the longest streamline (subject '{subject}'),")
        if 0 < mm < resampling.step_size:
            raise ValueError(
                f"step_size={resampling.step_size:g} mm is larger than the length of the longest streamline (subject "
                f"'{subject}'), {mm:.1f} mm: only the two endpoints of each streamline would remain; choose a smaller "
                "step_size."
            )
