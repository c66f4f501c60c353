"""One page about experiments: curves, parameters, data, scores and pictures, in a file that needs no network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dwiml import __version__
from dwiml.arguments import counted, duration, quoted
from dwiml.files import atomic_write, check_outputs, read_json
from dwiml.inspection.backgrounds import background_from, image_file
from dwiml.inspection.runs import describe_run, differing_parameters
from dwiml.inspection.text import cut
from dwiml.params import checks_arguments
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.reading import PARAMETERS_FILE, distinct, find_experiments, read_logs
from dwiml.viz.page.charts import charts_of
from dwiml.viz.page.html import Content, Table, render
from dwiml.viz.page.pictures import picture_of

PathLike = str | os.PathLike[str]
_TRACTOGRAMS = (".trk", ".tck", ".trx")
_MOST_PICTURES = 40
_WIDEST = 200


@checks_arguments
def write_report(
    experiments: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    scores: Sequence[PathLike] = (),
    tractograms: Sequence[PathLike] = (),
    background: str | None = None,
    title: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a page about one or several experiments, which a browser shows without network.

    The page has interactive curves, the parameters and what differs between them, a summary of the data, scores,
    pictures of streamlines, and the versions of the programs. Nothing that an experiment names is imported.

    Parameters
    ----------
    experiments
        An experiment, several, or a folder of experiments.
    out
        The file to write, ``.html``.
    scores
        Files of ``dwiml score --json``.
    tractograms
        Tractograms to show from three sides, or folders of them (such as those of ``dwiml score --save_split``). One
        with a value ``loss`` at each point (``dwiml show_loss``) is colored by it, others by direction.
    background
        Image behind the streamlines, or a volume group of an HDF5 file, as ``FILE.hdf5:SUBJECT/GROUP``.
    title
        Title of the page; empty for the names of the experiments.
    overwrite
        Replace ``out`` if it exists.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, FileExistsError
        If an input is missing, or the output exists.
    ValueError
        If no experiment has a finished epoch, an input is damaged or of another kind, or there are too many
        tractograms.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"The report must be a file .html, got '{out}'.")
    given = distinct([experiments] if isinstance(experiments, (str, os.PathLike)) else experiments)
    folders = find_experiments(given)
    files = _expanded(tractograms)
    inputs = [*scores, *files, *([] if background is None else [image_file(background)])]
    check_outputs({"The report": out}, inputs=inputs, experiments=folders, overwrite=overwrite)
    logs = read_logs(folders)
    image = None if background is None else background_from(background)
    content = Content(
        title=title or _title(logs),
        about=f"Written by dwiml {__version__} on {datetime.now().strftime('%d %B %Y, %H:%M')}.",
        charts=charts_of(logs),
        runs=[_runs(folders, logs)],
        data=_data(folders, logs),
        scores=[table for path in scores for table in _scores(path)],
        environment=_environment(folders, logs),
        pictures=[picture_of(path, image) for path in files],
    )
    content.parameters, content.same = _parameters(folders, logs)
    with atomic_write(out) as stream:
        stream.write(render(content).encode())
    return out


def _expanded(tractograms: Sequence[PathLike]) -> list[Path]:
    """Return tractograms, with those in folders in the place of these."""
    found: list[Path] = []
    for path in map(Path, tractograms):
        # A folder may also be an unzipped .trx.
        if path.is_dir() and path.suffix.lower() != ".trx":
            inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in _TRACTOGRAMS)
            if not inside:
                raise FileNotFoundError(f"The folder '{path}' has no tractogram ({', '.join(_TRACTOGRAMS)}).")
            found += inside
        else:
            found.append(path)
    if len(found) > _MOST_PICTURES:
        raise ValueError(f"A report shows at most {_MOST_PICTURES} tractograms, got {len(found)}.")
    return found


def _title(logs: Sequence[Log]) -> str:
    names = ", ".join(log.label for log in logs)
    return names if len(names) < 80 else counted(len(logs), "experiment")


def _runs(folders: Sequence[Path], logs: Sequence[Log]) -> Table:
    rows = []
    for folder, log in zip(folders, logs, strict=True):
        run = describe_run(folder)
        epochs = f"{run.epoch} of {run.max_epochs}" if run.max_epochs else str(run.epoch)
        best = ("-", "-", "-") if run.best is None else (run.metric, f"{run.best:.5g}", str(run.best_epoch))
        started = run.started[:16].replace("T", " ") or "-"
        status = "dwi_ml" if log.note == "dwi_ml" else run.status
        rows.append((log.label, status, epochs, *best, duration(run.seconds_per_epoch), started))
    head = ("experiment", "status", "epochs", "selected by", "best", "in epoch", "an epoch takes", "last start")
    return Table("", head, rows, "Epochs are counted from 0.")


def _parameters(folders: Sequence[Path], logs: Sequence[Log]) -> tuple[list[Table], str]:
    differing, same = differing_parameters(folders)
    tables = []
    if differing and len(folders) > 1:
        rows = [(name, *(cut(_text(value), 60) for value in values)) for name, values in differing.items()]
        tables.append(Table("Different parameters", ("parameter", *(log.label for log in logs)), rows))
    listed = {**same, **({} if len(folders) > 1 else {name: values[0] for name, values in differing.items()})}
    text = "\n".join(f"{name}: {cut(_text(value), _WIDEST)}" for name, value in listed.items() if value is not None)
    if len(folders) > 1:
        return tables, text
    rows = [(name, cut(_text(value), _WIDEST)) for name, value in listed.items() if value is not None]
    return [Table("", ("parameter", "value"), rows)], ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value is None else json.dumps(value, default=str)


def _recorded(folder: Path) -> Mapping[str, Any]:
    try:
        found = read_json(folder / PARAMETERS_FILE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _section(folder: Path, name: str) -> Mapping[str, Any]:
    found = _recorded(folder).get(name)
    return found if isinstance(found, dict) else {}


def _data(folders: Sequence[Path], logs: Sequence[Log]) -> list[Table]:
    rows: dict[tuple[str, ...], list[str]] = {}
    for folder, log in zip(folders, logs, strict=True):
        data, loader = _section(folder, "data"), _section(folder, "loader")
        if not data:
            continue
        files = data.get("hdf5_file")
        names = [str(each) for each in files] if isinstance(files, list) else [str(files)]
        sets = [data.get(f"{name}_subjects") for name in ("training", "validation")]
        listed = [quoted(each, 6) if isinstance(each, list) and each else "-" for each in sets]
        counts = [str(len(each)) if isinstance(each, list) else "-" for each in sets]
        groups = [str(loader.get(key) or "-") for key in ("input_group_name", "streamline_group_name")]
        cells = ("\n".join(names), *groups, *(f"{nb}: {text}" for nb, text in zip(counts, listed, strict=True)))
        rows.setdefault(cells, []).append(log.label)
    head = ("experiments", "HDF5 file", "input", "streamlines", "training subjects", "validation subjects")
    # A list of many names would only repeat the first table.
    all_same = len(logs) > 1 and len(rows) == 1 and len(next(iter(rows.values()))) == len(logs)
    table = [(f"all {len(logs)}" if all_same else ", ".join(names), *cells) for cells, names in rows.items()]
    return [Table("", head, table)] if table else []


def _environment(folders: Sequence[Path], logs: Sequence[Log]) -> list[Table]:
    versions = [_section(folder, "versions") for folder in folders]
    names = list(dict.fromkeys(name for each in versions for name in each))
    rows = [
        (log.label, *(_text(each.get(name)) for name in names))
        for log, each in zip(logs, versions, strict=True)
        if each
    ]
    return [Table("", ("experiment", *names), rows)] if rows else []


def _scores(path: PathLike) -> list[Table]:
    """Return the tables of a file of ``dwiml score --json``."""
    found = read_json(path, "The scores")
    tractograms = found.get("tractograms") if isinstance(found, dict) else None
    try:
        if not isinstance(tractograms, dict) or not tractograms:
            raise ValueError("it has no tractograms")
        totals = [_totals(name, each) for name, each in tractograms.items()]
        bundles = _bundles(tractograms)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"'{path}' is not a file of 'dwiml score --json' ({error}).") from error
    head = (
        "tractogram",
        "streamlines",
        "valid",
        "invalid",
        "wrong path",
        "no connection",
        "overlap",
        "overreach",
        "F1",
    )
    truth = found.get("ground_truth")
    return [Table(f"Scores of {Path(path).name}", head, totals, f"Ground truth: {truth}." if truth else ""), bundles]


def _totals(name: str, scores: Mapping[str, Any]) -> list[Any]:
    kinds = ("valid", "invalid", "wrong_path", "none")
    shares = [_percent(scores["connections"][kind]["share"]) for kind in kinds]
    means = [_percent(scores["mean"][measure]) for measure in ("overlap", "overreach", "f1")]
    return [Path(name).name, scores["nb_streamlines"], *shares, *means]


def _bundles(tractograms: Mapping[str, Any]) -> Table:
    """Return the scores of the bundles of one tractogram, or of several side by side."""
    measures = ("overlap", "overreach", "f1")
    if len(tractograms) == 1:
        ((name, scores),) = tractograms.items()
        rows = [
            [bundle, _count(each.get("nb_valid")), *(_percent(each.get(key)) for key in measures)]
            for bundle, each in scores["bundles"].items()
        ]
        return Table(f"Bundles of {Path(name).name}", ("bundle", "valid", "overlap", "overreach", "F1"), rows)
    names = list(dict.fromkeys(bundle for scores in tractograms.values() for bundle in scores["bundles"]))
    rows = [
        [
            bundle,
            *(
                " / ".join(_percent(scores["bundles"].get(bundle, {}).get(key)) for key in measures)
                for scores in tractograms.values()
            ),
        ]
        for bundle in names
    ]
    return Table("Bundles: overlap / overreach / F1", ("bundle", *(Path(name).name for name in tractograms)), rows)


def _percent(share: Any) -> str:
    return f"{100 * share:.1f}%" if isinstance(share, (int, float)) else "-"


def _count(number: Any) -> str:
    return str(number) if isinstance(number, int) else "-"
