"""Propagation of streamlines by a model, step by step, thousands at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dwiml.arguments import check_number
from dwiml.models.protocols import TrackingModel
from dwiml.ops.directions import SHORTEST_STEP, pairwise_cosines, streamline_lengths_mm
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.randomness import KeyedDraws, check_seed
from dwiml.ops.sequences import TensorSequence
from dwiml.params import checks_arguments
from dwiml.tracking.growing import GrowingStreamlines

STOPPING_REASONS = ("not stopped", "angle", "mask", "bounds", "length", "no direction", "end of streamline")
"""Why a streamline stopped; the numbers in :attr:`PropagationResult.reasons` are indices of this tuple."""
RUNNING, ANGLE, MASK, BOUNDS, LENGTH, NO_DIRECTION, END_OF_STREAMLINE = range(len(STOPPING_REASONS))

# Memory for all points of a streamline is allocated before the first step.
_MAX_STEPS = 100_000


@checks_arguments
@dataclass(frozen=True, kw_only=True)
class PropagationRules:
    """How streamlines are propagated, and when they stop.

    Parameters
    ----------
    step_size
        Distance between consecutive points, in mm, for any voxel sizes.
    theta
        Largest angle between two consecutive steps, in degrees, for any voxel sizes. A larger angle ends the
        streamline.
    max_length
        Maximum length of a streamline, in mm, including its first segments.
    algo
        ``"det"``: the most likely direction; ``"prob"``: a direction drawn among those within ``theta`` of the last
        step.
    seed
        For ``"prob"``: the draws of a streamline depend on this seed and its own key only.
    eos_stopping_thresh
        Probability of the end of the streamline (EOS) at which it stops, for models that predict it; None: EOS is not
        used.
    mask_threshold
        A point is inside the mask if the interpolated value is at least this threshold.
    mask_interpolation
        Interpolation of the mask: ``"nearest"`` or ``"trilinear"``.
    antipodal
        A direction of the model and its opposite are the same; take the one closer to the last step.

    Raises
    ------
    ValueError
        If a number is out of range, or `algo` or `mask_interpolation` is unknown.
    """

    step_size: float
    theta: float = 45.0
    max_length: float = 300.0
    algo: str = "det"
    seed: int = 0
    eos_stopping_thresh: float | None = None
    mask_threshold: float = 0.5
    mask_interpolation: str = "nearest"
    antipodal: bool = False

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, low=0, low_included=False)
        check_number("theta", self.theta, low=0, high=180, low_included=False)
        check_number("max_length", self.max_length, low=0, low_included=False)
        check_number("mask_threshold", self.mask_threshold, low=0, high=1, low_included=False)
        if self.max_length / self.step_size > _MAX_STEPS:
            raise ValueError(
                f"max_length ({self.max_length:g} mm) with a step_size of {self.step_size:g} mm allows more than "
                f"{_MAX_STEPS} points per streamline; reduce max_length or increase step_size."
            )
        if self.mask_interpolation not in ("nearest", "trilinear"):
            raise ValueError(f"mask_interpolation must be 'nearest' or 'trilinear', got {self.mask_interpolation!r}.")
        if self.algo not in ("det", "prob"):
            raise ValueError(f"algo must be 'det' or 'prob', got {self.algo!r}.")
        if self.eos_stopping_thresh is not None:
            check_number("eos_stopping_thresh", self.eos_stopping_thresh, low=0, high=1, low_included=False)
        check_seed(self.seed)

    @property
    def max_steps(self) -> int:
        """Largest number of points that can be added to a streamline."""
        return math.ceil(self.max_length / self.step_size) + 1


@dataclass(frozen=True)
class PropagationResult:
    """Propagated streamlines, and why they stopped.

    Attributes
    ----------
    streamlines
        Points (N, 3), voxel space, corner origin: the first segments and the points that were added.
    reasons
        Shape (S,), int64: why each streamline stopped, an index of :data:`STOPPING_REASONS`.
    """

    streamlines: TensorSequence
    reasons: Tensor


class PropagationStopped(Exception):
    """Raised between two steps when a propagation is asked to stop; its streamlines are lost."""


class Propagator:
    """Propagates streamlines on one subject.

    At each step, the model predicts a direction at the last point of each streamline, and the next point is
    ``step_size`` mm away in that direction (Euler integration).

    Parameters
    ----------
    model
        In evaluation mode.
    read_inputs
        Function that returns the inputs of the model (N, F) at points (N, 3), voxel space, corner origin.
    rules
        How streamlines are propagated, and when they stop.
    voxel_sizes
        Shape (3,), floating-point, in mm, on the model's device.
    shape
        Shape of the grid (X, Y, Z), in voxels: streamlines stop at its border.
    mask
        Shape (X, Y, Z), bool or probabilities: streamlines stop where they leave it. None: no mask.
    should_stop
        Called before each step; when it returns True, :class:`PropagationStopped` is raised. None: never.

    Raises
    ------
    ValueError
        If streamlines of ``max_length`` have more points than the model takes (its ``max_len``).
    """

    def __init__(
        self,
        model: TrackingModel,
        read_inputs: Callable[[Tensor], Tensor],
        rules: PropagationRules,
        *,
        voxel_sizes: Tensor,
        shape: tuple[int, int, int],
        mask: Tensor | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        check_max_len(model, rules)
        self._model = model
        self._read_inputs = read_inputs
        self._rules = rules
        self._voxel_sizes = voxel_sizes
        self._shape = shape
        self._mask = None if mask is None else mask[..., None].to(torch.float32)
        self._should_stop = should_stop

    @torch.no_grad()
    def propagate(
        self,
        first_segments: TensorSequence,
        keys: Tensor | None = None,
        *,
        opposite: Tensor | None = None,
        max_lengths: Tensor | None = None,
    ) -> PropagationResult:
        """Propagate from the last point of each segment until all streamlines have stopped.

        Parameters
        ----------
        first_segments
            Points (N, 3), voxel space, corner origin, at least one per streamline: a seed, or the start of a
            streamline.
        keys
            Shape (S,), int64: the random draws of each streamline depend on its key and the rules' seed; None: its
            index.
        opposite
            Shape (S,), bool: streamlines whose first step is opposite to the direction that the model predicts.
        max_lengths
            Shape (S,), in mm: a maximum length for each streamline, in addition to ``max_length`` of the rules.

        Returns
        -------
        PropagationResult
            The streamlines, in the order of the segments, and why they stopped.

        Raises
        ------
        ValueError
            If a segment has no point.
        PropagationStopped
            If ``should_stop`` returned True.
        """
        if len(first_segments) and int(first_segments.lengths.min()) == 0:
            raise ValueError("Each streamline needs a point to start from; one of the first segments has none.")
        rules, device = self._rules, first_segments.device
        lines = GrowingStreamlines(
            first_segments, max_steps=rules.max_steps, nb_recent=max(self._model.nb_points_to_track, 2)
        )
        keys = (torch.arange(len(first_segments)) if keys is None else keys).to(device)
        # Remaining length of each streamline, mm.
        left = self._longest(max_lengths, len(first_segments), device) - streamline_lengths_mm(
            first_segments, self._voxel_sizes
        )
        inputs = first_segments.mapped(self._read_inputs(first_segments.data))
        outputs, memory = self._model.track_step(inputs, first_segments, None)
        nb_steps = 0
        while lines.nb_growing:
            if self._should_stop is not None and self._should_stop():
                raise PropagationStopped
            draws = KeyedDraws(rules.seed, keys[lines.growing], nb_steps) if rules.algo == "prob" else None
            points, reasons = self._next_points(lines, outputs, draws, opposite if nb_steps == 0 else None)
            # Half a step of tolerance for accumulated rounding.
            reasons = torch.where(left < rules.step_size / 2, LENGTH, reasons)
            kept = lines.add(points, reasons)
            nb_steps += 1
            if lines.nb_growing:
                left = left[kept] - rules.step_size
                memory = self._model.select_memory(memory, kept)
                ones = torch.ones(lines.nb_growing, dtype=torch.int64)
                inputs = TensorSequence(self._read_inputs(lines.last_points), ones)
                outputs, memory = self._model.track_step(inputs, lines.recent_points(), memory)
        return PropagationResult(lines.streamlines(), lines.reasons)

    def _longest(self, max_lengths: Tensor | None, nb: int, device: torch.device) -> Tensor:
        longest = torch.full((nb,), self._rules.max_length, device=device)
        return longest if max_lengths is None else torch.minimum(longest, max_lengths.to(device))

    def _next_points(
        self, lines: GrowingStreamlines, outputs: Tensor, draws: KeyedDraws | None, opposite: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the next points (A, 3), voxel space, and why streamlines stop there (A,); 0: they continue."""
        rules, last = self._rules, lines.last_points
        before_mm = lines.last_steps * self._voxel_sizes
        directions = self._directions(outputs, before_mm, draws)
        if opposite is not None:
            directions = torch.where(opposite.to(last.device)[:, None], -directions, directions)
        steps_mm = directions.to(last.dtype) * self._voxel_sizes
        norms = steps_mm.norm(dim=1, keepdim=True)
        steps_mm = steps_mm * (rules.step_size / norms)
        # At a seed there is no previous step.
        turns = before_mm.norm(dim=1) > SHORTEST_STEP
        cosines = torch.nn.functional.cosine_similarity(steps_mm, before_mm, dim=1)
        if rules.antipodal:
            steps_mm = torch.where((turns & (cosines < 0))[:, None], -steps_mm, steps_mm)
            cosines = cosines.abs()
        points = last + steps_mm / self._voxel_sizes
        limit = torch.tensor(self._shape, device=points.device)
        reasons = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        # NaN marks the end of a streamline where EOS is used; otherwise it is a missing direction.
        no_direction = END_OF_STREAMLINE if rules.eos_stopping_thresh is not None else NO_DIRECTION
        # The last reason that applies is kept.
        for number, applies in (
            (MASK, self._leaves_mask(points)),
            (BOUNDS, (points < 0).any(dim=1) | (points >= limit).any(dim=1)),
            (ANGLE, turns & (cosines < math.cos(math.radians(rules.theta)))),
            (NO_DIRECTION, ~torch.isfinite(points).all(dim=1) | (norms[:, 0] <= SHORTEST_STEP)),
            (no_direction, directions.isnan().any(dim=1)),
        ):
            reasons = torch.where(applies, number, reasons)
        return points, reasons

    def _directions(self, outputs: Tensor, before_mm: Tensor, draws: KeyedDraws | None) -> Tensor:
        """Return the direction of each next step, (A, 3), voxel axes; for "prob", drawn within ``theta``."""
        rules = self._rules
        if draws is None:
            return self._model.get_tracking_directions(outputs, rules.algo, rules.eos_stopping_thresh)

        def allowed(choice: Tensor) -> Tensor:
            unit_mm = torch.nn.functional.normalize(choice * self._voxel_sizes, dim=-1).to(before_mm.dtype)
            unit_before = torch.nn.functional.normalize(before_mm, dim=1)
            # The same directions for all streamlines, or each its own.
            if choice.ndim == 2:
                cosines = pairwise_cosines(unit_before, unit_mm)
            else:
                cosines = (unit_before[:, None] * unit_mm).sum(dim=-1)
            cosines = cosines.abs() if rules.antipodal else cosines
            at_start = before_mm.norm(dim=1, keepdim=True) <= SHORTEST_STEP
            within: Tensor = (cosines >= math.cos(math.radians(rules.theta))) | at_start
            return within

        return self._model.get_tracking_directions(
            outputs, rules.algo, rules.eos_stopping_thresh, draws=draws, allowed=allowed
        )

    def _leaves_mask(self, points: Tensor) -> Tensor:
        if self._mask is None:
            return torch.zeros(len(points), dtype=torch.bool, device=points.device)
        values = interpolate_at(self._mask, points, mode=self._rules.mask_interpolation)[:, 0]
        return torch.logical_not(values >= self._rules.mask_threshold)


def check_max_len(model: object, rules: PropagationRules) -> None:
    """Check, before tracking, that a model takes streamlines as long as the rules allow.

    Parameters
    ----------
    model
        Its ``max_len``, if it has one, is the largest number of points of a streamline.
    rules
        How streamlines are propagated, and when they stop.

    Raises
    ------
    ValueError
        If streamlines of ``max_length`` have more points than ``max_len``.
    """
    max_len = getattr(model, "max_len", None)
    if max_len is not None and rules.max_steps > max_len:
        raise ValueError(
            f"max_length ({rules.max_length:g} mm) in steps of {rules.step_size:g} mm makes up to {rules.max_steps} "
            f"points a streamline; the model takes at most {max_len} (max_len): choose a smaller max_length, or a "
            "larger step_size."
        )
