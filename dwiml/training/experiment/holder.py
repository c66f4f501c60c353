"""The process that holds the lock of an experiment, and whether it is still running."""

from __future__ import annotations

import json
import os
import platform
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from dwiml.training.cluster.stopping import process_start, process_stat

# Seconds without a heartbeat after which a holder on another machine counts as gone.
LIMIT_S = 300.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as recorded in the lock file.

    Attributes
    ----------
    host, pid
        Host name and process id.
    process_start
        Start of the process, in clock ticks since boot, which distinguishes a reused pid; None without /proc.
    machine
        Boot id and pid namespace (containers have their own). A pid can only be looked up if both are the same, even
        if the host names are. None without /proc.
    slurm_job, slurm_restarts
        Id of the SLURM job, and how often it had been requeued.
    started
        When the lock was taken (ISO 8601).
    token
        Distinguishes two locks of one process.
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
        """Return this process as a holder."""
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
        """Return the holder recorded in a lock file; None if the file is damaged. Unknown keys are ignored."""
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
        """Return the content of the lock file, for :meth:`read`."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    def is_same_machine(self, other: Holder) -> bool:
        """Return whether the other holder is or was on this machine, so that its pid can be looked up."""
        return (self.host, self.machine) == (other.host, other.machine)

    def reason_gone(self, me: Holder, age_s: float) -> str | None:
        """Return the reason why this holder counts as gone; None if it may still be running.

        Parameters
        ----------
        me
            The current process.
        age_s
            Seconds since the last heartbeat.
        """
        if me.is_same_machine(self):
            running = self._is_running()
            if running is not None:
                return None if running else "that process is gone"
        elif me.slurm_job and me.slurm_job == self.slurm_job and me.slurm_restarts > self.slurm_restarts:
            # Processes started by one srun on several nodes have the same job and the same restart count.
            return "the job has been requeued since"
        return f"no heartbeat for {age_s:.0f} s" if age_s > LIMIT_S else None

    def _is_running(self) -> bool | None:
        """Return whether a process of this machine is still running; None if that cannot be determined."""
        fields = process_stat(self.pid)
        if fields is not None and self.process_start is not None:
            # Z and X: a zombie, which has ended.
            return fields[0] not in (b"Z", b"X") and int(fields[19]) == self.process_start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # It belongs to another user. Some clusters hide these from /proc.
            pass
        return True if self.process_start is None else None

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on host '{self.host}' (since {self.started}{job})"


def is_damaged(raw: bytes) -> bool:
    """Return whether this is part of what :meth:`Holder.written` returned, rather than a file of another program."""
    start = b'{\n  "host": "'
    if not raw.startswith(start) and not start.startswith(raw):
        return False
    try:
        json.loads(raw)
    except ValueError:
        return True
    return False


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
