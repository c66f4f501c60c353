"""Who trains an experiment: the process that a lock names, and whether it is still there."""

from __future__ import annotations

import json
import os
import platform
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from dwiml.training.cluster.stopping import process_start, process_stat

# Seconds without a sign of life until a holder on another machine counts as gone.
LIMIT_S = 300.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as the lock's file names it.

    Attributes
    ----------
    host, pid, started
        Where, which process, and since when it holds the lock (ISO 8601).
    process_start
        When the process began, in clock ticks since the machine's start (a reused pid has another); None without /proc.
    machine
        The machine's start and its space of process ids (containers have their own): pids of another cannot be looked
        up here, even where the host has the same name. None without /proc.
    slurm_job, slurm_restarts
        The job, and how often it had been requeued.
    token
        Tells two locks of one process apart.
    """

    host: str
    pid: int
    process_start: int | None
    machine: str | None
    slurm_job: str | None
    slurm_restarts: int
    started: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def this_process(cls) -> Holder:
        """Return the description of this process."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(
            host=platform.node(),
            pid=os.getpid(),
            process_start=process_start(os.getpid()),
            machine=_machine(),
            slurm_job=os.environ.get("SLURM_JOB_ID") or None,
            slurm_restarts=int(restarts) if restarts.isdecimal() else 0,
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, raw: bytes) -> Holder | None:
        """Return the holder that a file names; None for a damaged file. Keys of a later version are ignored."""
        try:
            content = json.loads(raw)
            holder = cls(**{name: content[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        texts = (holder.host, holder.started, holder.token, holder.machine or "", holder.slurm_job or "")
        numbers = (holder.pid, holder.slurm_restarts, holder.process_start or 0)
        fits = all(isinstance(each, str) for each in texts) and all(type(each) is int for each in numbers)
        return holder if fits and 0 < holder.pid < 1 << 31 else None

    def written(self) -> bytes:
        """Return what :meth:`read` reads."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    def sees(self, other: Holder) -> bool:
        """Tell whether the other is or was on this machine, so that its pid can be looked up."""
        return (self.host, self.machine) == (other.host, other.machine)

    def why_gone(self, me: Holder, age_s: float) -> str | None:
        """Return why this process counts as gone; None when it may still be there.

        Parameters
        ----------
        me
            The process that asks.
        age_s
            Seconds since the last sign of life.
        """
        if me.sees(self):
            running = self._is_running()
            if running is not None:
                return None if running else "that process is gone"
        elif me.slurm_job and me.slurm_job == self.slurm_job and me.slurm_restarts > self.slurm_restarts:
            # Two processes that srun started on two nodes share the job too, but not the count.
            return "the job was requeued since"
        return f"no sign of life for {age_s:.0f} s" if age_s > LIMIT_S else None

    def _is_running(self) -> bool | None:
        """Tell whether a process of this machine is still there; None when that cannot be seen."""
        fields = process_stat(self.pid)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Another user's: it is there.
            pass
        if self.process_start is None:
            return True
        if fields is None:
            # Some clusters hide the processes of others.
            return None
        # Z and X: it ended, and its parent has not asked how.
        return fields[0] not in (b"Z", b"X") and int(fields[19]) == self.process_start

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on host '{self.host}' (since {self.started}{job})"


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
