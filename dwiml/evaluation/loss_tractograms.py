"""Tractograms that show a model's loss: every streamline coloured by it, the best and the worst ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import check_number
from dwiml.evaluation.losses_by_point import PointLosses, SubjectReader
from dwiml.matplotlib_backend import VALUE_COLORS, value_colormap
from dwiml.ops.ragged import run_rows
from dwiml.tractograms.writing.with_data import Part, write_trk

if TYPE_CHECKING:
    import numpy.typing as npt

    from dwiml.evaluation.losses_by_point import Floats, Integers

# Where the colour map ends: a few extreme losses would leave one colour for all others.
_COLOR_QUANTILES = (0.05, 0.95)
_NO_LOSS = (128.0, 128.0, 128.0)
_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def loss_files(percent: float) -> list[str]:
    """Return the names of the tractograms that :func:`write_loss_tractograms` makes."""
    return ["loss.trk", f"best_{percent:g}_percent.trk", f"worst_{percent:g}_percent.trk"]


def write_loss_tractograms(
    folder: Path,
    reader: SubjectReader,
    losses: PointLosses,
    *,
    percent: float = 10.0,
    color_range: Sequence[float] | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Write ``loss.trk``, ``best_10_percent.trk`` and ``worst_10_percent.trk``, in rasmm; each whole or not at all.

    ``loss.trk`` has every streamline, in the file's order; the others are sorted, the best and the worst first. Each
    point has ``loss`` and ``color`` (red, green, blue from 0 to 255), and ``eos_probability`` where the model gives
    one; each streamline has ``mean_loss`` and ``id``, its number in the HDF5 file. Where a point has no step, as the
    last one, it has the loss of the point before it; NaN and grey without one.

    Parameters
    ----------
    folder
        Where they go.
    reader
        The subject; it is read again, a batch at a time.
    losses
        Of all its streamlines.
    percent
        The share of the best and of the worst streamlines, by mean loss; one streamline at least.
    color_range
        The losses at the two ends of the colour map; None: the 5th and the 95th percentile.
    on_progress
        Called after each batch with the number of its streamlines.

    Returns
    -------
    dict
        JSON-compatible summary: the mean loss, quantiles, counts, the range of the colours.

    Raises
    ------
    ValueError
        For a share outside 0 to 100, or an invalid range.
    """
    check_number("percent", percent, low=0, high=100, low_included=False)
    check_color_range(color_range)
    low, high = np.nanquantile(losses.loss, _COLOR_QUANTILES).tolist() if color_range is None else color_range
    means = losses.streamline_means()
    ranked = np.argsort(means, kind="stable")[: np.count_nonzero(~np.isnan(means))]
    nb = max(1, round(len(ranked) * percent / 100))
    wanted = (np.arange(reader.nb_streamlines), ranked[:nb], ranked[::-1][:nb])
    shown = _Shown(losses, means, (low, high))
    for name, ids in zip(loss_files(percent), wanted, strict=True):
        _write(folder / name, reader, shown, ids.astype(np.int64), on_progress)
    return {
        "subject": reader.data.subject_id,
        "subset": reader.phase,
        **_summary(losses, means),
        "percent": percent,
        "nb_best": nb,
        "mean_loss_of_best": float(means[ranked[:nb]].mean()),
        "mean_loss_of_worst": float(means[ranked[::-1][:nb]].mean()),
        "color_map": VALUE_COLORS,
        "color_range": [low, high],
    }


def _summary(losses: PointLosses, means: npt.NDArray[np.float64]) -> dict[str, Any]:
    found = {
        "mean_loss": float(np.nanmean(losses.loss, dtype=np.float64)),
        "nb_streamlines": len(losses.lengths),
        "nb_points": len(losses.loss),
        "nb_losses": int(np.count_nonzero(~np.isnan(losses.loss))),
        "loss_quantiles": _quantiles(losses.loss),
        "streamline_mean_loss_quantiles": _quantiles(means),
    }
    for place, probabilities in zip(("last", "other"), losses.eos_by_place() or (), strict=False):
        found[f"mean_eos_probability_at_{place}_points"] = float(probabilities.mean(dtype=np.float64))
    return found


def check_color_range(color_range: Sequence[float] | None) -> None:
    """Raise a ValueError when a range is not two finite losses, the lower one first; None is fine."""
    if color_range is None:
        return
    low, high = color_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"color_range must be two losses, the lower one first, got {low:g} and {high:g}.")


def colors_of(values: npt.NDArray[Any], low: float, high: float) -> Floats:
    """Return a colour for each value: red, green and blue from 0 to 255, (N, 3), float32; grey for NaN.

    Parameters
    ----------
    values
        Shape (N,).
    low, high
        The values at the two ends of the colour map; those beyond have the colour of the end.
    """
    share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.0)
    colors: Floats = (255 * value_colormap()(np.clip(share, 0, 1))[:, :3]).astype(np.float32)
    colors[np.isnan(values)] = _NO_LOSS
    return colors


class _Shown:
    """What is written at each point and streamline."""

    def __init__(self, losses: PointLosses, means: npt.NDArray[np.float64], color_range: tuple[float, float]) -> None:
        self._losses = losses
        self._means = means
        self._filled = losses.filled()
        self._color_range = color_range

    def of(self, ids: Integers) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
        """Return the data per point, (P', K), and per streamline, (S', 1), of some streamlines."""
        rows = run_rows(self._losses.offsets[ids], self._losses.lengths[ids])
        loss = self._filled[rows]
        of_points = {"loss": loss[:, None], "color": colors_of(loss, *self._color_range)}
        if self._losses.eos_probability is not None:
            of_points["eos_probability"] = self._losses.eos_probability[rows][:, None]
        return of_points, {"mean_loss": self._means[ids][:, None], "id": ids[:, None]}


def _write(path: Path, reader: SubjectReader, shown: _Shown, ids: Integers, on_progress: Callable[[int], None]) -> None:
    streamlines = reader.data.streamlines[reader.batch_loader.streamline_group_name]
    volume = reader.data.volumes[reader.batch_loader.input_group_name]

    def parts() -> Iterator[Part]:
        start = 0
        for batch, _ in reader.batches(ids):
            stop = start + len(batch)
            yield Part(batch.data.numpy(), batch.lengths.numpy(), *shown.of(ids[start:stop]))
            start = stop
            on_progress(len(batch))

    write_trk(path, streamlines.grid_of(volume.grid.shape), parts())


def _quantiles(values: npt.NDArray[Any]) -> dict[str, float]:
    found = np.nanquantile(values.astype(np.float64), _QUANTILES)
    return {f"{share:g}": float(value) for share, value in zip(_QUANTILES, found, strict=True)}
