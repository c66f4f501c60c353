"""A training step of a model, beside the same step of the same network written with torch's own layers.

A step is all that training does with a batch once its inputs are there: embedding, forward, loss, backward, clipping,
Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from measuring import Figure, compare
from torch import Tensor, nn

from dwiml import TensorSequence
from dwiml.models.allocator import keep_freed_memory
from dwiml.models.base import MainModelAbstract

NB_CHECKED = 20


@dataclass(frozen=True)
class Batch:
    """What a model receives, and what its loss compares the outputs with.

    Attributes
    ----------
    inputs
        Arguments of the forward pass; the first one has a row for each point.
    targets
        Streamlines, points (N, 3).
    """

    inputs: tuple[TensorSequence, ...]
    targets: TensorSequence

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(tuple(each.to(device) for each in self.inputs), self.targets.to(device))


def make_batch(nb_streamlines: int, nb_features: int) -> Batch:
    """Return inputs and streamlines of 30 to 200 points."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 201, (nb_streamlines,), generator=generator)
    targets = TensorSequence(torch.randn(int(lengths.sum()), 3, generator=generator).cumsum(0), lengths)
    trimmed = targets.trimmed_last()
    inputs = trimmed.mapped(torch.randn(trimmed.total_points, nb_features, generator=generator))
    return Batch((inputs, trimmed), targets)


def prepare(device: torch.device, *, quick: bool) -> None:
    """Use 2 threads, and the allocator as training does; for tiny work 1 thread, which waits for no other."""
    torch.set_num_threads(1 if quick else 2)
    if device.type == "cpu":
        keep_freed_memory()


def compare_steps(
    name: str,
    model: MainModelAbstract,
    plain: nn.Module,
    batch_of: Callable[[int], Batch],
    nb_streamlines: int,
    *,
    baseline: str,
    device: torch.device,
    baseline_repeats: int = 5,
) -> Figure:
    """Time the training steps of a model and of its baseline.

    Parameters
    ----------
    name
        Name of the benchmark.
    model, plain
        The model of dwiml and its baseline, which returns the same outputs; the loss is the model's for both.
    batch_of
        Returns a batch of a number of streamlines.
    nb_streamlines
        Number of streamlines of the batch.
    baseline
        What the baseline does.
    device
        Where both are.
    baseline_repeats
        Repetitions of the baseline.

    Raises
    ------
    RuntimeError
        If the baseline computes something else than the model.
    """
    # Few streamlines: the memory is that of dwiml's step.
    check_same(model, plain, batch_of(NB_CHECKED).to(device))
    batch = batch_of(nb_streamlines).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, slow_seconds, peak = compare(
        training_step(model, model, batch),
        training_step(plain, model, batch),
        repeats=5,
        baseline_repeats=baseline_repeats,
        device=device,
    )
    nb_points = batch.inputs[0].total_points
    return Figure(name, nb_points / seconds, "points/s", nb_points / slow_seconds, baseline, peak)


def training_step(network: nn.Module, model: MainModelAbstract, batch: Batch) -> Callable[[], float]:
    """Return a function that trains a network on the batch once, with the loss of a model, and returns the loss."""
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> float:
        optimizer.zero_grad()
        loss, _n = model.compute_loss(network(*batch.inputs), batch.targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def check_same(model: MainModelAbstract, plain: nn.Module, batch: Batch) -> None:
    """Check that both have as many parameters, and the same outputs, loss and norm of the gradient.

    Raises
    ------
    RuntimeError
        If they differ, by more than 0.1% where they are computed.
    """
    counts = [sum(weights.numel() for weights in network.parameters()) for network in (model, plain)]
    if counts[0] != counts[1]:
        raise RuntimeError(f"The model of dwiml has {counts[0]} parameters, and the baseline {counts[1]}.")
    found: list[dict[str, Tensor]] = []
    for network in (model, plain):
        outputs = network(*batch.inputs)
        loss, _n = model.compute_loss(outputs, batch.targets)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.get_total_norm([each.grad for each in network.parameters() if each.grad is not None])
        network.zero_grad()
        found.append({"outputs": outputs.detach(), "loss": loss.detach(), "gradient": norm})
    for what, ours in found[0].items():
        try:
            torch.testing.assert_close(found[1][what], ours, rtol=1e-3, atol=1e-3)
        except AssertionError as error:
            raise RuntimeError(f"The baseline computes something else than dwiml ({what}): {error}") from None
