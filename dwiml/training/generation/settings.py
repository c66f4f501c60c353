"""The settings of the generation-validation phase."""

from __future__ import annotations

from dataclasses import dataclass

from dwiml.arguments import check_choice, check_whole
from dwiml.tracking.propagation import PropagationRules
from dwiml.training.reporting.metrics import DIFFERENCE_FROM_BEST
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

    In this phase, the model tracks from the first segments of validation streamlines. In code, the names of its
    parameters and methods contain ``tracking_phase``, and its metrics start with ``gv_``.

    Parameters
    ----------
    tracking_phase_frequency
        Run the generation-validation phase every N epochs, and after the last one.
    tracking_phase_nb_segments_init
        Number of segments of each validation streamline given to the model; shorter streamlines are left out.
    tracking_phase_max_batches
        Number of validation batches to use; None for all batches of the validation phase. They are the first ones.
    tracking_phase_mask_group
        Volume group of the tracking mask, with one feature; streamlines end where they leave it. It is interpreted by
        :func:`dwiml.ops.masks.as_mask`. None: each streamline ends at the length of the true one, unless the model ends
        it before.
    tracking_phase_ground_truth
        Folder of a subject's true bundles, as read by ``dwiml score``, with ``{subject}`` for the subject's name, such
        as ``"phantom/subjects/{subject}"``. None: valid connections are not measured.
    tracking_phase_step_size
        Distance between consecutive points, in mm; None for the model's step size.
    tracking_phase_theta
        Largest angle between two consecutive steps, in degrees.
    tracking_phase_max_length
        Maximum length of a streamline, in mm, including its first segments.
    tracking_phase_mask_interpolation
        Interpolation of the tracking mask: ``"nearest"`` or ``"trilinear"``.
    tracking_phase_eos_thresh
        Probability of the end of the streamline (EOS) at which it stops, for models that predict it; None: EOS is not
        used.
    best_model_metric
        Metric that selects the best model and that early stopping follows: ``"valid_loss"``, or a metric of the phase
        such as ``"gv_valid_connections"``. The lowest value is the best, except for the length ratio (closest to 1) and
        valid connections (highest).

    Raises
    ------
    ValueError
        If a number is out of range, or the metric is unknown.
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
        check_choice("best_model_metric", self.best_model_metric, DIFFERENCE_FROM_BEST)

    def rules(self, model_step_size: float | None) -> PropagationRules:
        """Return the rules by which streamlines are propagated.

        Parameters
        ----------
        model_step_size
            The model's step size, in mm, used if ``tracking_phase_step_size`` is None.

        Raises
        ------
        ValueError
            If there is no step size, or a number is out of range.
        """
        step_size = model_step_size if self.tracking_phase_step_size is None else self.tracking_phase_step_size
        if step_size is None:
            raise ValueError("The model has no step size; give tracking_phase_step_size, in mm.")
        return PropagationRules(
            step_size=step_size,
            theta=self.tracking_phase_theta,
            max_length=self.tracking_phase_max_length,
            eos_stopping_thresh=self.tracking_phase_eos_thresh,
            mask_interpolation=self.tracking_phase_mask_interpolation,
        )
