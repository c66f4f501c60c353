"""The base class of models: recorded parameters, saving and loading, and the resampling of streamlines."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dwiml.arguments import check_number, check_whole
from dwiml.models.saving import (
    PARAMETERS_FILE,
    STATE_FILE,
    build_like,
    describe,
    read_params,
    read_state,
    write_model,
)
from dwiml.ops.resampling import MAX_POINTS
from dwiml.ops.sequences import TensorSequence
from dwiml.params import Parameterized, not_passed_on
from dwiml.seeding import global_seed

if TYPE_CHECKING:
    from typing_extensions import Self


# Parameters that become attributes, which the batch loaders read.
_KEPT = ("step_size", "nb_points", "compress_lines", "neighborhood_type", "neighborhood_radius", "nb_features")


class MainModelAbstract(Parameterized, nn.Module, abc.ABC):
    """Base class of all models.

    A subclass defines :meth:`forward` and :meth:`compute_loss`, or inherits the latter from
    :class:`~dwiml.models.with_direction_getter.ModelWithDirectionGetter`. Its constructor's arguments are recorded
    automatically (see :class:`dwiml.params.Parameterized`); :meth:`save` and :meth:`load` rely on them.

    Parameters
    ----------
    experiment_name
        Name of the experiment that the model belongs to; recorded only, if it is given.
    step_size
        Resample streamlines to this step, in mm.
    nb_points
        Resample streamlines to this number of points.
    compress_lines
        Compress streamlines with this tolerance, in mm (:func:`dwiml.ops.resampling.compress`).

    Raises
    ------
    TypeError
        If a parameter is not one of the model's; similar names are suggested. Also if a subclass does not pass it on.
    ValueError
        If more than one of ``step_size``, ``nb_points`` and ``compress_lines`` is given, or a value is out of range.
    """

    _recorded_only = frozenset({"experiment_name"})
    _computed = Parameterized._computed | {"device"}

    neighborhood_offsets: Tensor | None
    """Offsets at which the volume is read around each point: (P, 3), float32, in voxels; None: the point itself."""
    max_len: int | None = None
    """The largest number of points of a streamline that the model takes; None: any number."""
    streamlines_space: str = "vox"
    """Space of the points that the model receives: ``"vox"`` (corner origin) or ``"rasmm"`` (mm, center origin)."""
    same_nb_points: bool = False
    """Whether all streamlines must have :attr:`nb_points` points, so that they cannot be split."""
    target_key: str | None = None
    """Name of the data per streamline that :meth:`compute_loss` receives as ``values``; None: it receives none."""
    target_range: tuple[float, float] | None = None
    """Smallest and largest value of these data, which is checked before the training; None: any finite number."""
    target_size: int | None = None
    """Number of values of a streamline in these data; None: any, but the same for all subjects."""
    weights_seed: int | None
    """The seed of :func:`dwiml.seed_everything` when the model was built; None: it had not been called."""

    def __init__(
        self,
        *,
        experiment_name: str = "",
        step_size: float | None = None,
        nb_points: int | None = None,
        compress_lines: float | None = None,
    ) -> None:
        super().__init__()
        self.weights_seed = global_seed()
        self._padding = (0, 0)
        self.register_buffer("neighborhood_offsets", None, persistent=False)
        self.experiment_name = experiment_name
        _check_one_resampling(step_size=step_size, nb_points=nb_points, compress_lines=compress_lines)
        self.step_size = _none_or_positive("step_size", step_size)
        self.nb_points = None if nb_points is None else check_whole("nb_points", nb_points, low=2, high=MAX_POINTS)
        self.compress_lines = _none_or_positive("compress_lines", compress_lines)

    @property
    def forward_uses_last_point(self) -> bool:
        """Whether :meth:`forward` receives each streamline's last point, from which no direction leaves."""
        return True

    @property
    def layers_by_point(self) -> list[nn.Module]:
        """Layers that process each row of (N, F) independently: those that ``compile_model`` compiles."""
        return []

    def _check_passed_on(self) -> None:
        super()._check_passed_on()
        for name in _KEPT:
            is_lost = self._recorded.get(name) is not None and getattr(self, name, None) is None
            if is_lost and self._is_for_base(name):
                raise not_passed_on(self, name)

    def _plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # A name that was not given would look like a name that is missing.
        named = {name: value for name, value in values.items() if (name, value) != ("experiment_name", "")}
        return super()._plain(named)

    @abc.abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute outputs, in any form that :meth:`compute_loss` accepts.

        Parameters
        ----------
        *args, **kwargs
            With ``DWIMLTrainerOneInput``: ``inputs``, features (N, P * F) at each point, and ``streamlines``, points
            (N, 3) in voxel space, corner origin (see :attr:`streamlines_space`), both as
            :class:`~dwiml.TensorSequence`. With ``DWIMLTrainer``: ``streamlines``.
        """

    @property
    def nb_points_to_track(self) -> int:
        """Number of last points of a streamline that :meth:`track_step` needs, in addition to its memory; 1 by default.

        With the default :meth:`track_step`: the number of last points on which an output depends.
        """
        return 1

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        """Compute the outputs at the last point of each streamline, to continue from there.

        By default: :meth:`forward` at the last :attr:`nb_points_to_track` points of each streamline; the memory has the
        inputs of these points. Override it in a model whose output depends on all previous points.
        :func:`dwiml.check_track_step` checks that it agrees with :meth:`forward`.

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
        nb = self.nb_points_to_track
        if nb == 1:
            return self.forward(inputs.tail(1), streamlines.tail(1)), None
        known = (inputs if memory is None else memory.joined(inputs)).tail(nb)
        outputs = self.forward(known, streamlines.tail(nb))
        return known.mapped(outputs).last_points(), known

    @property
    def tracking_bytes_per_point(self) -> int:
        """Memory that :meth:`track_step` keeps for each point of a streamline, in bytes; here 0."""
        return 0

    def select_memory(self, memory: Any, kept: Tensor) -> Any:
        """Return the memory of the streamlines that continue.

        Parameters
        ----------
        memory
            Memory returned by :meth:`track_step`.
        kept
            Shape (K,), int64: the indices of these streamlines among those of the memory.
        """
        return memory.select(kept) if isinstance(memory, TensorSequence) else None

    def count_padding(self, nb_rows: int, nb_places: int) -> None:
        """Count the padding of a batch, for the log; a model that pads its sequences calls it in :meth:`forward`.

        Parameters
        ----------
        nb_rows
            Number of rows of the sequences.
        nb_places
            Number of rows of the padded sequences.
        """
        self._padding = (self._padding[0] + nb_rows, self._padding[1] + nb_places)

    def take_padding(self) -> tuple[int, int]:
        """Return the numbers of rows that were counted by :meth:`count_padding`, and start again from 0."""
        counted, self._padding = self._padding, (0, 0)
        return counted

    def eos_probability(self, outputs: Any) -> Tensor | None:
        """Return the probability of the end of the streamline (EOS) at each row.

        Parameters
        ----------
        outputs
            Outputs of :meth:`forward`, N rows.

        Returns
        -------
        Tensor or None
            Shape (N,), from 0 to 1; None, as here, for a model that does not predict it.
        """
        return None

    @abc.abstractmethod
    def compute_loss(self, outputs: Any, targets: Any, average_results: bool = True) -> tuple[Tensor, int]:
        """Compare outputs with the target streamlines.

        With a :attr:`target_key`, the method also receives ``values``, the data per streamline of that name: shape
        (S, K), float32, on the device of the model.

        Parameters
        ----------
        outputs
            Outputs of :meth:`forward`.
        targets
            Points (M, 3), voxel space, corner origin (see :attr:`streamlines_space`): the whole streamlines, as a
            :class:`~dwiml.TensorSequence`.
        average_results
            Whether to return the mean loss or the loss of each element.

        Returns
        -------
        tuple
            The mean loss, a 0-d tensor (or the losses, (n,)), and the number of elements n, by which batches are
            weighted.
        """

    @property
    def device(self) -> torch.device:
        """Device of the parameters; the CPU for a model without any."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all that is needed to recreate the model.

        Each file is written to a temporary file and then renamed; an existing one is replaced. The weights have a
        digest (SHA-256), so that :meth:`load` detects later changes; ``torch.load`` can read the file too.

        Parameters
        ----------
        folder
            Created if needed. Receives ``parameters.json`` (class, parameters, dwiml's version) and ``model_state.pt``.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        write_model(Path(folder), describe(self), self.state_dict())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Recreate a saved model.

        Parameters
        ----------
        folder
            The folder given to :meth:`save`.
        device
            Device of the model, which may differ from that on which it was saved.

        Returns
        -------
        Self
            The model, in training mode like a new one.

        Raises
        ------
        FileNotFoundError, OSError
            If a file is missing or cannot be read.
        ValueError
            If a file is damaged (the weights no longer match their digest), is of another class or with other
            weights, or holds weights that are NaN or infinite. No memory is allocated for a model larger than the
            weights in the file.
        """
        parameters, weights = Path(folder) / PARAMETERS_FILE, Path(folder) / STATE_FILE
        params = read_params(parameters, cls).params
        state = read_state(weights)
        model: Self = build_like(lambda: cls(**params), state, parameters=parameters, weights=weights)
        return model.to(device)


def _check_one_resampling(**asked: float | None) -> None:
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"A model can ask for one resampling, got {len(given)}: {', '.join(given)}; keep one of them.")


def _none_or_positive(name: str, value: float | None) -> float | None:
    return None if value is None else check_number(name, value, low=0, low_included=False)
