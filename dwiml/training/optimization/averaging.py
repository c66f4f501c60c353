"""A moving average of a model's weights: what validation and the best model use, smoother than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from dwiml.arguments import check_number, shown
from dwiml.hdf5.schema import quoted

_HALVES = (torch.float16, torch.bfloat16)


def check_ema_decay(value: Any) -> float | None:
    """Return a decay as a float, or None for no average.

    Raises
    ------
    ValueError
        When it is neither None nor a number between 0 and 1, both excluded.
    """
    if value is None:
        return None
    try:
        decay = check_number("ema_decay", value, low=0, high=1, low_included=False)
    except ValueError:
        decay = 1.0
    if decay < 1:
        return decay
    raise ValueError(f"ema_decay must be None, or between 0 and 1 (for instance 0.999), got {shown(value)}.")


class AveragedWeights:
    """An exponential moving average of a model's parameters.

    After the optimizer's step number t (from 0), ``average = d * average + (1 - d) * parameter``, with
    ``d = min(decay, (1 + t) / (10 + t))``: the rule of TensorFlow's ``ExponentialMovingAverage`` (``num_updates``),
    by which the first weights, which are random, are forgotten soon. The average begins as the parameters are when the
    object is made. Buffers that are saved with the model (statistics, counters) and whole numbers are copied.

    Everything stays on the parameters' device, and nothing waits for it. The average of parameters in half precision is
    kept in float32, in which small changes are not lost.

    Parameters
    ----------
    model
        On its device already; the model itself, not what ``DistributedDataParallel`` or ``torch.compile`` made of it.
    decay
        Between 0 and 1, both excluded: 0.999 remembers about a thousand steps.

    Raises
    ------
    ValueError
        For another decay.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        checked = check_ema_decay(decay)
        if checked is None:
            raise ValueError("The decay of averaged weights must be between 0 and 1, got None.")
        self.decay = checked
        self.nb_updates = 0
        self._model = model
        self._in_use = False
        self._kept: dict[str, torch.Tensor] = {}
        parameters = dict(model.named_parameters())
        self._averaged = {name: each for name, each in parameters.items() if each.is_floating_point()}
        self._averages = {
            name: each.detach().to(torch.float32 if each.dtype in _HALVES else each.dtype, copy=True)
            for name, each in self._averaged.items()
        }
        # Buffers that are not saved with the model follow from something else.
        saved = model.state_dict().keys()
        buffers = {name: each for name, each in model.named_buffers() if name in saved}
        rest = {name: each for name, each in parameters.items() if name not in self._averaged}
        self._copies = {name: each.detach().clone() for name, each in (buffers | rest).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights of now; to be called after each step of the optimizer.

        Raises
        ------
        RuntimeError
            When the averaged weights are in use: they would be averaged with themselves.
        """
        if self._in_use:
            raise RuntimeError("The averaged weights are in the model now, so they cannot be updated from it.")
        decay = min(self.decay, (1 + self.nb_updates) / (10 + self.nb_updates))
        averages = list(self._averages.values())
        # Nothing is copied here unless a parameter is in half precision.
        now = [each.to(mean.dtype) for each, mean in zip(self._averaged.values(), averages, strict=True)]
        if averages:
            torch._foreach_lerp_(averages, now, 1 - decay)
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._copied().values()))
        self.nb_updates += 1

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the averaged weights into the model for the time of a ``with`` block.

        Afterwards, after an exception too, the model has its own weights and buffers again, to the bit; what the block
        itself changed in them is lost.

        Raises
        ------
        RuntimeError
            When they are in use already.
        """
        if self._in_use:
            raise RuntimeError("The averaged weights are in use already.")
        with torch.no_grad():
            self._kept = {name: each.detach().clone() for name, each in (self._averaged | self._copied()).items()}
        self._in_use = True
        try:
            self._fill(self._averages | self._copies)
            yield
        finally:
            self._fill(self._kept)
            self._in_use, self._kept = False, {}

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Give the model its own weights for the time of a block inside one of :meth:`in_use`; elsewhere, do nothing.

        For a checkpoint that is written during the validation.
        """
        if not self._in_use:
            yield
            return
        self._fill(self._kept)
        try:
            yield
        finally:
            self._fill(self._averages | self._copies)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates and the averaged tensors by name: the tensors themselves, as torch does."""
        return {"nb_updates": self.nb_updates, "tensors": self._averages | self._copies}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; its tensors may be on another device.

        Raises
        ------
        ValueError
            When a key is missing, unknown or does not fit this model; nothing is changed then.
        """
        _check_keys("The averaged weights' state", state, {"nb_updates", "tensors"})
        own, tensors, nb_updates = self._averages | self._copies, state["tensors"], state["nb_updates"]
        if type(nb_updates) is not int or nb_updates < 0:
            raise ValueError(f"The averaged weights' 'nb_updates' must be a whole number, got {shown(nb_updates)}.")
        _check_keys("The averaged weights' state", tensors, own)
        for name, mine in own.items():
            theirs = tensors[name]
            if not isinstance(theirs, torch.Tensor) or (theirs.shape, theirs.dtype) != (mine.shape, mine.dtype):
                raise ValueError(f"The averaged weight '{name}' must be {_described(mine)}, got {_described(theirs)}.")
        for name, mine in own.items():
            mine.copy_(tensors[name])
        self.nb_updates = nb_updates

    def _copied(self) -> dict[str, torch.Tensor]:
        """Return what is copied, as the model has it now: a module may put another tensor in a buffer's place."""
        if not self._copies:
            return {}
        own = dict(self._model.named_buffers()) | dict(self._model.named_parameters())
        return {name: own[name] for name in self._copies}

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        own = self._averaged | self._copied()
        for name, value in values.items():
            own[name].copy_(value)


def _check_keys(what: str, given: Any, wanted: Any) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a dictionary, got {_described(given)}.")
    missing, unknown = sorted(set(wanted) - set(given)), sorted(map(str, set(given) - set(wanted)))
    if missing or unknown:
        raise ValueError(f"{what} does not fit this model: missing {quoted(missing)}, unknown {quoted(unknown)}.")


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
