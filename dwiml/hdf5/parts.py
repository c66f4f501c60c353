"""The part of one subject: a small HDF5 file, complete or absent, from which the file of all subjects is assembled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dwiml import __version__
from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.config import GroupsConfig
from dwiml.hdf5.connectivity_writer import write_connectivity
from dwiml.hdf5.directions.alignment import Alignment, measure_subject
from dwiml.hdf5.inputs.connectivity import ConnectivityPlan
from dwiml.hdf5.inputs.inspection import SubjectPlan
from dwiml.hdf5.inputs.provenance import add_statistics, streamlines_sources, volume_sources
from dwiml.hdf5.inputs.streamlines import read_streamlines_group
from dwiml.hdf5.inputs.volumes import read_volume_group
from dwiml.hdf5.stored import StoredFile
from dwiml.ops.resampling import Resampling

SUFFIX = ".hdf5"
# Root attributes of a part: JSON.
_RECORD = "dwiml_part"
_COUNTS = "counts"


@dataclass
class StreamlinesCount:
    """Counts of one streamlines group, over all subjects or for one of them.

    Attributes
    ----------
    nb_streamlines, nb_points
        Number of streamlines written, and of their points.
    nb_files
        Number of tractograms read.
    nb_removed
        Number of invalid streamlines that were removed.
    nb_of_two_points
        Number of streamlines that have two points only, after resampling.
    """

    nb_streamlines: int = 0
    nb_points: int = 0
    nb_files: int = 0
    nb_removed: int = 0
    nb_of_two_points: int = 0

    def add(self, other: StreamlinesCount) -> None:
        """Add the counts of another subject."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


Counts = dict[str, StreamlinesCount]


@dataclass(frozen=True)
class PartResult:
    """Result of making a part.

    Attributes
    ----------
    counts
        {streamlines group: its counts}.
    alignments
        How well the directional features follow the streamlines.
    """

    counts: Counts
    alignments: list[Alignment]


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """What the content of a part depends on, besides the files of the subject.

    Attributes
    ----------
    groups
        The groups config.
    resample
        How to resample the streamlines.
    remove_invalid, allow_missing
        See :func:`dwiml.hdf5.creator.create_hdf5`.
    """

    groups: GroupsConfig
    resample: Resampling
    remove_invalid: bool = False
    allow_missing: bool = False

    def recorded(self) -> dict[str, Any]:
        """Return the options as JSON types."""
        return {
            "config": self.groups.text,
            **asdict(self.resample),
            "remove_invalid": self.remove_invalid,
            "allow_missing": self.allow_missing,
        }


@dataclass
class Part:
    """The part of one subject, to be made or to be used again.

    Attributes
    ----------
    plan
        The files of the subject.
    matrices
        {streamlines group: its connectivity matrix}.
    options
        The options of the creation.
    folder
        The folder of all parts.
    record
        What the content depends on: options, version of dwiml, conventions, and size and time of each file.
    path
        The file of the part. Its name includes a digest of the record.
    """

    plan: SubjectPlan
    matrices: dict[str, ConnectivityPlan]
    options: PartOptions
    folder: Path
    record: dict[str, Any] = field(init=False)
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        files = [*self.plan.files, *(path for matrix in self.matrices.values() for path in matrix.files)]
        self.record = {
            "dwiml": __version__,
            "schema": schema.SCHEMA_VERSION,
            "subject": self.plan.name,
            "options": self.options.recorded(),
            "directions": {
                group: [None if read is None else read.as_dict() for read in each]
                for group, each in self.plan.directions.items()
            },
            "files": _states(self.plan.folder, files),
        }
        text = json.dumps(self.record, sort_keys=True)
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()
        self.path = self.folder / f"{self.plan.name}.{digest}{SUFFIX}"

    @property
    def name(self) -> str:
        """The subject's name."""
        return self.plan.name

    def counts_if_made(self) -> Counts | None:
        """Return the counts of the part if it was made from the same files with the same options; otherwise None.

        The attributes and the values are compared with their digests.
        """
        if not self.path.is_file():
            return None
        with suppress(ValueError, OSError, KeyError, TypeError, RecursionError), StoredFile(self.path) as file:
            if json.loads(schema.read_text(file.root.attribute(_RECORD, "null"))) != self.record:
                return None
            subject = file.root.group(self.name)
            for group in subject.names:
                subject.group(group).check_digest()
                for dataset in subject.group(group).datasets():
                    dataset.check_values()
            found = json.loads(schema.read_text(file.root.attribute(_COUNTS)))
            return {group: StreamlinesCount(**counts) for group, counts in found.items()}
        return None

    def make(self) -> PartResult:
        """Read, convert and write the subject, and measure it; the file gets its name once it is complete.

        Returns
        -------
        PartResult
            What the part holds.

        Raises
        ------
        FileNotFoundError, ValueError
            If an input is invalid. The message names the subject, the group and the file.
        OSError
            If the part cannot be written.
        """
        # One that a failure of the machine has cut off does not match its digests, and is made again.
        with file_writer.atomic_hdf5(self.path, self.plan.nb_bytes, overwrite=True, durable=False) as handle:
            subject = handle.create_group(self.name)
            counts = self._write(subject)
            file_writer.write_group_digests(subject)
            handle.attrs[_RECORD] = json.dumps(self.record)
            handle.attrs[_COUNTS] = json.dumps({group: asdict(count) for group, count in counts.items()})
        return PartResult(counts, self.alignments())

    def alignments(self) -> list[Alignment]:
        """Measure how well the directional features of the part, which must exist, follow its streamlines."""
        config = {group.name: {"standardization": group.standardization} for group in self.options.groups.volumes}
        with StoredFile(self.path) as file:
            return measure_subject(file.root.group(self.name), config)

    def _write(self, subject: h5py.Group) -> Counts:
        plan, options, counts = self.plan, self.options, {}
        for group in options.groups.volumes:
            directions = list(zip(plan.features[group.name], plan.directions[group.name], strict=True))
            recorded = volume_sources(plan, group)
            file_writer.write_volume(subject, group.name, read_volume_group(plan, group), plan.grid, directions)
            record = add_statistics(recorded, plan.statistics[group.name])
            file_writer.write_provenance(subject[group.name], record)
        # Recorded before reading, so that they describe the files that are read.
        sources = {group: streamlines_sources(plan, group, self.matrices.get(group)) for group in plan.tractograms}
        for lines in options.groups.streamlines:
            data = read_streamlines_group(
                plan,
                lines,
                resample=options.resample,
                remove_invalid=options.remove_invalid,
                allow_missing=options.allow_missing,
            )
            file_writer.write_streamlines(subject, lines.name, data, plan.grid)
            counts[lines.name] = StreamlinesCount(
                nb_streamlines=len(data.lengths),
                nb_points=len(data.points),
                nb_files=len(plan.tractograms[lines.name]),
                nb_removed=data.nb_removed,
                nb_of_two_points=int(np.count_nonzero(data.lengths == 2)),
            )
        for name, matrix in self.matrices.items():
            write_connectivity(subject[name], matrix)
        for name, source in sources.items():
            file_writer.write_provenance(subject[name], source)
        return counts


def _states(folder: Path, files: Iterable[Path]) -> list[list[Any]]:
    """Return [path relative to the subject's folder, size, time of modification in ns] of each file."""
    states = []
    for path in dict.fromkeys(files):
        # A .trx may be a folder of arrays.
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in inside:
            with suppress(FileNotFoundError):
                status = each.stat()
                states.append([os.path.relpath(each, folder), status.st_size, status.st_mtime_ns])
    return states
