"""What every model brings: its recorded parameters, its file format, what it asks of the streamlines."""

from __future__ import annotations

import abc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dwiml.arguments import check_number, check_whole, unknown_parameter
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
from dwiml.params import Parameterized
from dwiml.seeding import seed_of_everything

if TYPE_CHECKING:
    from typing_extensions import Self


class MainModelAbstract(Parameterized, nn.Module, abc.ABC):
    """The parent of all models.

    A subclass defines :meth:`forward` and :meth:`compute_loss`, or takes the latter from
    :class:`~dwiml.models.with_direction_getter.ModelWithDirectionGetter`. Its constructor's arguments are recorded by
    themselves (see :class:`dwiml.params.Parameterized`), which is what :meth:`save` and :meth:`load` rely on.

    Parameters
    ----------
    experiment_name
        The name of the experiment that the model belongs to; kept, and not used.
    step_size
        Resample streamlines to this step, in mm.
    nb_points
        Resample streamlines to this number of points.
    compress_lines
        Compress streamlines with this tolerance, in mm.

    Raises
    ------
    TypeError
        When a parameter is given that no class of the model has; similar names are suggested.
    ValueError
        When more than one of the three is given, or one is not positive.
    """

    neighborhood_offsets: Tensor | None
    """Where inputs are read around each point: (P, 3), vox. None: at the point itself."""
    weights_seed: int | None
    """The seed of :func:`dwiml.seed_everything` when the model was made; None: the weights were not seeded by it."""

    def __init__(
        self,
        *,
        experiment_name: str = "",
        step_size: float | None = None,
        nb_points: int | None = None,
        compress_lines: float | None = None,
        **unknown: Any,
    ) -> None:
        # What no class of the chain has taken ends here, where all their names are known.
        if unknown:
            raise unknown_parameter(type(self).__name__, next(iter(unknown)), set(self._recorded) - set(unknown))
        super().__init__()
        self.weights_seed = seed_of_everything()
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
        """Layers that take rows (N, F) and treat each by itself: those that ``compile_model`` compiles."""
        return []

    @abc.abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute outputs, usually from ``(inputs, streamlines)``: whatever :meth:`compute_loss` understands."""

    @property
    def nb_points_to_track(self) -> int:
        """How many of a streamline's last points :meth:`track_step` needs, beside what it keeps in memory."""
        return 1

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Any, Any]:
        """Compute the outputs at the last point of each streamline, to go on from there.

        Here: :meth:`forward` without any memory, under the last points alone. A model that looks at more than a point
        overrides it.

        Parameters
        ----------
        inputs
            Under the points that are new: all of a first segment, then one for each streamline.
        streamlines
            The first segments, then the last :attr:`nb_points_to_track` points of each streamline (fewer, where it has
            no more), voxel space.
        memory
            What the call before returned; None at the first one.

        Returns
        -------
        tuple
            The outputs, a row for each streamline, and the memory for the next call.
        """
        return self.forward(inputs.tail(1), streamlines.tail(1)), None

    def select_memory(self, memory: Any, kept: Tensor) -> Any:
        """Return the memory of some of the streamlines: those that go on, by number, shape (K,)."""
        return None

    def eos_probability(self, outputs: Any) -> Tensor | None:
        """Return the probability that each streamline ends here, (N,); here None: the model does not tell."""
        return None

    @abc.abstractmethod
    def compute_loss(self, outputs: Any, targets: Any, average_results: bool = True) -> tuple[Tensor, int]:
        """Compare outputs with the target streamlines.

        Returns
        -------
        tuple
            The mean loss, a 0-d tensor (or with ``average_results=False`` the loss of each element), and the number
            of elements in it, by which batches are weighted.
        """

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a model without any."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all that is needed to build the model again.

        Each file is written aside and put in place when whole; one that is there already is replaced. The weights
        have a digest (SHA-256), so that :meth:`load` finds a bit that has changed since; ``torch.load`` reads the file
        too.

        Parameters
        ----------
        folder
            Made where needed. Receives ``parameters.json`` (class, parameters, dwiml's version) and
            ``model_state.pt``.
        """
        write_model(Path(folder), describe(self), self.state_dict())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Build a saved model again.

        Parameters
        ----------
        folder
            Where :meth:`save` wrote.
        device
            Where the model goes, whatever it was saved on.

        Raises
        ------
        FileNotFoundError, OSError
            When a file is missing, or the system refuses it.
        ValueError
            When a file is damaged (the weights no longer match their digest), holds another class or other weights, or
            weights that are NaN or infinite. The model is built only when it has the size of the weights in the file.
        """
        parameters, weights = Path(folder) / PARAMETERS_FILE, Path(folder) / STATE_FILE
        _, params = read_params(parameters, cls.__name__)
        state = read_state(weights)
        model: Self = build_like(lambda: cls(**params), state, parameters=parameters, weights=weights)
        return model.to(device)


def _check_one_resampling(**asked: float | None) -> None:
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"A model can ask for one resampling, got {len(given)}: {', '.join(given)}; keep one of them.")


def _none_or_positive(name: str, value: float | None) -> float | None:
    return None if value is None else check_number(name, value, low=0, low_included=False)
