"""Accept only the streamlines that a classifier finds plausible, and track the others again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import check_number, check_whole, kind_shown
from dwiml.models.protocols import ClassifierModel, OneInputModel
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.ragged import check_finite_points
from dwiml.ops.resampling import resample_nb_points
from dwiml.ops.sequences import TensorSequence
from dwiml.params import checks_arguments
from dwiml.tracking.propagation import PropagationRules

BATCH_SIZE = 2000
"""Number of streamlines that are classified at the same time, by default."""
_MOST_ATTEMPTS = 1000


@checks_arguments
@dataclass(frozen=True)
class Acceptance:
    """Which streamlines are accepted, and how often a rejected one is replaced.

    With several attempts, a seed whose streamline is too short or not plausible is tracked again, with other random
    draws, until a streamline is accepted. The attempts depend on the seed point only, and the first one is the
    streamline that is tracked without acceptance.

    Parameters
    ----------
    classifier
        A model of the plausibility of whole streamlines, such as
        :class:`dwiml.models.whole_streamlines.classifier.StreamlineClassifierModel`.
    min_plausibility
        Smallest probability, from 0 to 1, of a streamline that is accepted.
    max_attempts
        Maximum number of times that a seed is tracked, until one of its streamlines is accepted and at least
        ``min_length`` long; more than 1 requires algo 'prob'.

    Raises
    ------
    ValueError
        If the classifier does not classify streamlines, or a number is out of range.
    """

    classifier: ClassifierModel
    min_plausibility: float = 0.5
    max_attempts: int = 1

    def __post_init__(self) -> None:
        check_classifier(self.classifier)
        check_number("min_plausibility", self.min_plausibility, low=0, high=1)
        check_whole("max_attempts", self.max_attempts, low=1, high=_MOST_ATTEMPTS)

    def check_rules(self, rules: PropagationRules) -> None:
        """Check that several attempts give different streamlines.

        Raises
        ------
        ValueError
            If there are several attempts, and the algorithm is deterministic.
        """
        if self.max_attempts > 1 and rules.algo == "det":
            raise ValueError(
                f"max_attempts is {self.max_attempts}, but algo 'det' gives the same streamline in each attempt: use "
                "algo 'prob', or max_attempts=1."
            )


@torch.no_grad()
def plausibility_of(
    classifier: ClassifierModel,
    lines: TensorSequence,
    volume: Tensor,
    voxel_sizes: Tensor,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Return the probability that each streamline is plausible.

    Parameters
    ----------
    classifier
        In evaluation mode.
    lines
        S streamlines: points (N, 3), voxel space, corner origin, in voxels.
    volume
        Shape (X, Y, Z, F), float32, on any device, where it is interpolated: the input of the classifier, standardized
        as in its training.
    voxel_sizes
        Shape (3,), floating-point, in mm, on any device.
    batch_size
        Number of streamlines that the classifier receives at the same time.
    on_progress
        Called with the number of streamlines that were classified since its last call.

    Returns
    -------
    Tensor
        Shape (S,), float32, from 0 to 1, on the device of the streamlines.

    Raises
    ------
    ValueError
        If a coordinate is NaN or infinite, or the classifier does not return one probability per streamline.
    """
    check_finite_points(lines.data.cpu().numpy(), lines.lengths.numpy())
    found = [torch.zeros(0)]
    for start in range(0, len(lines), batch_size):
        some = lines[start : start + batch_size]
        points, lengths = resample_nb_points(
            some.data.cpu().numpy(), some.lengths.numpy(), int(classifier.nb_points or 0), voxel_sizes.cpu().numpy()
        )
        resampled = TensorSequence.from_numpy(points, lengths).to(volume.device)
        offsets = classifier.neighborhood_offsets
        inputs = interpolate_at(volume, resampled.data, offsets=None if offsets is None else offsets.to(volume.device))
        outputs = classifier(resampled.mapped(inputs).to(classifier.device), resampled.to(classifier.device))
        found.append(_checked(classifier, classifier.plausibility(outputs), start, len(some)))
        if on_progress is not None:
            on_progress(len(some))
    return torch.cat(found).to(lines.device)


def check_classifier(classifier: Any, volume: Tensor | None = None) -> None:
    """Check that a model classifies whole streamlines and, if a volume is given, that it can read it.

    Parameters
    ----------
    classifier
        Any object.
    volume
        Shape (X, Y, Z, F): its input.

    Raises
    ------
    ValueError
        If something that :class:`dwiml.models.protocols.ClassifierModel` lists is missing, the number of points of a
        streamline is not fixed, the classifier receives scanner space, or the volume has another number of features.
    """
    kind = type(classifier).__name__
    needed = [name for base in (OneInputModel, ClassifierModel) for name in vars(base) if not name.startswith("_")]
    missing = [name for name in needed if not hasattr(classifier, name)]
    if missing:
        raise ValueError(
            f"{kind} does not classify streamlines: it has no {' and no '.join(missing)}. Train a classifier with "
            "'dwiml train streamline-classifier'."
        )
    check_whole(f"nb_points of the classifier ({kind})", classifier.nb_points, low=2)
    if getattr(classifier, "streamlines_space", "vox") != "vox":
        raise ValueError(
            f"A classifier that receives voxel space is needed; {kind} receives scanner space "
            f"(streamlines_space={classifier.streamlines_space!r})."
        )
    if volume is not None and volume.shape[-1] != classifier.nb_features:
        raise ValueError(
            f"The classifier was trained on {classifier.nb_features} features per voxel, but the volume has "
            f"{volume.shape[-1]}."
        )


def _checked(classifier: ClassifierModel, plausibility: Any, start: int, nb: int) -> Tensor:
    """Return probabilities on the CPU; ValueError if they are not one number from 0 to 1 for each streamline."""
    wanted = f"plausibility of {type(classifier).__name__} must be one probability per streamline, shape ({nb},), from"
    if not isinstance(plausibility, Tensor) or plausibility.shape != (nb,):
        got = tuple(plausibility.shape) if isinstance(plausibility, Tensor) else kind_shown(plausibility)
        raise ValueError(f"{wanted} 0 to 1; got {got}.")
    found = plausibility.to("cpu", torch.float32)
    wrong = ~((found >= 0) & (found <= 1))
    if bool(wrong.any()):
        number = int(wrong.nonzero()[0])
        raise ValueError(f"{wanted} 0 to 1; it is {float(found[number]):g} for streamline {start + number}.")
    return found
