"""What other parts of dwiml ask of a model, so that a type checker tells the author of one what is missing.

A model need not inherit from dwiml's classes: it fits when it has these attributes and methods. Trainers are the
exception, they need a :class:`dwiml.MainModelAbstract`, which is recorded and saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from dwiml.ops.sequences import TensorSequence


class LoaderModel(Protocol):
    """What a batch loader asks of a model: how it wants its streamlines.

    At most one of ``step_size``, ``nb_points`` and ``compress_lines`` is not None.
    """

    @property
    def step_size(self) -> float | None:
        """Resample streamlines to steps of this length, in mm."""

    @property
    def nb_points(self) -> int | None:
        """Resample streamlines to this number of points."""

    @property
    def compress_lines(self) -> float | None:
        """Compress streamlines with this tolerance, in mm."""

    @property
    def forward_uses_last_point(self) -> bool:
        """Whether the model is run on each streamline's last point too, from which no direction leaves."""


class OneInputModel(LoaderModel, Protocol):
    """What a batch loader that reads a volume asks of a model."""

    @property
    def nb_features(self) -> int:
        """Features of each voxel of the volume."""

    @property
    def neighborhood_offsets(self) -> Tensor | None:
        """Where the volume is read around each point: (P, 3), in voxels, the point itself first; None: there only."""


class EvaluatedModel(Protocol):
    """What the evaluation (direction error, loss by point) asks of a model."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def training(self) -> bool:
        """Whether it is in training mode, as ``torch.nn.Module`` has it."""

    @property
    def forward_uses_last_point(self) -> bool:
        """As in :class:`LoaderModel`."""

    def train(self, mode: bool = True) -> Any:
        """Set the training mode, as ``torch.nn.Module`` does."""

    def eval(self) -> Any:
        """Set the evaluation mode, as ``torch.nn.Module`` does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for ``(inputs, streamlines)``."""

    def compute_loss(self, outputs: Any, targets: Any, average_results: bool = True) -> tuple[Tensor, int]:
        """Return the loss, as :meth:`dwiml.MainModelAbstract.compute_loss` does."""

    def eos_probability(self, outputs: Any) -> Tensor | None:
        """Return the probability that the streamline ends at each row of the outputs, (N,); None: not known."""

    def get_tracking_directions(self, outputs: Any, algo: str, eos_stopping_thresh: float | None = None) -> Tensor:
        """Return the direction of each row of the outputs, as :meth:`TrackingModel.get_tracking_directions`."""


class TrackingModel(Protocol):
    """What tracking and the generation-validation phase ask of a model.

    A subclass of :class:`dwiml.ModelWithOneInput` and :class:`dwiml.ModelWithDirectionGetter` has it all.
    """

    @property
    def device(self) -> torch.device:
        """Where the model computes: streamlines and volume are brought there."""

    @property
    def nb_features(self) -> int:
        """Features of each voxel of the volume."""

    @property
    def neighborhood_offsets(self) -> Tensor | None:
        """Where the volume is read around each point: (P, 3), in voxels, the point itself first; None: there only."""

    @property
    def nb_points_to_track(self) -> int:
        """How many of a streamline's last points :meth:`track_step` needs, beside what it keeps in memory."""

    def parameters(self) -> Iterator[Tensor]:
        """Return the weights, from which the memory that a point takes is estimated."""

    def eval(self) -> Any:
        """Set the evaluation mode, as ``torch.nn.Module`` does."""

    def check_tracking(self, algo: str, eos_stopping_thresh: float | None) -> None:
        """Raise a ValueError, before any work, when the model cannot do what is asked.

        Parameters
        ----------
        algo
            ``"det"`` or ``"prob"``.
        eos_stopping_thresh
            From 0 to 1, or None.
        """

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        """Compute the outputs at the last point of each streamline.

        Parameters
        ----------
        inputs
            Features, (N, P * F), under the points that are new: all of a first segment, then one a streamline.
        streamlines
            Points in voxels (corner origin): the first segments, then the last :attr:`nb_points_to_track` points of
            each streamline (at least 2; fewer, where it has no more).
        memory
            What the call before returned; None at the first one.

        Returns
        -------
        tuple
            The outputs, a row for each streamline, and the memory for the next call.
        """

    def select_memory(self, memory: Any, kept: Tensor) -> Any:
        """Return the memory of the streamlines that go on.

        Parameters
        ----------
        memory
            What :meth:`track_step` returned.
        kept
            Their numbers, (K,), int64, increasing, on the model's device.
        """

    def get_tracking_directions(
        self,
        outputs: Any,
        algo: str,
        eos_stopping_thresh: float | None = None,
        *,
        draws: Tensor | None = None,
        allowed: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the direction in which each streamline goes on.

        Parameters
        ----------
        outputs
            What :meth:`track_step` returned.
        algo
            ``"det"`` for the likeliest direction, ``"prob"`` for one that is drawn.
        eos_stopping_thresh
            The probability from which a streamline ends; None: it never ends by it.
        draws
            For ``"prob"``: a number in [0, 1) for each streamline, (S,), float64.
        allowed
            For ``"prob"``: tells, of directions (C, 3), which each streamline may take, (S, C), bool.

        Returns
        -------
        Tensor
            Shape (S, 3), in voxel axes, of any length but 0. Zero where there is no direction; NaN where the streamline
            ends.
        """


def check_tracks(model: Any, asked_by: str) -> None:
    """Check that a model has all that :class:`TrackingModel` lists.

    Parameters
    ----------
    model
        Anything.
    asked_by
        Who needs it, for the sentence.

    Raises
    ------
    ValueError
        Naming all that is missing.
    """
    missing = [name for name in vars(TrackingModel) if not name.startswith("_") and not hasattr(model, name)]
    if missing:
        raise ValueError(
            f"{asked_by} needs a model that tracks; {type(model).__name__} has no {' and no '.join(missing)}: make it "
            "a subclass of ModelWithOneInput and ModelWithDirectionGetter, or define what dwiml.TrackingModel lists."
        )
