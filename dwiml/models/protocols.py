"""The attributes and methods of a model that other parts of dwiml use, for type checkers.

A model need not inherit from dwiml's classes: these attributes and methods are enough. Only trainers need a
:class:`dwiml.MainModelAbstract`, which is recorded and saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dwiml.ops.randomness import KeyedDraws
from dwiml.ops.sequences import TensorSequence

Allowed = Callable[[Tensor], Tensor]
"""Function that says which directions, along voxel axes, each of N rows (streamlines) may take, as a boolean mask.

Called with (C, 3) candidate directions shared by all rows, it returns a mask (N, C); called with (N, K, 3) candidates
per row, a mask (N, K).
"""


class LoaderModel(Protocol):
    """A model that a batch loader can serve: it states how its streamlines are resampled.

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
        """Whether the model also receives the last point of each streamline, from which no direction leaves."""


class OneInputModel(LoaderModel, Protocol):
    """A model for a batch loader that reads a volume."""

    @property
    def nb_features(self) -> int:
        """Number of features of each voxel of the volume."""

    @property
    def neighborhood_offsets(self) -> Tensor | None:
        """Offsets at which the volume is read for a point: (P, 3), in voxels; None: at the point itself.

        First the point itself (zeros, or the displacement ``volume_shift`` of the model), then its neighbors, with the
        same displacement.
        """


class EvaluatedModel(Protocol):
    """What all evaluations need of a model."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""

    @property
    def training(self) -> bool:
        """Whether the model is in training mode, as in ``torch.nn.Module``."""

    @property
    def forward_uses_last_point(self) -> bool:
        """As in :class:`LoaderModel`."""

    def train(self, mode: bool = True) -> Any:
        """Set the training mode, as in ``torch.nn.Module``."""

    def eval(self) -> Any:
        """Set the evaluation mode, as in ``torch.nn.Module``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for ``(inputs, streamlines)``."""

    def compute_loss(self, outputs: Any, targets: Any, average_results: bool = True) -> tuple[Tensor, int]:
        """Return the loss; see :meth:`dwiml.MainModelAbstract.compute_loss`."""


class LossModel(EvaluatedModel, Protocol):
    """A model whose loss at each point can be shown (``dwiml show_loss``)."""

    def eos_probability(self, outputs: Any) -> Tensor | None:
        """Return the probability of the end of the streamline at each row of outputs, (N,); None if not predicted."""


class DirectionModel(EvaluatedModel, Protocol):
    """A model whose direction error can be measured (``dwiml evaluate``)."""

    def get_tracking_directions(self, outputs: Any, algo: str, eos_stopping_thresh: float | None = None) -> Tensor:
        """Return the direction of each row of outputs; see :meth:`TrackingModel.get_tracking_directions`."""


class ClassifierModel(OneInputModel, Protocol):
    """A model that classifies whole streamlines as plausible or not, for the acceptance of tracked streamlines.

    Its ``nb_points`` is the number of points of each streamline that it receives.
    """

    @property
    def device(self) -> torch.device:
        """Device of the model."""

    def eval(self) -> Any:
        """Set the evaluation mode, as in ``torch.nn.Module``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for ``(inputs, streamlines)``; see :meth:`dwiml.MainModelAbstract.forward`."""

    def plausibility(self, outputs: Any) -> Tensor:
        """Return the probability that each streamline is plausible, (S,), from 0 to 1.

        Parameters
        ----------
        outputs
            Outputs for S streamlines.
        """


class AttentionModel(Protocol):
    """A model whose attention can be shown (``dwiml show_attention``), such as a transformer."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""

    def attention(self, inputs: Any, streamlines: TensorSequence) -> Mapping[str, Sequence[Tensor]]:
        """Return the weights of attention, without dropout.

        Parameters
        ----------
        inputs
            Features (N, P * F) at each point, as a :class:`~dwiml.TensorSequence`; None without a volume.
        streamlines
            Points (N, 3), voxel space, corner origin.

        Returns
        -------
        dict
            For each group of layers, by its name, one tensor per layer, of shape (S, number of heads, L, L), L being
            the number of points of the longest streamline. Row i holds the weights that point i gives to the points 0
            to i, with a sum of 1; rows beyond the end of a streamline are 0.
        """


class TrackingModel(Protocol):
    """A model that can track, for tractography and the generation-validation phase.

    A subclass of :class:`dwiml.ModelWithOneInput` and :class:`dwiml.ModelWithDirectionGetter` has all of these.
    """

    @property
    def device(self) -> torch.device:
        """Device of the model, to which streamlines and volume are moved."""

    @property
    def nb_features(self) -> int:
        """Number of features of each voxel of the volume."""

    @property
    def neighborhood_offsets(self) -> Tensor | None:
        """Offsets at which the volume is read for a point: (P, 3), in voxels; None: at the point itself.

        First the point itself (zeros, or the displacement ``volume_shift`` of the model), then its neighbors, with the
        same displacement.
        """

    @property
    def nb_points_to_track(self) -> int:
        """Number of last points of a streamline that :meth:`track_step` needs, in addition to its memory."""

    def parameters(self) -> Iterator[Tensor]:
        """Return the weights, from which the memory needed per point is estimated."""

    def eval(self) -> Any:
        """Set the evaluation mode, as in ``torch.nn.Module``."""

    def check_tracking(self, algo: str, eos_stopping_thresh: float | None) -> None:
        """Check, before tracking, that the model supports an algorithm and an EOS threshold.

        Parameters
        ----------
        algo
            ``"det"`` or ``"prob"``.
        eos_stopping_thresh
            Probability of the end of the streamline (EOS) at which it stops, from 0 to 1, or None.

        Raises
        ------
        ValueError
            If the model does not support them.
        """

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        """Compute the outputs at the last point of each streamline.

        Parameters
        ----------
        inputs
            Features (N, P * F) at the new points: all points of the first segments in the first call, then one for each
            streamline.
        streamlines
            Points (M, 3), voxel space, corner origin: the first segments in the first call, then the last
            :attr:`nb_points_to_track` points of each streamline (at least 2; fewer where it has no more).
        memory
            Memory returned by the previous call; None in the first call.

        Returns
        -------
        tuple
            The outputs, one row for each streamline, and the memory for the next call.
        """

    def select_memory(self, memory: Any, kept: Tensor) -> Any:
        """Return the memory of the streamlines that continue.

        Parameters
        ----------
        memory
            Memory returned by :meth:`track_step`.
        kept
            Shape (K,), int64, increasing, on the model's device: the indices of these streamlines.
        """

    def get_tracking_directions(
        self,
        outputs: Any,
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
            What :meth:`track_step` returned.
        algo
            ``"det"`` for the most likely direction; ``"prob"`` for a direction drawn from the distribution.
        eos_stopping_thresh
            Probability of the end of the streamline (EOS) at which it stops; None: EOS is not used.
        draws
            For ``"prob"``: random numbers, with one key per streamline.
        allowed
            For ``"prob"``: the directions that each streamline may take
            (:data:`dwiml.models.protocols.Allowed`); None: all.

        Returns
        -------
        Tensor
            Shape (S, 3), along voxel axes, of any length except 0. Zero where there is no direction; NaN where the
            streamline ends.
        """


def check_tracks(model: Any, asked_by: str) -> None:
    """Check that a model has all attributes and methods of :class:`TrackingModel`.

    Parameters
    ----------
    model
        Any object.
    asked_by
        Name of the class or command that needs the model, for the error message.

    Raises
    ------
    ValueError
        If some are missing, which the message names, or if the model receives another space than voxel space.
    """
    missing = [name for name in vars(TrackingModel) if not name.startswith("_") and not hasattr(model, name)]
    if missing and hasattr(model, "plausibility"):
        raise ValueError(
            f"{asked_by} needs a model that tracks; {type(model).__name__} classifies streamlines: give it as "
            "classifier, together with a model that tracks."
        )
    if missing:
        raise ValueError(
            f"{asked_by} needs a model that tracks; {type(model).__name__} has no {' and no '.join(missing)}: make it "
            "a subclass of ModelWithOneInput and ModelWithDirectionGetter, or define what dwiml.TrackingModel lists."
        )
    if getattr(model, "streamlines_space", "vox") != "vox":
        raise ValueError(
            f"{asked_by} needs a model that receives voxel space; {type(model).__name__} receives scanner space "
            f"(streamlines_space={model.streamlines_space!r}), in which no model of dwiml tracks."
        )
