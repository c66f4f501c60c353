"""Write tractograms colored by the loss or another error of a model: all streamlines, the best and the worst."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import check_number
from dwiml.evaluation.losses_by_point import SubjectReader
from dwiml.evaluation.point_losses import THIRDS, PointLosses
from dwiml.matplotlib_backend import COLOR_QUANTILES, VALUE_COLORS, value_colors
from dwiml.ops.ragged import run_rows
from dwiml.tractograms.writing.sidecar import ACCEPTANCE, describe
from dwiml.tractograms.writing.with_data import Part, write_with_data

if TYPE_CHECKING:
    import numpy.typing as npt

    from dwiml.evaluation.point_losses import Integers

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def loss_files(percent: float) -> list[str]:
    """Return the file names of the tractograms that :func:`write_loss_tractograms` writes."""
    return ["loss.trk", f"best_{percent:g}_percent.trk", f"worst_{percent:g}_percent.trk"]


def write_loss_tractograms(
    folder: Path,
    reader: SubjectReader,
    losses: PointLosses,
    *,
    percent: float = 10.0,
    color_by: str = "loss",
    color_range: Sequence[float] | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
    sources: Sequence[str | os.PathLike[str] | None] | None = None,
) -> dict[str, Any]:
    """Write ``loss.trk``, ``best_10_percent.trk`` and ``worst_10_percent.trk``, in rasmm, center origin.

    Each file is written atomically: it is complete, or absent. ``loss.trk`` contains all streamlines, in their
    order in the file; the other files are sorted by mean loss, the best or the worst first. Each point has ``loss``,
    ``color`` (red, green and blue from 0 to 255) and what else the model has: ``displacement_mm`` (mm),
    ``eos_probability`` and ``eos_error`` (:class:`~dwiml.evaluation.point_losses.PointLosses`). Each streamline has
    ``mean_loss`` and ``id``, its index in the file. A point without a loss or a displacement, such as the last one,
    gets that of the point before it; if there is none, it is NaN. The color of NaN is gray.

    Parameters
    ----------
    folder
        The output folder.
    reader
        Reader of the subject, used one batch at a time.
    losses
        Losses of all its streamlines.
    percent
        Percentage of best and of worst streamlines; at least one streamline is written.
    color_by
        What ``color`` shows: ``"loss"``, ``"displacement_mm"`` or ``"eos_error"``.
    color_range
        Values at the two ends of the color map; None for the 5th and the 95th percentile.
    on_progress
        Called after each batch with its number of streamlines.
    sources
        The experiment and its HDF5 file, to write the sidecars of the tractograms; None to write none.

    Returns
    -------
    dict
        JSON-compatible summary: the mean loss, its mean in each third of the streamlines, quantiles, counts, and what
        the colors show. Means that are not defined are absent.

    Raises
    ------
    ValueError
        If `percent` or `color_range` is invalid, or the model has no such values as `color_by`.
    OSError
        If a file cannot be written.
    """
    check_number("percent", percent, low=0, high=100, low_included=False)
    check_color_range(color_range)
    colored = losses.values_for_color(color_by)
    low, high = np.nanquantile(colored, COLOR_QUANTILES).tolist() if color_range is None else color_range
    means = losses.streamline_means()
    ranked = np.argsort(means, kind="stable")[: np.count_nonzero(~np.isnan(means))]
    nb = max(1, round(len(ranked) * percent / 100))
    ids_of_files = (np.arange(reader.nb_streamlines), ranked[:nb], ranked[::-1][:nb])
    filled = colored if color_by == "eos_error" else losses.filled(colored)
    data = _StreamlineData(losses, means, filled, (low, high))
    sidecars = [None] * 3 if sources is None else _sidecars(reader, percent, sources)
    for name, ids, sidecar in zip(loss_files(percent), ids_of_files, sidecars, strict=True):
        _write(folder / name, reader, data, ids.astype(np.int64), on_progress, sidecar)
    return {
        "subject": reader.data.subject_id,
        **_summary(losses, means),
        "percent": percent,
        "nb_best": nb,
        "mean_loss_of_best": float(means[ranked[:nb]].mean()),
        "mean_loss_of_worst": float(means[ranked[::-1][:nb]].mean()),
        "color_by": color_by,
        "color_map": VALUE_COLORS,
        "color_range": [low, high],
    }


def _summary(losses: PointLosses, means: npt.NDArray[np.float64]) -> dict[str, Any]:
    summary = {
        "mean_loss": float(np.nanmean(losses.loss, dtype=np.float64)),
        "nb_streamlines": len(losses.lengths),
        "nb_points": len(losses.loss),
        "nb_losses": int(np.count_nonzero(~np.isnan(losses.loss))),
        "loss_quantiles": _quantiles(losses.loss),
        "streamline_mean_loss_quantiles": _quantiles(means),
    }
    errors = {"loss": losses.loss, "displacement_mm": losses.displacement_mm}
    if losses.displacement_mm is not None:
        summary["mean_displacement_mm"] = float(np.nanmean(losses.displacement_mm, dtype=np.float64))
    for name, values in errors.items():
        if values is not None:
            summary[f"mean_{name}_by_third"] = {
                third: float(each.mean(dtype=np.float64))
                for third, each in zip(THIRDS, losses.by_third(values), strict=True)
                if len(each)
            }
    for place, probabilities in zip(("last", "other"), losses.eos_probabilities_by_place() or (), strict=False):
        summary[f"mean_eos_probability_at_{place}_points"] = float(probabilities.mean(dtype=np.float64))
    return summary


def check_color_range(color_range: Sequence[float] | None) -> None:
    """Check the values at the two ends of the color map; None is accepted.

    Raises
    ------
    ValueError
        If they are not two finite numbers, the lower one first.
    """
    if color_range is None:
        return
    low, high = color_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"color_range must be two finite numbers, the lower one first, got {low:g} and {high:g}.")


class _StreamlineData:
    """Data per point and per streamline, for the tractograms."""

    def __init__(
        self,
        losses: PointLosses,
        means: npt.NDArray[np.float64],
        colored: npt.NDArray[np.float32],
        color_range: tuple[float, float],
    ) -> None:
        self._losses = losses
        self._means = means
        self._per_point = losses.data_per_point()
        self._colored = colored
        self._color_range = color_range

    def select(self, ids: Integers) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
        """Return {name: values (P, K)} per point and {name: values (S, 1)} per streamline, for S streamlines."""
        rows = run_rows(self._losses.offsets[ids], self._losses.lengths[ids])
        per_point = {name: values[rows][:, None] for name, values in self._per_point.items()}
        per_point["color"] = value_colors(self._colored[rows], *self._color_range)
        return per_point, {"mean_loss": self._means[ids][:, None], "id": ids[:, None]}


def _write(
    path: Path,
    reader: SubjectReader,
    data: _StreamlineData,
    ids: Integers,
    on_progress: Callable[[int], None],
    sidecar: dict[str, Any] | None,
) -> None:
    def parts() -> Iterator[Part]:
        start = 0
        for batch, _ in reader.batches(ids):
            stop = start + len(batch)
            yield Part(batch.data.numpy(), batch.lengths.numpy(), *data.select(ids[start:stop]))
            start = stop
            on_progress(len(batch))

    write_with_data(path, reader.find_grid(), parts(), sidecar=sidecar)


def _sidecars(
    reader: SubjectReader, percent: float, sources: Sequence[str | os.PathLike[str] | None]
) -> list[dict[str, Any]]:
    """Return the content of the sidecars of all streamlines, of the best and of the worst."""
    kind = "True streamlines" if reader.has_true_streamlines else "Streamlines"
    subject = f"{kind} of subject '{reader.data.subject_id}', with the loss of a trained model at each point"
    chosen = ("lowest", "highest")
    return [
        describe(f"{subject}.", sources),
        *(
            describe(
                f"{subject}: the {percent:g} percent with the {which} mean loss.",
                sources,
                {ACCEPTANCE: {"Metric": "mean loss", "Kept": which, "Percent": percent}},
            )
            for which in chosen
        ),
    ]


def _quantiles(values: npt.NDArray[Any]) -> dict[str, float]:
    quantiles = np.nanquantile(values.astype(np.float64), _QUANTILES)
    return {f"{share:g}": float(value) for share, value in zip(_QUANTILES, quantiles, strict=True)}
