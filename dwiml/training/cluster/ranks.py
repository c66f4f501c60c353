"""Training one model in several processes with torch.distributed, as started by ``torchrun``."""

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

# Reading the data before the first batch may take long.
PATIENCE = timedelta(minutes=60)
# Parameters that may differ between processes: the place of the data, how they are read, and the device.
MAY_DIFFER = frozenset(
    {"data.hdf5_file", "data.lazy", "data.cache_size", "trainer.nb_cpu_processes", "trainer.use_gpu", "trainer.verbose"}
)


class Exchanged(NamedTuple):
    """The number of points of a batch over all ranks, and the highest of their requests."""

    nb_points: int
    request: int


class Ranks:
    """The processes that train together, seen from this one; a single process is rank 0 of 1.

    Attributes
    ----------
    rank, nb
        Rank of this process, and number of processes.
    local_rank
        Rank on this machine, which is the index of its GPU.

    Notes
    -----
    Methods that exchange values are called by all ranks. They raise :class:`dwiml.failures.ResourceError` if another
    rank has ended or does not respond.
    """

    def __init__(self) -> None:
        self.rank, self.nb, self.local_rank = 0, 1, 0
        self._control: Any = None
        if distributed.is_available() and (distributed.is_initialized() or _started_by_torchrun()):
            self._join()

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.nb == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which writes the files and shows messages."""
        return self.rank == 0

    def _join(self) -> None:
        if not distributed.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=PATIENCE)
            atexit.register(_leave)
        self.rank, self.nb = distributed.get_rank(), distributed.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        # Counts and requests are exchanged between CPUs, so that nothing waits for the GPU.
        self._control = distributed.new_group(backend="gloo", timeout=PATIENCE)
        atexit.register(self._free_control)

    def all_reduce(self, nb_points: int, request: int) -> Exchanged:
        """Sum the numbers of points of the ranks in a batch, and take the highest of their requests.

        Parameters
        ----------
        nb_points, request
            Number of points and request of this rank.

        Raises
        ------
        ResourceError
            If another rank has ended or does not respond.
        """
        if self.alone:
            return Exchanged(nb_points, request)
        counts, requests = torch.tensor([nb_points]), torch.tensor([request])
        self._together(lambda: distributed.all_reduce(counts, group=self._control))
        self._together(lambda: distributed.all_reduce(requests, distributed.ReduceOp.MAX, group=self._control))
        return Exchanged(int(counts), int(requests))

    def mean(self, mean: torch.Tensor, weight: int, total: int) -> torch.Tensor:
        """Return the weighted mean over all ranks, on its device.

        Parameters
        ----------
        mean
            Mean of this rank, a 0-d tensor.
        weight, total
            Weight of this rank, and sum of the weights of all ranks.

        Returns
        -------
        torch.Tensor
            0-d tensor; float64 if there are several ranks.

        Raises
        ------
        ResourceError
            If another rank has ended or does not respond.
        """
        if self.alone:
            return mean.detach()
        # The mean of a rank without points may be NaN.
        part = mean.detach().double() * (weight / max(total, 1)) if weight else mean.new_zeros((), dtype=torch.float64)
        self._together(lambda: distributed.all_reduce(part))
        return part

    def gather(self, value: Any) -> list[Any]:
        """Return the plain values of all ranks, in order, to each rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.nb
        self._together(lambda: distributed.all_gather_object(values, value, group=self._control))
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the plain value of the first rank to each rank."""
        return self.gather(value)[0]

    def wrap_ddp(self, step: torch.nn.Module) -> torch.nn.Module:
        """Wrap a module so that its gradients are averaged over the ranks; all start with the first rank's weights."""
        if self.alone:
            return step
        # A model may not use all its weights in each batch, hence find_unused_parameters. If it always does, torch
        # warns in each process that no unused parameter was found; this one prevents the warning.
        step.register_parameter("never_used", _parameter_like(step))
        return DistributedDataParallel(step, find_unused_parameters=True)

    def check_alike(self, described: Mapping[str, Mapping[str, Any]]) -> None:
        """Check that all ranks have the same parameters; all of them call it.

        Parameters
        ----------
        described
            Parameters of this rank, by section; :data:`MAY_DIFFER` is not compared.

        Raises
        ------
        ValueError
            If the data or the settings of a rank differ from those of the first; raised on each rank.
        """
        first, *others = self.gather({section: dict(values) for section, values in described.items()})
        for rank, other in enumerate(others, start=1):
            names = [(part, name) for part in first for name in {**first[part], **other.get(part, {})}]
            for section, name in names:
                expected, found = first[section].get(name), other.get(section, {}).get(name)
                if expected != found and f"{section}.{name}" not in MAY_DIFFER:
                    raise ValueError(
                        f"The {self.nb} processes have different parameters: {section}.{name} is {expected!r} in "
                        f"process 0 and {found!r} in process {rank}. Give all the same HDF5 file and parameters."
                    )

    def _free_control(self) -> None:
        # The threads of gloo release Python's tensors shortly after a collective has returned; if Python has exited by
        # then, they abort the process. Destroying the group waits for its threads.
        control, self._control = self._control, None
        if distributed.is_initialized():
            distributed.destroy_process_group(control)

    def _together(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            raise ResourceError(
                f"Rank {self.rank} of {self.nb} has lost contact with the others: one of them has ended or does not "
                "respond. Its own error is above; continue from the checkpoint with the same command.",
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
