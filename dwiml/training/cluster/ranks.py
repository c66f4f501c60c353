"""Several processes that train one model together: torch.distributed, as started by ``torchrun``."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from dwiml.failures import RANKS, ResourceError

# A rank may take long to read its data before the first batch.
PATIENCE = timedelta(minutes=60)
# What a process may have otherwise than the first: where its data are, and how they get into its memory.
MAY_DIFFER = frozenset(
    {"data.hdf5_file", "data.lazy", "data.cache_size", "trainer.nb_cpu_processes", "trainer.use_gpu", "trainer.verbose"}
)


class Exchanged(NamedTuple):
    """What all ranks together have in a batch."""

    nb_points: int
    request: int


class Ranks:
    """This process among those that train together; one process alone is rank 0 of 1.

    Attributes
    ----------
    rank, nb
        Which process this is, and how many there are.
    local_rank
        Which it is on its machine: the number of its GPU.
    """

    def __init__(self) -> None:
        self.rank, self.nb, self.local_rank = 0, 1, 0
        self._control: Any = None
        if distributed.is_available() and (distributed.is_initialized() or _started_by_torchrun()):
            self._join()

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.nb == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def _join(self) -> None:
        if not distributed.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=PATIENCE)
            atexit.register(_leave)
        self.rank, self.nb = distributed.get_rank(), distributed.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        # Counts and requests go from processor to processor: the GPU is not waited for.
        self._control = distributed.new_group(backend="gloo", timeout=PATIENCE)
        atexit.register(self._free_control)

    def all_reduce(self, nb_points: int, request: int) -> Exchanged:
        """Add up the ranks' numbers of points of a batch, and return the highest of their requests."""
        if self.alone:
            return Exchanged(nb_points, request)
        counts, requests = torch.tensor([nb_points]), torch.tensor([request])
        self._together(lambda: distributed.all_reduce(counts, group=self._control))
        self._together(lambda: distributed.all_reduce(requests, distributed.ReduceOp.MAX, group=self._control))
        return Exchanged(int(counts), int(requests))

    def mean(self, mean: torch.Tensor, weight: int, total: int) -> torch.Tensor:
        """Return the mean over all ranks of their means, each weighted; it stays on its device.

        Parameters
        ----------
        mean
            This rank's, a 0-d tensor.
        weight, total
            This rank's weight, and that of all ranks together.
        """
        if self.alone:
            return mean.detach()
        # A rank without a point has no mean: it may be NaN.
        part = mean.detach().double() * (weight / max(total, 1)) if weight else mean.new_zeros((), dtype=torch.float64)
        self._together(lambda: distributed.all_reduce(part))
        return part

    def gather(self, value: Any) -> list[Any]:
        """Return the plain values of all ranks, in order, on each of them."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.nb
        self._together(lambda: distributed.all_gather_object(values, value, group=self._control))
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the first rank's plain value on each rank."""
        return self.gather(value)[0]

    def wrap_ddp(self, step: torch.nn.Module) -> torch.nn.Module:
        """Return a module whose gradients are the mean of those of all ranks, with the weights of the first."""
        if self.alone:
            return step
        # A model may leave out some of its weights in some batches. Where it never does, torch warns, in five lines a
        # process, that it looked in vain: this one it finds.
        step.register_parameter("never_used", _parameter_like(step))
        return DistributedDataParallel(step, find_unused_parameters=True)

    def check_alike(self, described: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare what the ranks are about to train; all of them call it.

        Parameters
        ----------
        described
            What was chosen, by section; :data:`MAY_DIFFER` is not compared.

        Raises
        ------
        ValueError
            On each rank, when one of them has other data or other settings than the first.
        """
        first, *others = self.gather({section: dict(values) for section, values in described.items()})
        for rank, other in enumerate(others, start=1):
            for section, name in [(section, name) for section, values in first.items() for name in values]:
                ours, theirs = first[section][name], other.get(section, {}).get(name)
                if ours != theirs and f"{section}.{name}" not in MAY_DIFFER:
                    raise ValueError(
                        f"The {self.nb} processes would not train the same: {section}.{name} is {ours!r} in process 0 "
                        f"and {theirs!r} in process {rank}. Give each of them the same HDF5 file and the same options."
                    )

    def _free_control(self) -> None:
        # gloo's threads let go of Python's tensors a moment after a collective has returned; where Python has ended by
        # then, they abort the process of a training that is done. Freeing a group waits for its threads.
        control, self._control = self._control, None
        if distributed.is_initialized():
            distributed.destroy_process_group(control)

    def _together(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            raise ResourceError(
                f"Rank {self.rank} of {self.nb} has lost the others: one of them ended, or does not answer. What it "
                "said itself is above; go on from the checkpoint with the same command.",
                RANKS,
            ) from error


def _parameter_like(module: torch.nn.Module) -> torch.nn.Parameter:
    first = next(module.parameters())
    return torch.nn.Parameter(torch.zeros(1, device=first.device, dtype=first.dtype))


def _started_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
