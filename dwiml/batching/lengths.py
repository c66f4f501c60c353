"""Limits on the number of points of streamlines, checked before a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwiml.data.dataset import SUBSETS, MultiSubjectDataset
from dwiml.ops.resampling import MAX_POINTS, Resampling, check_number_of_points

if TYPE_CHECKING:
    from dwiml.models.protocols import LoaderModel

# A streamline of 250 mm has 2500 points at steps of 0.1 mm.
MANY_POINTS = 5000


def resampling_of(model: LoaderModel) -> Resampling:
    """Return how a model wants its streamlines: its ``step_size``, ``nb_points`` or ``compress_lines``."""
    return Resampling(step_size=model.step_size, nb_points=model.nb_points, compress=model.compress_lines)


class LongestStreamline(NamedTuple):
    """The streamline with the most points, after resampling.

    Attributes
    ----------
    nb_points
        How many (at most, where streamlines are compressed).
    subject_id, number
        Which streamline it is: its subject, and its number among the subject's, from 0.
    """

    nb_points: int
    subject_id: str
    number: int


def longest_streamline(
    dataset: MultiSubjectDataset, streamline_group: str, model: LoaderModel
) -> LongestStreamline | None:
    """Return the streamline of the training and validation sets with the most points; None without any."""
    step_size = model.step_size
    found: list[LongestStreamline] = []
    for phase in ("training", "validation"):
        for subject in dataset.subset(phase):
            streamlines = subject.streamlines[streamline_group]
            if not len(streamlines):
                continue
            number = int((streamlines.lengths if step_size is None else streamlines.lengths_mm).argmax())
            nb_points = int(streamlines.lengths[number])
            if step_size is not None:
                nb_points = round(float(streamlines.lengths_mm[number]) / step_size) + 1
            elif model.nb_points is not None:
                nb_points = model.nb_points
            found.append(LongestStreamline(nb_points, subject.subject_id, number))
    return max(found, default=None)


def notes_on_lengths(dataset: MultiSubjectDataset, streamline_group: str, model: LoaderModel) -> list[str]:
    """Return warnings about streamlines of very many points, to show before a training.

    Raises
    ------
    ValueError
        For a streamline of more points than a training can take, which its model does not resample.
    """
    longest = longest_streamline(dataset, streamline_group, model)
    if longest is None or longest.nb_points <= MANY_POINTS:
        return []
    whose = f"Streamline {longest.number} of subject '{longest.subject_id}' has {longest.nb_points:,} points"
    if longest.nb_points > MAX_POINTS:
        raise ValueError(
            f"{whose}; more than {MAX_POINTS:,} are refused: give the model a step_size (mm), or recreate the HDF5 "
            "file without it."
        )
    return [
        f"{whose} after resampling. A recurrent model takes one step for each point, which may take minutes per "
        "batch. Give the model a larger step_size (mm), or recreate the HDF5 file without it."
    ]


def check_steps(dataset: MultiSubjectDataset, streamline_group: str, resampling: Resampling) -> None:
    """Refuse a step size that makes an absurd number of points, or two of every streamline, before the training.

    Raises
    ------
    ValueError
        Naming the step size, the longest streamline, its subject, and the number of points.
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
                f"step_size={resampling.step_size:g} mm is more than the length of the longest streamline (subject "
                f"'{subject}'), {mm:.1f} mm: of each, only its two ends would be left; choose a smaller step_size."
            )
