"""Track with several models at once: one model that combines the directions of its members at each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import shown
from dwiml.models.protocols import Allowed, TrackingModel, check_tracks
from dwiml.ops.directions import normalize_directions
from dwiml.ops.randomness import KeyedDraws
from dwiml.ops.sequences import TensorSequence

SHORTEST_MEAN = 1e-3
"""A mean of unit directions that is shorter than this is not a direction: those of the members cancel out."""

# The last uniform number of a step, far from those that the members draw (KeyedDraws.uniform).
_MEMBER_DRAW = 2**15 - 1


class TrackingEnsemble:
    """A tracking model (:class:`dwiml.TrackingModel`) that combines several, each with its own memory.

    At each step, all members receive the same inputs and the same streamlines.

    - ``"det"``: the direction is the mean of the members' unit directions, along voxel axes. A member without a
      direction is left out; if the mean is shorter than :data:`SHORTEST_MEAN`, there is no direction.
    - ``"prob"``: the distribution is the mixture of the members' distributions, with equal weights, each restricted to
      the directions that are allowed. A member is drawn for each streamline and step, then a direction from its
      distribution. The draw of the member is a function of the seed, the key of the streamline and the step, and is
      independent of the other draws.
    - The end of the streamline (EOS) is compared with its mean probability, which is that of the mixture.

    Averaging the predictions of models that were trained independently is the ensemble of Lakshminarayanan et al.,
    "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017, arXiv:1612.01474.

    Parameters
    ----------
    models
        The members, one or more, on one device. They may be of different classes, with the same ``nb_features``,
        ``neighborhood_offsets`` and ``step_size`` (if they have one).
    antipodal
        A direction of a member and its opposite are the same, as in
        :class:`~dwiml.tracking.propagation.PropagationRules`. The mean is then the principal axis of the directions:
        the eigenvector of the mean of their dyadic products with the largest eigenvalue (Basser and Pajevic,
        "Statistical artifacts in diffusion tensor MRI caused by background noise", 2000,
        doi:10.1002/1522-2594(200007)44:1<41::AID-MRM8>3.0.CO;2-O).

    Raises
    ------
    ValueError
        If there is no model, one cannot track, or the models differ in what they must share.
    """

    def __init__(self, models: Sequence[TrackingModel], *, antipodal: bool = False) -> None:
        if not models:
            raise ValueError("An ensemble needs one or more models, got none.")
        for model in models:
            check_tracks(model, "An ensemble")
        self.models = tuple(models)
        self.antipodal = antipodal
        for what in ("device", "nb_features", "step_size"):
            self._check_same(what, [getattr(model, what, None) for model in models])
        self._check_same("neighborhood_offsets", [_rows_of(model.neighborhood_offsets) for model in models])

    def _check_same(self, what: str, values: Sequence[Any]) -> None:
        for number, value in enumerate(values, start=1):
            if value != values[0]:
                found = f"model 1 has {shown(values[0])}, model {number} has {shown(value)}"
                raise ValueError(f"The models of an ensemble must have the same {what}: {found}.")

    @property
    def device(self) -> torch.device:
        """Device of all members."""
        return self.models[0].device

    @property
    def nb_features(self) -> int:
        """Number of features of each voxel of the volume."""
        return self.models[0].nb_features

    @property
    def neighborhood_offsets(self) -> Tensor | None:
        """Offsets at which the volume is read for a point, (P, 3), in voxels; the same for all members."""
        return self.models[0].neighborhood_offsets

    @property
    def step_size(self) -> float | None:
        """Step size of the training of all members, in mm; None if they have none."""
        step_size: float | None = getattr(self.models[0], "step_size", None)
        return step_size

    @property
    def nb_points_to_track(self) -> int:
        """The largest number of last points that a member needs."""
        return max(model.nb_points_to_track for model in self.models)

    @property
    def max_len(self) -> int | None:
        """The largest number of points of a streamline that all members take; None without a limit."""
        limits = [limit for model in self.models if (limit := getattr(model, "max_len", None)) is not None]
        return min(limits, default=None)

    @property
    def tracking_bytes_per_point(self) -> int:
        """Memory that the members keep for each point of a streamline, in bytes."""
        return sum(int(getattr(model, "tracking_bytes_per_point", 0)) for model in self.models)

    def parameters(self) -> Iterator[Tensor]:
        """Return the weights of all members."""
        return chain.from_iterable(model.parameters() for model in self.models)

    def eval(self) -> TrackingEnsemble:
        """Set all members to evaluation mode."""
        for model in self.models:
            model.eval()
        return self

    def check_tracking(self, algo: str, eos_stopping_thresh: float | None) -> None:
        """Check that all members support an algorithm and an EOS threshold.

        Parameters
        ----------
        algo
            ``"det"`` or ``"prob"``.
        eos_stopping_thresh
            From 0 to 1, or None. Otherwise, each member needs ``eos_probability(outputs)``, as
            :class:`dwiml.ModelWithDirectionGetter` has it.

        Raises
        ------
        ValueError
            If a member does not support them.
        """
        for number, model in enumerate(self.models, start=1):
            try:
                model.check_tracking(algo, eos_stopping_thresh)
            except ValueError as error:
                raise ValueError(f"Model {number} of the ensemble: {error}") from error
            if eos_stopping_thresh is not None and not hasattr(model, "eos_probability"):
                raise ValueError(
                    f"Model {number} of the ensemble: {type(model).__name__} has no eos_probability(outputs), which an "
                    "ensemble averages; define it, or track without eos_stopping_thresh."
                )

    def track_step(
        self, inputs: TensorSequence, streamlines: TensorSequence, memory: tuple[Any, ...] | None
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Compute the outputs of each member at the last point of each streamline.

        Parameters
        ----------
        inputs, streamlines
            As in :meth:`dwiml.TrackingModel.track_step`: features (N, P * F), and points (M, 3), voxel space, corner
            origin. A member receives the number of last points that it asks for.
        memory
            The memory of each member; None in the first call.

        Returns
        -------
        tuple
            The outputs of each member, and the memory of each member.
        """
        if memory is None:
            steps = [model.track_step(inputs, streamlines, None) for model in self.models]
        else:
            steps = [
                model.track_step(inputs, streamlines.tail(max(model.nb_points_to_track, 2)), own)
                for model, own in zip(self.models, memory, strict=True)
            ]
        return tuple(outputs for outputs, _ in steps), tuple(own for _, own in steps)

    def select_memory(self, memory: tuple[Any, ...], kept: Tensor) -> tuple[Any, ...]:
        """Return the memory of each member for the streamlines that continue.

        Parameters
        ----------
        memory
            The memory of each member.
        kept
            Shape (K,), int64, increasing: the indices of these streamlines.
        """
        return tuple(model.select_memory(own, kept) for model, own in zip(self.models, memory, strict=True))

    def get_tracking_directions(
        self,
        outputs: tuple[Any, ...],
        algo: str,
        eos_stopping_thresh: float | None = None,
        *,
        draws: KeyedDraws | None = None,
        allowed: Allowed | None = None,
    ) -> Tensor:
        """Return the direction of the next step of each streamline.

        Parameters
        ----------
        outputs
            What :meth:`track_step` returned, the outputs of each member.
        algo, eos_stopping_thresh, draws, allowed
            As in :meth:`dwiml.TrackingModel.get_tracking_directions`.

        Returns
        -------
        Tensor
            Shape (S, 3), along voxel axes, unit length; zero where there is no direction, and NaN where the streamline
            ends.

        Raises
        ------
        ValueError
            If a member does not support this, or ``"prob"`` has no draws.
        """
        self.check_tracking(algo, eos_stopping_thresh)
        if algo == "prob" and draws is None:
            raise ValueError("algo 'prob' needs draws (KeyedDraws), got None.")
        own: dict[str, Any] = {} if algo == "det" else {"draws": draws, "allowed": allowed}
        predicted = [
            model.get_tracking_directions(each, algo, None, **own)
            for model, each in zip(self.models, outputs, strict=True)
        ]
        # Without EOS, NaN is a missing direction.
        found = [torch.where(each.isfinite().all(dim=-1, keepdim=True), each, 0.0) for each in predicted]
        directions = torch.stack([normalize_directions(each) for each in found])
        if draws is not None and algo == "prob":
            chosen = (draws.uniform(_MEMBER_DRAW) * len(self.models)).to(torch.int64)
            combined = directions[chosen, torch.arange(len(chosen), device=chosen.device)]
        else:
            combined = _principal_axes(directions) if self.antipodal else _mean_directions(directions)
        if eos_stopping_thresh is None:
            return combined
        ends = self._eos_probability(outputs) >= eos_stopping_thresh
        return combined.masked_fill(ends[:, None], torch.nan)

    def _eos_probability(self, outputs: tuple[Any, ...]) -> Tensor:
        """Return the mean of the members' probabilities of the end of the streamline, (S,)."""
        models: Sequence[Any] = self.models
        return torch.stack([model.eos_probability(each) for model, each in zip(models, outputs, strict=True)]).mean(0)


def _rows_of(offsets: Tensor | None) -> list[list[float]] | None:
    return None if offsets is None else offsets.tolist()


def _mean_directions(directions: Tensor) -> Tensor:
    """Return the direction of the mean of (M, S, 3) unit directions (or zero): (S, 3); zero where they cancel out."""
    given = directions.any(dim=-1).sum(dim=0).clamp(min=1)
    means = directions.sum(dim=0) / given[:, None]
    too_short = torch.linalg.vector_norm(means, dim=-1, keepdim=True) < SHORTEST_MEAN
    return normalize_directions(means.masked_fill(too_short, 0.0))


def _principal_axes(directions: Tensor) -> Tensor:
    """Return the principal axis of (M, S, 3) unit directions (or zero), on the side of their sum: (S, 3)."""
    exact = directions.to(torch.float64)
    axes = torch.linalg.eigh(torch.einsum("msi,msj->sij", exact, exact)).eigenvectors[..., -1]
    # The axis has no sign of its own; members that agree keep theirs.
    sides = (axes * exact).sum(dim=-1)
    first = sides.gather(0, sides.abs().argmax(dim=0, keepdim=True))[0]
    axes = torch.where((first < 0)[:, None], -axes, axes)
    return torch.where(directions.any(dim=-1).any(dim=0)[:, None], axes, 0.0).to(directions.dtype)
