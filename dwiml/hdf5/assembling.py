"""Make the parts of all subjects, in one or several processes, and assemble the HDF5 file from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from dwiml.hdf5 import file_writer
from dwiml.hdf5.adding import FinishedFile
from dwiml.hdf5.copying import copy_subject
from dwiml.hdf5.directions.alignment import Alignment
from dwiml.hdf5.inputs.connectivity import ConnectivityPlan
from dwiml.hdf5.inputs.inspection import SubjectPlan, leave_out
from dwiml.hdf5.part_folder import PartFolder
from dwiml.hdf5.parts import Counts, Part, PartOptions, PartResult
from dwiml.hdf5.workers import Workers

Report = Callable[[int, int, str], None]


@dataclass(kw_only=True)
class Assembly:
    """The subjects of a new file, and how they are put into it.

    Attributes
    ----------
    target
        The HDF5 file to write.
    plans
        The files of the new subjects.
    matrices
        {subject: {streamlines group: its connectivity matrix}}.
    options
        What the content of the parts depends on.
    workers
        The processes that make the parts.
    skipped
        {subject left out: the reason}, to which invalid subjects are added; None if they are errors.
    base
        The file to which the subjects are added; None for a new file.
    counts
        {new subject: {streamlines group: its counts}}, once its part is made.
    alignments
        {new subject: how well its directional features follow its streamlines}, once its part is made.
    nb_reused
        Number of parts of a stopped creation that were used.
    """

    target: Path
    plans: Sequence[SubjectPlan]
    matrices: Mapping[str, dict[str, ConnectivityPlan]]
    options: PartOptions
    workers: Workers
    skipped: dict[str, str] | None = None
    base: FinishedFile | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    alignments: dict[str, list[Alignment]] = field(default_factory=dict)
    nb_reused: int = 0
    _syncs: list[Future[None]] = field(default_factory=list)

    def write(
        self,
        order: Sequence[str],
        write_root: Callable[[h5py.File], None],
        *,
        overwrite: bool,
        resume: bool,
        report: Report,
    ) -> None:
        """Write the file.

        Parameters
        ----------
        order
            All subjects, in the order in which they are copied into the file.
        write_root
            Function that writes the root attributes, once it is known which subjects are left out.
        overwrite, resume
            See :func:`dwiml.hdf5.creator.create_hdf5`.
        report
            Called with (number of new subjects done, total number, name of the subject just done).

        Raises
        ------
        FileExistsError, OSError, ValueError, ResourceError
            See :class:`PartFolder`, :func:`dwiml.hdf5.file_writer.atomic_hdf5`, :meth:`Part.make` and
            :meth:`Workers.run`.
        """
        # The parts and the file take the same room, and both exist at the end.
        nb_bytes = 2 * sum(plan.nb_bytes for plan in self.plans) + (self.base.nb_bytes if self.base else 0)
        replace = overwrite or self.base is not None
        with PartFolder(self.target, resume=resume, discard=overwrite) as place:
            parts = [Part(plan, self.matrices[plan.name], self.options, place.path) for plan in self.plans]
            with file_writer.atomic_hdf5(self.target, nb_bytes, overwrite=replace, folder=place.path) as handle:
                self._fill(handle, parts, order, report)
                write_root(handle)
                if self.base is not None:
                    self.base.check_unchanged()

    def _fill(self, handle: h5py.File, parts: Sequence[Part], order: Sequence[str], report: Report) -> None:
        """Make the parts that do not exist yet, and copy each subject as soon as those before it are in the file."""
        existing = [] if self.base is None else [name for names in self.base.subjects.values() for name in names]
        sources = {} if self.base is None else dict.fromkeys(existing, self.base.path)
        for part in parts:
            counts = part.counts_if_made()
            if counts is not None:
                self._note(part, PartResult(counts, part.alignments()))
                sources[part.name] = part.path
        self.nb_reused = nb_done = len(self.counts)
        report(nb_done, len(parts), "")
        waiting = deque(order)
        missing = [part for part in parts if part.name not in sources]
        disk = ThreadPoolExecutor(max_workers=1)
        try:
            self._copy_ready(handle, waiting, sources, disk)
            for outcome in self.workers.run(Part.make, missing, lambda part: f"subject '{part.name}'"):
                part = missing[outcome.index]
                if outcome.error is None:
                    self._note(part, outcome.value)
                    sources[part.name] = part.path
                elif self.skipped is None or not outcome.is_bad_input:
                    raise outcome.error
                else:
                    leave_out(self.skipped, part.name, outcome.error)
                self._copy_ready(handle, waiting, sources, disk)
                nb_done += 1
                left_out = self.skipped is not None and part.name in self.skipped
                report(nb_done, len(parts), f"{part.name} (left out)" if left_out else part.name)
            for each in self._syncs:
                # The system reports that it could not write only once: the sync at the end would not be told.
                each.result()
        finally:
            # Before the folder of the parts is cleaned.
            self.workers.stop()
            disk.shutdown(cancel_futures=True)

    def _note(self, part: Part, made: PartResult) -> None:
        self.counts[part.name], self.alignments[part.name] = made.counts, made.alignments

    def _copy_ready(self, handle: h5py.File, waiting: deque[str], sources: Mapping[str, Path], disk: Executor) -> None:
        while waiting and (waiting[0] in sources or waiting[0] in (self.skipped or {})):
            name = waiting.popleft()
            if name not in sources:
                continue
            # Those of the file that will be replaced exist nowhere else.
            copy_subject(handle, sources[name], name, verify=name not in self.counts)
            if self.workers.nb > 1 and waiting:
                # While the processes work: otherwise, all of the file must be written to the disk at the end.
                self._syncs.append(disk.submit(file_writer.sync, Path(handle.filename)))
