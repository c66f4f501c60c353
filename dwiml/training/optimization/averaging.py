"""A moving average of a model's weights, used by the validation and for the best model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from dwiml.arguments import check_number, check_whole, shown
from dwiml.models.saving import described
from dwiml.training.experiment.plain import check_keys


def check_ema_decay(value: Any) -> float | None:
    """Return the decay as a float, or None for no average.

    Raises
    ------
    ValueError
        If it is neither None nor a number between 0 and 1, both excluded.
    """
    if value is None:
        return None
    with suppress(ValueError):
        decay = check_number("ema_decay", value, low=0, high=1, low_included=False)
        if decay < 1:
            return decay
    raise ValueError(f"ema_decay must be None, or between 0 and 1 (for instance 0.999), got {shown(value)}.")


class AveragedWeights:
    """An exponential moving average of a model's parameters.

    After step t of the optimizer (from 0), ``average = d * average + (1 - d) * parameter``, with
    ``d = min(decay, (1 + t) / (10 + t))``, so that the initial random weights are soon forgotten. The average starts
    with the parameters at construction. Buffers that are saved with the model (statistics, counters) and integers are
    copied.

    Everything stays on the device of the parameters, and nothing waits for it. The average of parameters in half
    precision is kept in float32, so that small changes are not lost. (``torch.optim.swa_utils.AveragedModel`` does
    neither, and supports neither integers nor buffers that a module replaces.)

    Parameters
    ----------
    model
        The model, on its device; not wrapped by ``DistributedDataParallel`` or ``torch.compile``.
    decay
        Between 0 and 1, both excluded; 0.999 averages over about a thousand steps.

    Raises
    ------
    ValueError
        If the decay is out of range.

    References
    ----------
    The decay of the first steps is that of ``tf.train.ExponentialMovingAverage`` with ``num_updates`` (TensorFlow).
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        checked = check_ema_decay(decay)
        if checked is None:
            raise ValueError("The decay of averaged weights must be between 0 and 1, got None.")
        self.decay, self.nb_updates, self._model = checked, 0, model
        self._kept: dict[str, torch.Tensor] | None = None
        self._parameters = dict(model.named_parameters())
        # Buffers that are not saved with the model are computed from other values.
        saved = model.state_dict().keys()
        self._buffers = [name for name, _ in model.named_buffers() if name in saved]
        self._averaged = [name for name, each in self._parameters.items() if each.is_floating_point()]
        own = self._own()
        self._copied = [name for name in own if name not in self._averaged]
        self._tensors = {name: each.detach().clone() for name, each in own.items()}
        for name in self._averaged:
            self._tensors[name] = self._tensors[name].to(torch.promote_types(own[name].dtype, torch.float32))

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average, after a step; RuntimeError inside :meth:`applied`."""
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
        """Put the averaged weights into the model for a ``with`` block; RuntimeError if they are already there.

        Afterwards, also after an exception, the model has exactly its own weights and buffers again; changes made by
        the block are lost.
        """
        if self._kept is not None:
            raise RuntimeError("The averaged weights are already applied.")
        self._kept = {name: each.detach().clone() for name, each in self._own().items()}
        try:
            self._fill(self._tensors)
            yield
        finally:
            self._fill(self._kept)
            self._kept = None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Put the model's own weights back for a block inside :meth:`applied`; do nothing outside of it."""
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
        """Check that a state fits this model and has no NaN; raise ValueError with the reason otherwise."""
        check_keys("the averaged weights' state", state, self.state_dict())
        check_whole("'nb_updates'", state["nb_updates"], low=0)
        check_keys("the average", state["tensors"], self._tensors)
        for name, own in self._tensors.items():
            loaded = state["tensors"][name]
            if described(loaded) != described(own):
                raise ValueError(f"'{name}' should be {described(own)} but is {described(loaded)}")
            if bool(torch.isnan(loaded).any()):
                raise ValueError(f"'{name}' has values that are NaN")

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, from any device; raise ValueError, and change nothing, if it does not fit this model."""
        self.check_state(state)
        for name, own in self._tensors.items():
            own.copy_(state["tensors"][name])
        self.nb_updates = state["nb_updates"]

    def _own(self) -> dict[str, torch.Tensor]:
        """Return the model's current tensors; a module may have replaced a buffer by another tensor."""
        buffers = dict(self._model.named_buffers()) if self._buffers else {}
        return {**self._parameters, **{name: buffers[name] for name in self._buffers}}

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        own = self._own()
        for name, value in values.items():
            own[name].copy_(value)
