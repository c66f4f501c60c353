"""Gradients of one or more batches, and the step of the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from dwiml.training.optimization.averaging import AveragedWeights

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class WeightUpdater:
    """Accumulates the gradients of batches, and updates the weights.

    The gradient of several batches is that of the mean loss over all their points, as if they were one batch.

    Parameters
    ----------
    parameters
        Parameters of the model.
    optimizer
        Optimizer of these parameters.
    device
        Device of the parameters.
    precision
        Precision in which the model computes, one of :data:`PRECISIONS`; weights and updates are in float32.
    clip_grad
        Maximum norm of the gradient over all weights; None for no clipping.
    accumulate_batches
        Number of batches per update of the weights.
    averaged
        Averaged weights to update after each step, or None.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: str = "float32",
        clip_grad: float | None = None,
        accumulate_batches: int = 1,
        averaged: AveragedWeights | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self.optimizer = optimizer
        self.averaged = averaged
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._device = device
        self._dtype = PRECISIONS[precision]
        self._limit = float("inf") if clip_grad is None else clip_grad
        self._accumulate = accumulate_batches
        self._total, self._share = 0, 1
        self._first_weight = 0
        self._weights: list[float] = []
        self._is_finished = False

    def check(self) -> None:
        """Raise ValueError if the optimizer has other parameters than when the trainer was created."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if list(map(id, parameters)) != list(map(id, self._parameters)):
            raise ValueError(
                "The parameters of the optimizer were changed after the trainer was created, which a resumed run could "
                "not restore: give the trainer a function as optimizer that creates all groups of parameters."
            )

    @property
    def nb_waiting(self) -> int:
        """Number of batches accumulated since the last step."""
        return len(self._weights)

    @property
    def is_due(self) -> bool:
        """Whether enough batches were accumulated for a step."""
        return len(self._weights) >= self._accumulate

    @property
    def is_empty(self) -> bool:
        """Whether no gradient is accumulated."""
        return not self._weights

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context in which the model computes."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None)

    def begin_batch(self, nb_points: int, nb_ranks: int) -> None:
        """Set the number of points of a batch over all ranks, and the number of ranks that average its gradient."""
        self._total, self._share = nb_points, nb_ranks

    def back_propagate(self, mean_loss: torch.Tensor, weight: int) -> None:
        """Add the gradient of a batch to that of the current step.

        Parameters
        ----------
        mean_loss
            Mean loss of the batch, a 0-d tensor.
        weight
            Number of points in the mean.

        Raises
        ------
        ValueError
            If the loss does not depend on the weights.
        """
        if not mean_loss.requires_grad:
            raise ValueError(
                "The mean loss of the batch does not depend on the weights of the model, so that nothing can be "
                "learned: compute it from the outputs of the model, without detach(), item() or torch.no_grad(), and "
                "leave some weights with requires_grad=True."
            )
        total = self._total
        if self.is_empty:
            self.optimizer.zero_grad(set_to_none=True)
            self._first_weight = total
        # Relative to the first batch, so that the loss of a single batch is unchanged.
        relative = total / self._first_weight
        factor = relative * self._share * weight / total
        self._weights.append(relative)
        loss = mean_loss if factor == 1 else mean_loss * factor
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def gradient_norm(self) -> torch.Tensor:
        """Complete and clip the gradient of the step; return its norm before clipping, a 0-d tensor."""
        self.scaler.unscale_(self.optimizer)
        self._is_finished = self.scaler.is_enabled()
        total = sum(self._weights)
        if total != 1:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_div_(gradients, total)
        return torch.nn.utils.clip_grad_norm_(self._parameters, self._limit)

    def apply(self) -> None:
        """Take one step of the optimizer."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # In fp16, the scaler skips a step that overflows, and lowers the scale.
        if self.averaged is not None and self.scaler.get_scale() >= scale:
            self.averaged.update()
        self._weights.clear()
        self._is_finished = False

    def discard(self) -> None:
        """Discard the accumulated gradient."""
        if self._is_finished:
            # Required by the scaler before the next gradient.
            self.scaler.update()
        self._is_finished = False
        self._weights.clear()
        self.optimizer.zero_grad(set_to_none=True)
