"""Track from seeds in both directions, as many streamlines at once as the memory allows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import check_number, check_whole
from dwiml.models.protocols import TrackingModel, check_tracks
from dwiml.ops.directions import streamline_lengths_mm
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.neighborhood import nb_points_read
from dwiml.ops.ragged import slabs
from dwiml.ops.randomness import other_keys
from dwiml.ops.sequences import TensorSequence
from dwiml.params import checks_arguments
from dwiml.tracking.acceptance import Acceptance, check_classifier, plausibility_of
from dwiml.tracking.propagation import RUNNING, STOPPING_REASONS, PropagationResult, PropagationRules, Propagator
from dwiml.tracking.seeds import Seeds

# More at once is not faster.
_MAX_AT_ONCE = {"cpu": 5_000, "cuda": 100_000}
_SHARE_OF_FREE_MEMORY = 0.25


@checks_arguments
@dataclass(frozen=True)
class TrackingSubject:
    """The data of one subject that a model tracks on.

    Attributes
    ----------
    volume
        Shape (X, Y, Z, F), float32, standardized as the model's training data; directional features in voxel axes.
    voxel_sizes
        Shape (3,), float32, in mm.
    tracking_mask
        Shape (X, Y, Z), bool, or probabilities, which are interpolated and compared with the rules' ``mask_threshold``:
        streamlines stop where they leave it. None: no mask.
    """

    volume: Tensor
    voxel_sizes: Tensor
    tracking_mask: Tensor | None = None

    def to(self, device: torch.device | str) -> TrackingSubject:
        """Return the subject with its tensors on another device."""
        mask = None if self.tracking_mask is None else self.tracking_mask.to(device)
        return TrackingSubject(self.volume.to(device), self.voxel_sizes.to(device), mask)


@dataclass
class TrackingCounts:
    """Counts of seeds and streamlines, and of the reasons why streamlines stopped.

    Attributes
    ----------
    nb_seeds, nb_kept
        Number of seeds tracked and of streamlines kept.
    nb_too_short, nb_implausible
        Number of seeds whose (last) streamline was shorter than the minimum length, or was rejected by the classifier.
    nb_attempts
        Number of streamlines tracked, including those that were replaced; without acceptance, the number of seeds.
    ends
        For each reason, the number of streamline ends, including those of streamlines that were not kept.
    """

    nb_seeds: int = 0
    nb_kept: int = 0
    nb_too_short: int = 0
    nb_implausible: int = 0
    nb_attempts: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as a dictionary for JSON."""
        return {
            "nb_seeds": self.nb_seeds,
            "nb_streamlines": self.nb_kept,
            "nb_too_short": self.nb_too_short,
            "nb_implausible": self.nb_implausible,
            "nb_attempts": self.nb_attempts,
            "ends": {reason: self.ends[reason] for reason in STOPPING_REASONS[RUNNING + 1 :]},
        }


@dataclass(frozen=True)
class TrackedStreamlines:
    """Streamlines of at least the minimum length that were accepted.

    Attributes
    ----------
    streamlines
        Points (N, 3), voxel space, corner origin, from one end through the seed to the other.
    seeds
        Shape (S, 3), voxel space, corner origin: the seed of each streamline.
    plausibility
        Shape (S,), float32, from 0 to 1, according to the classifier; None without acceptance.
    """

    streamlines: TensorSequence
    seeds: Tensor
    plausibility: Tensor | None = None


@checks_arguments
class Tracker:
    """Tracks from seeds with a trained model.

    A streamline depends on the model, the subject, the rules, the acceptance and its own seed only, not on the number
    of streamlines tracked at once or their order (except for rounding errors).

    Parameters
    ----------
    model
        It is set to evaluation mode, and stays on its device.
    subject
        The data to track on; they are moved to the model's device.
    rules
        How streamlines are propagated, and when they stop.
    min_length
        Streamlines shorter than this, in mm, are discarded.
    forward_only
        Track in one direction from the seed. Otherwise, the streamline is then reversed, processed by the model from
        its end to the seed, and continued from the seed in the other direction. If no step could be taken from the
        seed, the first step in the other direction is opposite to the direction that the model predicts.
    simultaneous
        Number of streamlines tracked at once; None: as many as fit in a quarter of the free memory, at most 5000
        (100 000 on a GPU).
    acceptance
        Which streamlines are accepted; None: all that are long enough.

    Attributes
    ----------
    rules, min_length, forward_only, acceptance
        The parameters.
    simultaneous
        Number of streamlines tracked at once.
    counts
        Seeds and streamlines so far.

    Raises
    ------
    ValueError
        If the model cannot track (the message names what it lacks), does not support the rules, or has another number
        of features than the subject, if a number is out of range, or if several attempts are requested with algo 'det'.
    """

    def __init__(
        self,
        model: TrackingModel,
        subject: TrackingSubject,
        rules: PropagationRules,
        *,
        min_length: float = 10.0,
        forward_only: bool = False,
        simultaneous: int | None = None,
        acceptance: Acceptance | None = None,
    ) -> None:
        check_tracks(model, "Tracker")
        model.check_tracking(rules.algo, rules.eos_stopping_thresh)
        self.min_length = check_number("min_length", min_length, low=0)
        if min_length > rules.max_length:
            raise ValueError(f"min_length ({min_length:g} mm) is above max_length ({rules.max_length:g} mm).")
        if subject.volume.shape[-1] != model.nb_features:
            raise ValueError(
                f"The model was trained on {model.nb_features} features per voxel, but the volume has "
                f"{subject.volume.shape[-1]}."
            )
        if acceptance is not None:
            acceptance.check_rules(rules)
            check_classifier(acceptance.classifier, subject.volume)
            acceptance.classifier.eval()
        model.eval()
        self._model, self.rules, self.forward_only, self.acceptance = model, rules, forward_only, acceptance
        self._subject = subject.to(model.device)
        self._points_at_once = _points_that_fit(model)
        if simultaneous is None:
            kept = 12 + int(getattr(model, "tracking_bytes_per_point", 0))
            fitting = self._points_at_once // max(1 + rules.max_steps * kept // _bytes_per_point(model), 1)
            simultaneous = max(1, min(fitting, _MAX_AT_ONCE.get(model.device.type, 5_000)))
        self.simultaneous = check_whole("simultaneous", simultaneous, low=1)
        self.counts = TrackingCounts()
        x, y, z = subject.volume.shape[:3]
        self._propagator = Propagator(
            self._model,
            self._read_inputs,
            rules,
            voxel_sizes=self._subject.voxel_sizes,
            shape=(x, y, z),
            mask=self._subject.tracking_mask,
        )

    def track(self, seeds: Seeds) -> Iterator[TrackedStreamlines]:
        """Track from each seed, in groups of :attr:`simultaneous`; :attr:`counts` is updated after each group.

        Parameters
        ----------
        seeds
            The starting points, in the voxel space of the subject, corner origin.

        Yields
        ------
        TrackedStreamlines
            The streamlines of one group of seeds, in the order of the seeds; voxel space, corner origin, in voxels.
        """
        for start in range(0, len(seeds), self.simultaneous):
            stop = min(start + self.simultaneous, len(seeds))
            device = self._model.device
            yield self._track_group(seeds.points(start, stop).to(device), seeds.keys(start, stop).to(device))

    def _track_group(self, points: Tensor, keys: Tensor) -> TrackedStreamlines:
        """Track from seeds until their streamlines are accepted, or no attempt is left."""
        pending = torch.arange(len(points), device=points.device)
        found: list[tuple[Tensor, TensorSequence, Tensor]] = []
        for attempt in range(1 if self.acceptance is None else self.acceptance.max_attempts):
            lines = self._grow(points[pending], other_keys(keys[pending], attempt))
            long = self._long_enough(lines)
            plausible, plausibility = self._classify(lines, long)
            kept = plausible.nonzero()[:, 0]
            found.append((pending[kept], lines.select(kept), plausibility[kept]))
            self.counts.nb_attempts += len(pending)
            pending, long = pending[~plausible], long[~plausible]
            if not len(pending):
                break
        ids, lines = torch.cat([each for each, *_ in found]), _joined([each for _, each, _ in found])
        order = ids.argsort()
        self.counts.nb_seeds += len(points)
        self.counts.nb_kept += len(ids)
        self.counts.nb_too_short += int((~long).sum())
        self.counts.nb_implausible += int(long.sum())
        known = None if self.acceptance is None else torch.cat([each for *_, each in found])[order]
        return TrackedStreamlines(lines.select(order), points[ids[order]], known)

    def _grow(self, points: Tensor, keys: Tensor) -> TensorSequence:
        """Track once from each point, in both directions unless `forward_only`."""
        grown = self._propagator.propagate(TensorSequence(points, torch.ones(len(points), dtype=torch.int64)), keys)
        ends = [grown.reasons]
        if not self.forward_only:
            grown = self._other_way(grown, keys)
            ends.append(grown.reasons)
        for number, count in enumerate(torch.bincount(torch.cat(ends), minlength=len(STOPPING_REASONS)).tolist()):
            self.counts.ends[STOPPING_REASONS[number]] += count
        return grown.streamlines

    def _long_enough(self, lines: TensorSequence) -> Tensor:
        lengths = streamline_lengths_mm(lines, self._subject.voxel_sizes)
        # Tolerance for rounding, mm.
        return (lengths > self.min_length - 1e-3) & (lines.lengths.to(lengths.device) > 1)

    def _classify(self, lines: TensorSequence, long: Tensor) -> tuple[Tensor, Tensor]:
        """Return which streamlines are accepted, (S,), and their plausibility, (S,): 1 if there is no classifier."""
        plausibility = long.to(torch.float32)
        if self.acceptance is None:
            return long, plausibility
        tested = long.nonzero()[:, 0]
        subject = self._subject
        plausibility[tested] = plausibility_of(
            self.acceptance.classifier, lines.select(tested), subject.volume, subject.voxel_sizes
        )
        return long & (plausibility >= self.acceptance.min_plausibility), plausibility

    def _other_way(self, grown: PropagationResult, keys: Tensor) -> PropagationResult:
        """Reverse streamlines and continue from their seeds, as many at once as their points fit in memory."""
        lines = grown.streamlines.reversed()
        stuck = lines.lengths == 1
        parts, reasons = [], []
        for group, _ in slabs(lines.lengths, self._points_at_once):
            # Other keys: the draws in the two directions are independent.
            part = self._propagator.propagate(lines[group], ~keys[group], opposite=stuck[group])
            parts.append(part.streamlines)
            reasons.append(part.reasons)
        return PropagationResult(_joined(parts), torch.cat(reasons)) if parts else grown

    def _read_inputs(self, points: Tensor) -> Tensor:
        offsets = self._model.neighborhood_offsets
        return interpolate_at(self._subject.volume, points, offsets=offsets)


def _joined(parts: Sequence[TensorSequence]) -> TensorSequence:
    """Return the streamlines of all parts, one part after the other."""
    return TensorSequence(torch.cat([part.data for part in parts]), torch.cat([part.lengths for part in parts]))


def _bytes_per_point(model: TrackingModel) -> int:
    """Estimate the memory for one point, in bytes: its input, and twice the output of each layer."""
    widths = sum(int(weight.shape[0]) for weight in model.parameters() if weight.ndim == 2)
    return 4 * (model.nb_features * nb_points_read(model.neighborhood_offsets) + 2 * widths)


def _points_that_fit(model: TrackingModel) -> int:
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**32
    return max(int(_SHARE_OF_FREE_MEMORY * free) // _bytes_per_point(model), 1)
