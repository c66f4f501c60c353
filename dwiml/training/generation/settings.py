"""What may be chosen for the generation-validation phase."""

from __future__ import annotations

from dataclasses import dataclass

from dwiml.arguments import check_choice, check_whole
from dwiml.tracking.propagation import PropagationRules
from dwiml.training.generation.selection import LOWER_IS_BETTER
from dwiml.training.settings import TrainerKeywords


class GVPhaseKeywords(TrainerKeywords, total=False):
    """The trainer's keywords and those of :class:`TrackingPhaseSettings`, for editors and type checkers."""

    tracking_phase_frequency: int
    tracking_phase_nb_segments_init: int
    tracking_phase_max_batches: int | None
    tracking_phase_mask_group: str | None
    tracking_phase_mask_interpolation: str
    tracking_phase_ground_truth: str | None
    tracking_phase_step_size: float | None
    tracking_phase_theta: float
    tracking_phase_max_length: float
    tracking_phase_eos_thresh: float | None
    best_model_metric: str


@dataclass(frozen=True, kw_only=True)
class TrackingPhaseSettings:
    """The keywords of the generation-validation phase (``trainer.tracking_phase``).

    Parameters
    ----------
    tracking_phase_frequency
        The phase takes place every N epochs, and after the last one.
    tracking_phase_nb_segments_init
        How many segments of each streamline are given; streamlines that have no more are left out.
    tracking_phase_max_batches
        How many validation batches to use, from the first; None: all those of the validation phase.
    tracking_phase_mask_group
        A volume group, of one feature: a mask, as :func:`dwiml.ops.masks.as_mask` understands it; streamlines end
        outside. None: each streamline ends at the length of the true one, if the model does not end it before.
    tracking_phase_ground_truth
        The folder of a validation subject's true bundles, as ``dwiml score`` reads it, ``{subject}`` standing for the
        subject's name: ``"phantom/subjects/{subject}"``. None: valid connections are not measured.
    tracking_phase_step_size, tracking_phase_theta, tracking_phase_max_length, tracking_phase_mask_interpolation
        As in :class:`dwiml.tracking.propagation.PropagationRules`; a step size of None is the model's.
    tracking_phase_eos_thresh
        As ``eos_stopping_thresh`` there.
    best_model_metric
        What the best model is chosen by, and what patience waits for: ``"valid_loss"`` or a metric of the phase, as
        ``"gv_valid_connections"``. The lowest is the best, for the length ratio the nearest to 1, for valid connections
        the highest.

    Raises
    ------
    ValueError
        For a number that is out of range, or an unknown metric.
    """

    tracking_phase_frequency: int = 1
    tracking_phase_nb_segments_init: int = 1
    tracking_phase_max_batches: int | None = None
    tracking_phase_mask_group: str | None = None
    tracking_phase_mask_interpolation: str = "nearest"
    tracking_phase_ground_truth: str | None = None
    tracking_phase_step_size: float | None = None
    tracking_phase_theta: float = 45.0
    tracking_phase_max_length: float = 300.0
    tracking_phase_eos_thresh: float | None = None
    best_model_metric: str = "valid_loss"

    def __post_init__(self) -> None:
        check_whole("tracking_phase_frequency", self.tracking_phase_frequency, low=1)
        check_whole("tracking_phase_nb_segments_init", self.tracking_phase_nb_segments_init, low=1)
        if self.tracking_phase_max_batches is not None:
            check_whole("tracking_phase_max_batches", self.tracking_phase_max_batches, low=1)
        check_choice("best_model_metric", self.best_model_metric, LOWER_IS_BETTER)

    def rules(self, model_step_size: float | None) -> PropagationRules:
        """Return how streamlines are propagated.

        Parameters
        ----------
        model_step_size
            In mm, for where no other is chosen.

        Raises
        ------
        ValueError
            When there is no step size, or a number is out of range.
        """
        step_size = model_step_size if self.tracking_phase_step_size is None else self.tracking_phase_step_size
        if step_size is None:
            raise ValueError("The model has no step size of its own; give tracking_phase_step_size, in mm.")
        return PropagationRules(
            step_size=step_size,
            theta=self.tracking_phase_theta,
            max_length=self.tracking_phase_max_length,
            eos_stopping_thresh=self.tracking_phase_eos_thresh,
            mask_interpolation=self.tracking_phase_mask_interpolation,
        )
