"""Streamlines grown step by step by a model, thousands at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dwiml.arguments import check_number
from dwiml.models.protocols import TrackingModel
from dwiml.ops.directions import SHORTEST, streamline_lengths_mm
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.randomness import check_seed, keyed_uniform
from dwiml.ops.sequences import TensorSequence
from dwiml.tracking.growing import GrowingLines

REASONS = ("not stopped", "angle", "mask", "bounds", "length", "no direction", "end of streamline")
"""Why a streamline ended, by the number that :class:`Propagated` has."""
RUNNING, ANGLE, MASK, BOUNDS, LENGTH, NO_DIRECTION, END_OF_STREAMLINE = range(len(REASONS))

# Room for all of a streamline's points is made at its beginning.
_MOST_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class PropagationRules:
    """How a streamline goes on, and when it ends.

    Attributes
    ----------
    step_size
        Distance from a point to the next one, in mm, whatever the voxels.
    theta
        Largest angle between two steps, in degrees, measured in mm. A step that turns more is not taken.
    max_length
        Longest streamline, its first segment included, in mm.
    algo
        ``"det"``: the likeliest direction; ``"prob"``: one that is drawn, among those that turn by ``theta`` at most.
    seed
        For ``"prob"``: what is drawn for a streamline depends on this and on its key only.
    eos_stopping_thresh
        Probability from which a streamline ends, for models that tell it; None: they are not asked.
    mask_threshold
        A point is inside the mask where its value, interpolated, is at least this.
    mask_interpolation
        ``"nearest"`` or ``"trilinear"``.
    antipodal
        Whether a direction and its opposite mean the same to the model: the one nearer to the last step is taken.

    Raises
    ------
    ValueError
        For a number out of range.
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
        if self.max_length / self.step_size > _MOST_STEPS:
            raise ValueError(
                f"max_length ({self.max_length:g} mm) in steps of {self.step_size:g} mm makes more than {_MOST_STEPS} "
                "points a streamline; give a shorter length, or longer steps."
            )
        if self.mask_interpolation not in ("nearest", "trilinear"):
            raise ValueError(f"mask_interpolation must be 'nearest' or 'trilinear', got {self.mask_interpolation!r}.")
        if self.algo not in ("det", "prob"):
            raise ValueError(f"algo must be 'det' or 'prob', got {self.algo!r}.")
        if self.eos_stopping_thresh is not None:
            check_number("eos_stopping_thresh", self.eos_stopping_thresh, low=0, high=1, low_included=False)
        check_seed(self.seed)

    @property
    def most_steps(self) -> int:
        """How many points a streamline can gain."""
        return math.ceil(self.max_length / self.step_size) + 1


@dataclass(frozen=True)
class Propagated:
    """What became of streamlines.

    Attributes
    ----------
    streamlines
        All their points, voxel space, corner origin: those that they began with, and those that were added.
    reasons
        Shape (S,), int64: why each ended, a number of :data:`REASONS`.
    """

    streamlines: TensorSequence
    reasons: Tensor


class PropagationStopped(Exception):
    """Raised between two steps when a propagation is asked to stop; what it has grown is lost."""


class Propagator:
    """Grows streamlines on one subject.

    Parameters
    ----------
    model
        In evaluation mode.
    read_inputs
        Returns the model's inputs (N, F) under points (N, 3), voxel space, corner origin.
    rules
        How streamlines go on and end.
    voxel_sizes
        Shape (3,), mm.
    shape
        The grid: streamlines end where it does.
    mask
        Shape (X, Y, Z), or None: where streamlines may go; bool, or a map of probabilities.
    should_stop
        Asked before each step; once it says True, :class:`PropagationStopped` is raised. None: never.
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
    ) -> Propagated:
        """Go on from the last point of each segment until each streamline has ended.

        Parameters
        ----------
        first_segments
            At least one point each, voxel space, corner origin: a seed, or a piece of a streamline.
        keys
            Shape (S,), int64: what the draws of each streamline depend on, beside the seed; None: its number.
        opposite
            Shape (S,), bool: which streamlines take their first step against the direction that the model gives.
        max_lengths
            Shape (S,), mm: where each ends, if not before at the rules' ``max_length``.

        Raises
        ------
        ValueError
            When a segment has no point.
        PropagationStopped
            When ``should_stop`` said so.
        """
        if len(first_segments) and int(first_segments.lengths.min()) == 0:
            raise ValueError("A streamline needs a point to begin with; one of the first segments has none.")
        rules, device = self._rules, first_segments.device
        lines = GrowingLines(
            first_segments, most_steps=rules.most_steps, nb_recent=max(self._model.nb_points_to_track, 2)
        )
        keys = (torch.arange(len(first_segments)) if keys is None else keys).to(device)
        # What each may still travel.
        left = self._longest(max_lengths, len(first_segments), device) - streamline_lengths_mm(
            first_segments, self._voxel_sizes
        )
        inputs = first_segments.mapped(self._read_inputs(first_segments.data))
        outputs, memory = self._model.track_step(inputs, first_segments, None)
        nb_steps = 0
        while lines.nb_alive:
            if self._should_stop is not None and self._should_stop():
                raise PropagationStopped
            draws = keyed_uniform(rules.seed, keys[lines.alive], nb_steps) if rules.algo == "prob" else None
            points, reasons = self._next_points(lines, outputs, draws, opposite if nb_steps == 0 else None)
            # Half a step: what the sum of many steps is off by must not cost one.
            reasons = torch.where(left < rules.step_size / 2, LENGTH, reasons)
            kept = lines.add(points, reasons)
            nb_steps += 1
            if lines.nb_alive:
                left = left[kept] - rules.step_size
                memory = self._model.select_memory(memory, kept)
                ones = torch.ones(lines.nb_alive, dtype=torch.int64)
                inputs = TensorSequence(self._read_inputs(lines.last_points), ones)
                outputs, memory = self._model.track_step(inputs, lines.recent(), memory)
        return Propagated(lines.joined(), lines.reasons)

    def _longest(self, max_lengths: Tensor | None, nb: int, device: torch.device) -> Tensor:
        longest = torch.full((nb,), self._rules.max_length, device=device)
        return longest if max_lengths is None else torch.minimum(longest, max_lengths.to(device))

    def _next_points(
        self, lines: GrowingLines, outputs: Tensor, draws: Tensor | None, opposite: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return where each streamline would go, voxel space, and why it does not (0: it does)."""
        rules, last = self._rules, lines.last_points
        before_mm = lines.last_steps * self._voxel_sizes
        directions = self._directions(outputs, before_mm, draws)
        if opposite is not None:
            directions = torch.where(opposite.to(last.device)[:, None], -directions, directions)
        steps_mm = directions.to(last.dtype) * self._voxel_sizes
        norms = steps_mm.norm(dim=1, keepdim=True)
        steps_mm = steps_mm * (rules.step_size / norms)
        # A seed has no step before its first one.
        turns = before_mm.norm(dim=1) > SHORTEST
        cosines = torch.nn.functional.cosine_similarity(steps_mm, before_mm, dim=1)
        if rules.antipodal:
            steps_mm = torch.where((turns & (cosines < 0))[:, None], -steps_mm, steps_mm)
            cosines = cosines.abs()
        points = last + steps_mm / self._voxel_sizes
        limit = torch.tensor(self._shape, device=points.device)
        reasons = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        # A model says NaN for an end where it was asked for one; elsewhere, it has nothing to say.
        no_direction = END_OF_STREAMLINE if rules.eos_stopping_thresh is not None else NO_DIRECTION
        # The last one that applies counts.
        for number, applies in (
            (MASK, self._leaves_mask(points)),
            (BOUNDS, (points < 0).any(dim=1) | (points >= limit).any(dim=1)),
            (ANGLE, turns & (cosines < math.cos(math.radians(rules.theta)))),
            (NO_DIRECTION, ~torch.isfinite(points).all(dim=1) | (norms[:, 0] <= SHORTEST)),
            (no_direction, directions.isnan().any(dim=1)),
        ):
            reasons = torch.where(applies, number, reasons)
        return points, reasons

    def _directions(self, outputs: Tensor, before_mm: Tensor, draws: Tensor | None) -> Tensor:
        """Return the directions that the model gives, voxel space, or draws of those that turn little enough."""
        rules = self._rules
        if draws is None:
            return self._model.get_tracking_directions(outputs, rules.algo, rules.eos_stopping_thresh)

        def allowed(choice: Tensor) -> Tensor:
            unit_mm = torch.nn.functional.normalize(choice * self._voxel_sizes, dim=1)
            cosines = torch.nn.functional.normalize(before_mm, dim=1) @ unit_mm.to(before_mm.dtype).T
            cosines = cosines.abs() if rules.antipodal else cosines
            at_start = before_mm.norm(dim=1, keepdim=True) <= SHORTEST
            little: Tensor = (cosines >= math.cos(math.radians(rules.theta))) | at_start
            return little

        return self._model.get_tracking_directions(
            outputs, rules.algo, rules.eos_stopping_thresh, draws=draws, allowed=allowed
        )

    def _leaves_mask(self, points: Tensor) -> Tensor:
        if self._mask is None:
            return torch.zeros(len(points), dtype=torch.bool, device=points.device)
        values = interpolate_at(self._mask, points, mode=self._rules.mask_interpolation)[:, 0]
        return torch.logical_not(values >= self._rules.mask_threshold)
