"""Streamlines of a model on a subject of an HDF5 file, and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import score_streamlines
from dwiml.tracking.acceptance import Acceptance
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.tracker import Tracker, TrackingSubject

MAX_LENGTH_MM = 250.0
THETA = 45.0


@dataclass(frozen=True)
class ModelSettings:
    """One way to track with a model.

    Attributes
    ----------
    algo
        ``"det"`` or ``"prob"``.
    theta
        Largest angle between two steps, in degrees.
    mask
        How the tracking mask is read between voxels: ``"trilinear"`` (inside from 0.5 on) or ``"nearest"``.
    """

    algo: str
    theta: float
    mask: str

    def __str__(self) -> str:
        return f"{self.theta:g} degrees, {self.mask} mask"


def seeds_in_ends(subject_dir: Path, mask: NDArray[np.bool_], per_voxel: int) -> Seeds:
    """Return seeds in the ends of the bundles of an example subject, inside a mask (X, Y, Z)."""
    labels = np.asarray(nib.load(subject_dir / "labels" / "endpoints.nii.gz").dataobj)
    return Seeds((labels > 0) & mask, per_voxel=per_voxel, seed=1)


def track_with_model(
    model: Any,
    volume: Any,
    mask: NDArray[np.bool_],
    seeds: Seeds,
    *,
    min_length: float,
    forward_only: bool,
    algo: str = "det",
    theta: float = THETA,
    mask_interpolation: str = "trilinear",
    seed: int = 1,
    acceptance: Acceptance | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Track with the model's own step size.

    Parameters
    ----------
    model
        A model that tracks.
    volume
        The subject's :class:`dwiml.data.volumes.SubjectVolume`.
    mask
        Shape (X, Y, Z): where streamlines may go.
    seeds, min_length, forward_only
        As in :class:`dwiml.tracking.tracker.Tracker`.
    algo, theta, mask_interpolation, seed
        As in :class:`dwiml.tracking.propagation.PropagationRules`.
    acceptance
        Which streamlines are accepted; None: all that are long enough.

    Returns
    -------
    points, lengths
        Shapes (N, 3), voxel space, corner origin, and (S,).
    """
    rules = PropagationRules(
        step_size=model.step_size,
        theta=theta,
        max_length=MAX_LENGTH_MM,
        algo=algo,
        seed=seed,
        mask_interpolation=mask_interpolation,
    )
    subject = TrackingSubject(volume.as_tensor(), torch.from_numpy(volume.voxel_sizes), torch.from_numpy(mask))
    tracker = Tracker(model, subject, rules, min_length=min_length, forward_only=forward_only, acceptance=acceptance)
    groups = [tracked.streamlines for tracked in tracker.track(seeds)]
    points = np.concatenate([group.data.cpu().numpy() for group in groups])
    return points, np.concatenate([group.lengths.numpy() for group in groups])


def scores_of(points: NDArray[np.float32], lengths: NDArray[np.int64], truth: GroundTruth) -> dict[str, Any]:
    """Return the scores in sum (shares from 0 to 1) and, by bundle, whether it is found and its overlap."""
    scores = score_streamlines(points, lengths, truth)
    return {
        "nb_streamlines": len(lengths),
        **scores.summary(),
        "bundles": {bundle.name: {"found": bundle.found, "overlap": bundle.overlap} for bundle in scores.bundles},
    }
