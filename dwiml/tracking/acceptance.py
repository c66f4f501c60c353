"""Accept only the streamlines that a classifier finds plausible, and track the others again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import check_number, check_whole
from dwiml.models.protocols import ClassifierModel
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.resampling import resample_nb_points
from dwiml.ops.sequences import TensorSequence
from dwiml.params import checks_arguments

# Streamlines that are classified at the same time.
_AT_ONCE = 2000
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
        How often at most a seed is tracked, until its streamline is accepted; more than 1 needs algo 'prob'.

    Raises
    ------
    ValueError
        If the classifier does not classify streamlines, or a number is out of range.
    """

    classifier: ClassifierModel
    min_plausibility: float = 0.5
    max_attempts: int = 1

    def __post_init__(self) -> None:
        missing = [name for name in vars(ClassifierModel) if not name.startswith("_")]
        missing = [name for name in missing if not hasattr(self.classifier, name)]
        if missing:
            raise ValueError(
                f"A classifier of streamlines is needed, and {type(self.classifier).__name__} has no "
                f"{' and no '.join(missing)}: train one with 'dwiml train streamline-classifier'."
            )
        check_number("min_plausibility", self.min_plausibility, low=0, high=1)
        check_whole("max_attempts", self.max_attempts, low=1, high=_MOST_ATTEMPTS)


@torch.no_grad()
def plausibility_of(classifier: ClassifierModel, lines: TensorSequence, volume: Tensor, voxel_sizes: Tensor) -> Tensor:
    """Return the probability that each streamline is plausible.

    Parameters
    ----------
    classifier
        In evaluation mode.
    lines
        S streamlines: points (N, 3), voxel space, corner origin, in voxels.
    volume
        Shape (X, Y, Z, F), float32, on the device of the classifier: its input, standardized as in its training.
    voxel_sizes
        Shape (3,), in mm.

    Returns
    -------
    Tensor
        Shape (S,), float32, from 0 to 1, on the device of the streamlines.

    Raises
    ------
    ValueError
        If a coordinate is NaN or infinite, or the volume has another number of features than the classifier.
    """
    found = [torch.zeros(0)]
    for start in range(0, len(lines), _AT_ONCE):
        some = lines[start : start + _AT_ONCE]
        points, lengths = resample_nb_points(
            some.data.cpu().numpy(), some.lengths.numpy(), int(classifier.nb_points or 0), voxel_sizes.cpu().numpy()
        )
        resampled = TensorSequence.from_numpy(points, lengths).to(volume.device)
        offsets = classifier.neighborhood_offsets
        inputs = interpolate_at(volume, resampled.data, offsets=None if offsets is None else offsets.to(volume.device))
        outputs = classifier(resampled.mapped(inputs).to(classifier.device), resampled.to(classifier.device))
        found.append(classifier.plausibility(outputs).to("cpu", torch.float32))
    return torch.cat(found).to(lines.device)


def check_classifier(classifier: Any, volume: Tensor) -> None:
    """Check that a classifier can read a volume.

    Raises
    ------
    ValueError
        If the volume has another number of features.
    """
    if volume.shape[-1] != classifier.nb_features:
        raise ValueError(
            f"The classifier was trained on {classifier.nb_features} features per voxel, but the volume has "
            f"{volume.shape[-1]}."
        )
