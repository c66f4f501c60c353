"""Curate the streamlines of tractograms for training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml import __version__
from dwiml.arguments import check_number, quoted
from dwiml.curation.bundle import BundleCount, curate_bundle
from dwiml.curation.reading import BundleStreamlines, TractogramCount, read_labelled, read_valid
from dwiml.curation.settings import CurationSettings, Progress, no_progress
from dwiml.files import check_name, check_outputs, refuse_inputs, write_json
from dwiml.scoring.defaults import END_TOLERANCE_MM, MOST_TOLERANCE_MM
from dwiml.scoring.ground_truth_files import ground_truth_files, read_ground_truth
from dwiml.tractograms.grid import Grid, read_image_grid
from dwiml.tractograms.kinds import is_gzipped
from dwiml.tractograms.reading import open_tractogram
from dwiml.tractograms.writing.partial import partial_of
from dwiml.tractograms.writing.sidecar import ACCEPTANCE, add_sidecars, describe, tractogram_sidecar
from dwiml.tractograms.writing.writer import TractogramWriter, extension_of

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

BUNDLE_ID = "bundle_id"
"""Name of the data per streamline with the index of the bundle."""
VALID = "valid"
"""Name of the data per streamline of the candidates: 1 for valid connections, 0 for the others."""
_OUT, _REPORT, _CANDIDATES = "out", "report", "candidates"
_MOST_LISTED = 10


@dataclass(frozen=True)
class Curation:
    """Result of :func:`curate_tractograms`.

    Attributes
    ----------
    settings
        The settings, with the seed that was drawn if none was given.
    tractograms
        The counts of the tractograms.
    bundles
        What was done with each bundle; the ``bundle_id`` of a bundle is its index here.
    left_out
        Names of the bundles that were left out because they have no end regions.
    """

    settings: CurationSettings
    tractograms: tuple[TractogramCount, ...]
    bundles: tuple[BundleCount, ...]
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return all values, for JSON: lengths in mm, shares from 0 to 1."""
        return {
            "settings": asdict(self.settings),
            "tractograms": [asdict(each) for each in self.tractograms],
            "bundle_names": [bundle.name for bundle in self.bundles],
            "bundles": [{BUNDLE_ID: index, **asdict(bundle)} for index, bundle in enumerate(self.bundles)],
            "bundles_without_end_regions": list(self.left_out),
        }


def curate_tractograms(
    tractograms: Sequence[PathLike],
    out: PathLike,
    *,
    bundles: PathLike | None = None,
    labelled: bool = False,
    config: PathLike | None = None,
    mask_tolerance: float | None = None,
    end_tolerance: float = END_TOLERANCE_MM,
    max_outside: float | None = None,
    grid: PathLike | None = None,
    settings: CurationSettings | None = None,
    report: PathLike | None = None,
    candidates: PathLike | None = None,
    sidecar: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Curation:
    """Write the streamlines of tractograms that are worth training on.

    With `bundles`, the valid connections of these bundles are kept (:func:`dwiml.scoring.scores.score_streamlines`);
    with `labelled`, each tractogram is one bundle. If `settings` says so, outliers of each bundle are then removed, and
    its number of streamlines is brought within limits. The data per streamline ``bundle_id`` of the output is the
    index of the bundle; other data of the tractograms are not copied. The streamlines are written bundle by bundle, in
    the order of the tractograms.

    Parameters
    ----------
    tractograms
        Files in any format and on any grid, in the same scanner space.
    out
        Tractogram to write, .trk or .trx. Its voxel grid is that of the bundles, or `grid`.
    bundles
        Folder of the true bundles; see :func:`dwiml.scoring.ground_truth_files.read_ground_truth`. Those without end
        regions are left out, with a warning.
    labelled
        Whether each tractogram is a bundle, named after its file, instead of `bundles`.
    config, mask_tolerance, end_tolerance
        As in :func:`~dwiml.scoring.ground_truth_files.read_ground_truth` (tolerances in mm); only for `bundles`.
    max_outside
        Share (0 to 1) of the length of a valid streamline that may lie outside the mask; only for `bundles`. None:
        0.05, or 0 in scilpy's format, as in :func:`dwiml.scoring.scores.score_streamlines`.
    grid
        Image with the voxel grid of the output; only with `labelled`. None: that of the first tractogram with one.
    settings
        Which streamlines of a bundle are kept; None for the defaults, which keep all, with a drawn seed.
    report
        JSON file to write, with :meth:`Curation.as_dict`.
    candidates
        Tractogram to write, .trk or .trx, with all streamlines of the tractograms, in their order, and the data per
        streamline ``valid``: 1 for the valid connections of the bundles, 0 for the others. A classifier of streamlines
        learns from it (:class:`dwiml.StreamlineClassifierModel`). Only for `bundles`.
    sidecar
        Whether to write a JSON file beside `out`, and beside `candidates`, that says how it was created.
    overwrite
        Whether existing outputs may be replaced.
    progress
        Shows the progress.

    Raises
    ------
    FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError
        If a file is missing, or cannot be written.
    ValueError
        If neither or both of `bundles` and `labelled` are given, an output is an input or cannot hold data per
        streamline, no bundle has end regions, two labelled tractograms have the same name, no grid is known, or a file
        is damaged.
    """
    if (bundles is None) != labelled:
        raise ValueError("Give one of bundles, the folder of the true bundles, and labelled=True.")
    if candidates is not None and bundles is None:
        raise ValueError("candidates needs bundles: with labelled=True, all streamlines are assumed to be valid.")
    settings = settings or CurationSettings()
    tolerances = {"mask_tolerance": mask_tolerance, "end_tolerance": end_tolerance}
    for name, value in tolerances.items():
        if value is not None:
            check_number(name, value, low=0, high=MOST_TOLERANCE_MM)
    if max_outside is not None:
        check_number("max_outside", max_outside, low=0, high=1)
    paths = [Path(tractogram) for tractogram in tractograms]
    inputs = [*paths, *([] if bundles is None else ground_truth_files(bundles, config)), grid]
    # A new sidecar refers to the tractograms, whose own sidecars must be kept.
    inputs += map(tractogram_sidecar, paths) if sidecar else []
    _check_outputs(Path(out), candidates, report, inputs, sidecar=sidecar, overwrite=overwrite)
    labels = _Labels(candidates is not None)
    if bundles is None:
        source = _open_labelled(paths, grid)
    else:
        source = _open_bundles(paths, bundles, config, tolerances, max_outside, labels, progress)
    sources = [*paths, bundles, config]
    content = _sidecar_content(sources, source.names, settings, source.rules) if sidecar else None
    options: dict[str, Any] = {"grid": source.grid, "overwrite": overwrite}
    writer = TractogramWriter(Path(out), data_per_streamline={BUNDLE_ID: 1}, sidecar=content, **options)
    with ExitStack() as stack:
        if candidates is not None:
            content = _sidecar_of_candidates(sources, source.rules) if sidecar else None
            other = TractogramWriter(Path(candidates), data_per_streamline={VALID: 1}, sidecar=content, **options)
            labels.writer = stack.enter_context(other)
        done = _write(writer, source, settings, progress)
    _warn_of_empty(done, out)
    result = Curation(settings, tuple(source.counts), tuple(done), source.left_out)
    if report is not None:
        given = {"ground_truth": bundles, "config": config}
        files = {name: None if path is None else str(path) for name, path in given.items()}
        write_json(report, {"dwiml_version": __version__, "out": str(out), **files, **source.rules, **result.as_dict()})
    return result


@dataclass
class _Labels:
    """Writes all streamlines, and which are valid, where there is a writer.

    Attributes
    ----------
    writes
        Whether there will be a writer.
    writer
        The open writer.
    """

    writes: bool
    writer: TractogramWriter | None = None

    def __call__(self, points: NDArray[np.float32], lengths: NDArray[np.int64], is_valid: NDArray[np.bool_]) -> None:
        if self.writer is not None:
            self.writer.append(points, lengths, {VALID: is_valid[:, None].astype(np.float32)})


@dataclass
class _Source:
    """The bundles to curate, which are read when they are iterated over.

    Attributes
    ----------
    names
        Names of the bundles, in the order in which they are read.
    grid
        The voxel grid of their points.
    bundles
        The bundles.
    counts
        The counts of the tractograms that were read so far.
    left_out
        Names of the bundles that are left out.
    rules
        The tolerances of valid connections; empty if each tractogram is a bundle.
    """

    names: Sequence[str]
    grid: Grid
    bundles: Iterable[BundleStreamlines]
    counts: list[TractogramCount]
    left_out: tuple[str, ...] = ()
    rules: Mapping[str, float] = field(default_factory=dict)


def bundle_names(tractograms: Sequence[Path]) -> dict[str, Path]:
    """Return {name of the bundle: tractogram}: the name is that of the file, without extension.

    Raises
    ------
    ValueError
        If two files have the same name, or a name cannot be printed.
    """
    named: dict[str, Path] = {}
    for path in tractograms:
        name = check_name((path.with_suffix("") if is_gzipped(path) else path).stem, "Bundle")
        if name in named:
            raise ValueError(
                f"'{named[name]}' and '{path}' have the same name, which is that of their bundle; rename one of them, "
                "or join them first."
            )
        named[name] = path
    return named


def _open_labelled(paths: Sequence[Path], image: PathLike | None) -> _Source:
    named = bundle_names(paths)
    grids = [tractogram.grid for tractogram in map(open_tractogram, paths)]
    grid = next((each for each in grids if each is not None), None) if image is None else read_image_grid(Path(image))
    if grid is None:
        raise ValueError("None of the tractograms has a voxel grid, which the output needs; give an image as grid.")
    counts: list[TractogramCount] = []
    return _Source(list(named), grid, read_labelled(named, grid, counts), counts)


def _open_bundles(
    paths: Sequence[Path],
    folder: PathLike,
    config: PathLike | None,
    tolerances: Mapping[str, Any],
    max_outside: float | None,
    on_scored: _Labels,
    progress: Progress,
) -> _Source:
    for path in paths:
        open_tractogram(path)
    truth = read_ground_truth(folder, config=config, **tolerances)
    names = [name for name, known in zip(truth.names, truth.has_ends, strict=True) if known]
    left_out = tuple(name for name in truth.names if name not in names)
    if not names:
        raise ValueError(
            f'No bundle of \'{folder}\' has end regions, which valid connections need; add "head" and "tail" to its '
            "ground_truth.json, or use labelled=True for tractograms that are one bundle each."
        )
    if left_out:
        labels = "; their streamlines are labeled 0 in the candidates" if on_scored.writes else ""
        logger.warning("Bundles without end regions, which are left out: %s%s.", quoted(left_out, _MOST_LISTED), labels)
    counts: list[TractogramCount] = []
    rules = {
        "mask_tolerance": truth.mask_tolerance,
        "end_tolerance": truth.end_tolerance,
        "max_outside": truth.max_outside if max_outside is None else max_outside,
    }
    bundles = read_valid(paths, truth, counts, progress, max_outside=max_outside, on_scored=on_scored)
    return _Source(names, truth.grid, bundles, counts, left_out, rules)


def _write(
    writer: TractogramWriter, source: _Source, settings: CurationSettings, progress: Progress
) -> list[BundleCount]:
    done = []
    with writer:
        for index, bundle in enumerate(source.bundles):
            ids, count = curate_bundle(bundle, source.grid, settings, progress)
            if len(ids):
                numbers = np.full((len(ids), 1), index, dtype=np.float32)
                writer.append(*bundle.select(ids), {BUNDLE_ID: numbers})
            done.append(count)
    return done


def _warn_of_empty(done: Sequence[BundleCount], out: PathLike) -> None:
    empty = [bundle.name for bundle in done if not bundle.nb_written]
    if empty:
        logger.warning("Bundles without a streamline in '%s': %s.", out, quoted(empty, _MOST_LISTED))


def _check_outputs(
    out: Path,
    candidates: PathLike | None,
    report: PathLike | None,
    inputs: Sequence[PathLike | None],
    *,
    sidecar: bool,
    overwrite: bool,
) -> None:
    tractograms: dict[str, PathLike | None] = {_OUT: out, _CANDIDATES: candidates}
    for path, key in ((out, BUNDLE_ID), (candidates, VALID)):
        if path is not None and extension_of(Path(path)) == ".tck":
            raise ValueError(
                f"'{path}': a .tck has no data per streamline, where '{key}' is written; give a .trk or a .trx."
            )
    outputs: dict[str, PathLike | None] = {**tractograms, _REPORT: report}
    written = add_sidecars(outputs, of=list(tractograms)) if sidecar else outputs
    check_outputs(written, inputs=inputs, overwrite=overwrite)
    for name, path in tractograms.items():
        if path is not None:
            others = [other for other in outputs.values() if other != path]
            partial = partial_of(Path(os.path.realpath(path)))
            refuse_inputs(partial, f"{name}, until it is whole", inputs=[*inputs, *others])


def _sidecar_content(
    sources: Sequence[PathLike | None], names: Sequence[str], settings: CurationSettings, rules: Mapping[str, float]
) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(settings).items() if value is not None}
    if settings.min_confidence is None:
        chosen = {name: value for name, value in chosen.items() if name not in ("max_mdf", "power")}
    connection = {"Connection": "valid", **rules} if rules else {}
    criteria = {**connection, "Bundles": list(names), **chosen}
    description = f"Streamlines of {len(names)} bundles, curated for training; '{BUNDLE_ID}' is an index of 'Bundles'."
    return describe(description, sources, {ACCEPTANCE: criteria})


def _sidecar_of_candidates(sources: Sequence[PathLike | None], rules: Mapping[str, float]) -> dict[str, Any]:
    description = f"All streamlines of the sources; '{VALID}' is 1 for the valid connections of the bundles."
    return describe(description, sources, {"dwiml": dict(rules)})
