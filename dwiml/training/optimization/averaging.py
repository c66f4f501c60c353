"""A moving average of a model's weights: what validation and the best model use, smoother than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from dwiml.arguments import check_number, check_whole, shown
from dwiml.models.saving import described
from dwiml.training.experiment.plain import check_keys

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
    kept in float32, in which small changes are not lost. (``torch.optim.swa_utils.AveragedModel`` waits for a GPU at
    each update, averages in half precision, and takes neither whole numbers nor buffers that a module replaces.)

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
        self.decay, self.nb_updates = checked, 0
        self._model = model
        self._parameters = dict(model.named_parameters())
        # Buffers that are not saved with the model follow from something else.
        saved = model.state_dict().keys()
        self._buffers = [name for name, _ in model.named_buffers() if name in saved]
        self._averaged = [name for name, each in self._parameters.items() if each.is_floating_point()]
        self._kept: dict[str, torch.Tensor] | None = None
        own = self._own()
        self._copied = [name for name in own if name not in self._averaged]
        self._tensors = {name: each.detach().clone() for name, each in own.items()}
        for name in self._averaged:
            if own[name].dtype in _HALVES:
                self._tensors[name] = self._tensors[name].float()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights of now; to be called after each step of the optimizer.

        Raises
        ------
        RuntimeError
            While the averaged weights are applied: they would be averaged with themselves.
        """
        if self._kept is not None:
            raise RuntimeError("The averaged weights are in the model now, so they cannot be updated from it.")
        decay = min(self.decay, (1 + self.nb_updates) / (10 + self.nb_updates))
        own, averages = self._own(), [self._tensors[name] for name in self._averaged]
        # Nothing is copied here unless a parameter is in half precision.
        now = [own[name].to(mean.dtype) for name, mean in zip(self._averaged, averages, strict=True)]
        if averages:
            torch._foreach_lerp_(averages, now, 1 - decay)
        if self._copied:
            torch._foreach_copy_([self._tensors[name] for name in self._copied], [own[name] for name in self._copied])
        self.nb_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights into the model for the time of a ``with`` block.

        Afterwards, after an exception too, the model has its own weights and buffers again, to the bit; what the block
        itself changed in them is lost.

        Raises
        ------
        RuntimeError
            When they are applied already.
        """
        if self._kept is not None:
            raise RuntimeError("The averaged weights are in the model already.")
        self._kept = {name: each.detach().clone() for name, each in self._own().items()}
        try:
            self._fill(self._tensors)
            yield
        finally:
            self._fill(self._kept)
            self._kept = None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Give the model its own weights for the time of a block inside one of :meth:`applied`; elsewhere, do nothing.

        For a checkpoint that is written during the validation.
        """
        if self._kept is None:
            yield
            return
        self._fill(self._kept)
        try:
            yield
        finally:
            self._fill(self._tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates and the averaged tensors by name: the tensors themselves, as torch does."""
        return {"nb_updates": self.nb_updates, "tensors": dict(self._tensors)}

    def check_state(self, state: Any) -> None:
        """Check that a state is one of averaged weights of this model, and has no NaN; ValueError with the reason."""
        check_keys("the averaged weights' state", state, self.state_dict())
        check_whole("'nb_updates'", state["nb_updates"], low=0)
        check_keys("the average", state["tensors"], self._tensors)
        for name, mine in self._tensors.items():
            theirs = state["tensors"][name]
            if described(theirs) != described(mine):
                raise ValueError(f"'{name}' should be {described(mine)} and is {described(theirs)}")
            if bool(torch.isnan(theirs).any()):
                raise ValueError(f"'{name}' has values that are NaN")

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; its tensors may be on another device.

        Raises
        ------
        ValueError
            When it does not fit this model (:meth:`check_state`); nothing is changed then.
        """
        self.check_state(state)
        for name, mine in self._tensors.items():
            mine.copy_(state["tensors"][name])
        self.nb_updates = state["nb_updates"]

    def _own(self) -> dict[str, torch.Tensor]:
        """Return what the model has now: a module may put another tensor in a buffer's place."""
        buffers = dict(self._model.named_buffers()) if self._buffers else {}
        return {**self._parameters, **{name: buffers[name] for name in self._buffers}}

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        own = self._own()
        for name, value in values.items():
            own[name].copy_(value)
