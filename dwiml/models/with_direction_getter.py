"""Models that end with a direction getter: their loss, and their tracking directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from dwiml.arguments import check_choice, check_number, check_options, check_whole, kind_shown, quoted, shown
from dwiml.models.base import MainModelAbstract
from dwiml.models.direction_getters import DIRECTION_GETTERS, DirectionGetter
from dwiml.models.protocols import Allowed
from dwiml.ops.directions import SHORTEST_STEP, recovery_steps, without_autocast
from dwiml.ops.randomness import KeyedDraws
from dwiml.ops.sequences import TensorSequence

OWN_SIZES = ("input_size", "output_size")
"""Arguments of a direction getter that are determined by its key and by the model."""


# The name of the module, in the weights file too.
_NAME = "direction_getter"


class ModelWithDirectionGetter(MainModelAbstract):
    """Ends with a direction getter, which gives it a loss and the ability to track.

    A subclass calls :meth:`instantiate_direction_getter` in its constructor, with the size of its last layer, and
    ``self.direction_getter(features)`` at the end of its forward.

    Parameters
    ----------
    dg_key
        Direction getter: 'cosine-regression', 'l2-regression', 'cosine-plus-l2-regression', 'sphere-classification',
        'smooth-sphere-classification', 'gaussian', 'gaussian-mixture', 'fisher-von-mises' or
        'fisher-von-mises-mixture'.
    dg_args
        Options of the direction getter: ``dropout`` and ``add_eos`` (all); the page "Models" of the documentation
        lists the others.

    Raises
    ------
    ValueError
        If the key or an option is unknown.
    """

    def __init__(
        self, *, dg_key: str = "cosine-regression", dg_args: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_choice("dg_key", dg_key, DIRECTION_GETTERS)
        args = check_options(
            "dg_args", dg_args, DIRECTION_GETTERS[dg_key], key=dg_key, own=OWN_SIZES, example={"dropout": 0.1}
        )
        self.dg_key = dg_key
        self.dg_args = args

    @property
    def direction_getter(self) -> DirectionGetter:
        """The last layers, once :meth:`instantiate_direction_getter` was called.

        Raises
        ------
        TypeError
            If it was not called yet.
        """
        getter = self._modules.get(_NAME)
        if getter is None:
            # Not an AttributeError: nn.Module would then report the property itself as missing.
            raise TypeError(
                f"{type(self).__name__} has no direction getter: call self.instantiate_direction_getter(input_size) in "
                "its __init__, with the size of its last layer."
            )
        return cast(DirectionGetter, getter)

    def instantiate_direction_getter(self, input_size: int) -> None:
        """Build :attr:`direction_getter`.

        Parameters
        ----------
        input_size
            Number of features of the model's last layer.

        Raises
        ------
        ValueError
            If it is not a positive integer, or an option in ``dg_args`` is out of range.
        """
        input_size = check_whole("instantiate_direction_getter: input_size", input_size, low=1)
        self._modules[_NAME] = DIRECTION_GETTERS[self.dg_key](input_size, **self.dg_args)

    @property
    def layers_by_point(self) -> list[nn.Module]:
        """The direction getter, and the layers of the other base classes."""
        return [*super().layers_by_point, self.direction_getter]

    @property
    def forward_uses_last_point(self) -> bool:
        """Whether the direction getter predicts the end of the streamline; regression does not."""
        return self.direction_getter.add_eos

    def compute_loss(
        self,
        outputs: Tensor,
        targets: TensorSequence,
        average_results: bool = True,
        *,
        seen: TensorSequence | None = None,
        nb_recovery_steps: float = 1.0,
    ) -> tuple[Tensor, int]:
        """Compare the outputs with the directions of the target streamlines.

        A repeated point has no direction: its row has loss 0 and is excluded from the mean. It is still counted in n,
        because the number of such points is only known on the GPU. The last point of a streamline, if
        :attr:`forward_uses_last_point`, has no direction either, but its end (EOS) is a target.

        Parameters
        ----------
        outputs
            One row for each step, (sum(max(n_i - 1, 0)), K), one streamline after the other; if
            :attr:`forward_uses_last_point`, one for each point, (sum(n_i), K).
        targets
            Points of the true streamlines, (sum(n_i), 3), voxel space, any origin.
        average_results
            Whether to return the mean or the loss of each row.
        seen, nb_recovery_steps
            The displaced points that the model received, with correlated noise, and the number of steps in which it
            learns to recover (:func:`dwiml.ops.directions.recovery_steps`). None: the targets are the true steps.

        Returns
        -------
        tuple
            The mean loss (0-d; 0 for an empty batch) or the losses (rows,), and the number of rows.

        Raises
        ------
        ValueError
            If there is not one output per step (or point).
        """
        own = targets.diff() if seen is None else recovery_steps(targets, seen, nb_recovery_steps)
        steps, ends = _with_ends(own.data, targets) if self.forward_uses_last_point else _without_ends(own.data)
        expected = (len(steps), self.direction_getter.output_size)
        if outputs.shape != expected:
            wanted = (
                "one per point: give the model the whole streamlines"
                if self.forward_uses_last_point
                else "one fewer than points: give the model the streamlines without their last point"
            )
            raise ValueError(
                f"The outputs have shape {tuple(outputs.shape)}, the targets have {len(steps)} directions, each of "
                f"{expected[1]} values ({wanted})."
            )
        # Angles need the precision of the targets, whatever dtype the model computes in.
        with without_autocast(steps.device):
            losses = self.direction_getter.losses(outputs.to(steps.dtype), steps, ends)
        valid = (torch.linalg.vector_norm(steps, dim=-1) > SHORTEST_STEP) | ends
        losses = torch.where(valid | steps.isnan().any(dim=-1), losses, torch.zeros_like(losses))
        if not average_results:
            return losses, len(losses)
        return losses.sum() / valid.sum().clamp(min=1), len(losses)

    def eos_probability(self, outputs: Tensor) -> Tensor | None:
        """Return the probability of the end of the streamline at each row of outputs, (N,); None if not predicted."""
        return self.direction_getter.eos_probability(outputs)

    def get_tracking_directions(
        self,
        outputs: Tensor,
        algo: str,
        eos_stopping_thresh: float | None = None,
        *,
        draws: KeyedDraws | None = None,
        allowed: Allowed | None = None,
    ) -> Tensor:
        """Return the direction of the next step.

        Parameters
        ----------
        outputs
            Shape (N, K).
        algo
            'det' for the most likely direction; 'prob' for a direction drawn from the distribution, if the direction
            getter has one.
        eos_stopping_thresh
            Probability of the end of the streamline (EOS) at which it stops; None: EOS is not used.
        draws
            For 'prob': random numbers, with one key a row.
        allowed
            For 'prob': the directions that each row may take (:data:`dwiml.models.protocols.Allowed`), so that the
            others have probability 0; None: all.

        Returns
        -------
        Tensor
            Shape (N, 3), along voxel axes, unit length. NaN marks the end of the streamline when EOS is used; zero
            where no direction is allowed.

        Raises
        ------
        ValueError
            If the direction getter does not support this.
        """
        self.check_tracking(algo, eos_stopping_thresh)
        if algo == "det":
            directions = self.direction_getter.best_directions(outputs)
        else:
            if not isinstance(draws, KeyedDraws) or len(draws.keys) != len(outputs):
                received = f"{len(draws.keys)} keys" if isinstance(draws, KeyedDraws) else kind_shown(draws)
                raise ValueError(
                    f"algo 'prob' needs draws (KeyedDraws) with a key for each of the {len(outputs)} rows of outputs, "
                    f"got {received}."
                )
            directions = self.direction_getter.sample(outputs, draws, allowed)
        if eos_stopping_thresh is None:
            return directions
        probability = self.eos_probability(outputs)
        return (
            directions
            if probability is None
            else directions.masked_fill((probability >= eos_stopping_thresh)[:, None], torch.nan)
        )

    def check_tracking(self, algo: str, eos_stopping_thresh: float | None) -> None:
        """Check, before tracking, that the direction getter supports an algorithm and an EOS threshold.

        Parameters
        ----------
        algo
            'det' or 'prob'.
        eos_stopping_thresh
            From 0 to 1, or None.

        Raises
        ------
        ValueError
            If it does not.
        """
        drawn = self.direction_getter.has_distribution
        if not isinstance(algo, str) or algo not in (("det", "prob") if drawn else ("det",)):
            if drawn:
                raise ValueError(f"{self.dg_key!r}: algo must be 'det' or 'prob', got {shown(algo)}.")
            others = [key for key, getter in DIRECTION_GETTERS.items() if getter.has_distribution]
            raise ValueError(
                f"{self.dg_key!r} gives one direction, so it needs algo='det', got {shown(algo)}; the direction "
                f"getters with a distribution are {quoted(others)}."
            )
        if eos_stopping_thresh is not None and not self.direction_getter.add_eos:
            raise ValueError(
                f"{self.dg_key!r} does not predict the end of streamlines: eos_stopping_thresh must be None, "
                f"got {shown(eos_stopping_thresh)}."
            )
        if eos_stopping_thresh is not None:
            check_number("eos_stopping_thresh", eos_stopping_thresh, low=0, high=1)


def _without_ends(steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target steps (rows, 3), and which rows are ends of streamlines (rows,): none."""
    return steps, torch.zeros(len(steps), dtype=torch.bool, device=steps.device)


def _with_ends(steps: Tensor, targets: TensorSequence) -> tuple[Tensor, Tensor]:
    """Return the target steps with a row of zeros for each last point, and which rows these are."""
    all_steps = steps.new_zeros(targets.total_points, 3).index_copy(0, targets.rows_but_last(), steps)
    return all_steps, targets.is_last()
