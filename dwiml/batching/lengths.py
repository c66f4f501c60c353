"""Streamlines of a data set must be of a length that can be resampled as the model asks."""

from __future__ import annotations

from typing import Any

from dwiml.batching.sampler import PHASES
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.ops.resampling import Resampling, check_number_of_points


def resampling_of(model: Any) -> Resampling:
    """Return how a model wants its streamlines: its ``step_size``, ``nb_points`` or ``compress_lines``."""
    return Resampling(step_size=model.step_size, nb_points=model.nb_points, compress=model.compress_lines)


def check_steps(dataset: MultiSubjectDataset, streamline_group: str, resampling: Resampling) -> None:
    """Refuse a step size that makes an absurd number of points, before the training and not in its first batch.

    Raises
    ------
    ValueError
        Naming the step size, the longest streamline, its subject, and the number of points.
    """
    if resampling.step_size is None:
        return
    longest = [
        (float(subject.streamlines[streamline_group].lengths_mm.max(initial=0.0)), subject.subject_id)
        for phase in PHASES
        for subject in dataset.subset(phase)
    ]
    if longest:
        mm, subject = max(longest)
        check_number_of_points(resampling.step_size, mm, f"the longest streamline (subject '{subject}'),")
