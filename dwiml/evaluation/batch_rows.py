"""What a model receives of a training batch: its streamlines as stored, augmented, as targets, and its neighborhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import check_whole, counted
from dwiml.data.dataset import check_phase
from dwiml.ops.ragged import offsets, run_rows
from dwiml.ops.spaces import from_vox_corner
from dwiml.training.loading import RebuiltExperiment

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

_NEIGHBORHOOD_POINTS = 12


@dataclass(frozen=True)
class BatchRow:
    """Streamlines of a batch at one stage.

    Attributes
    ----------
    name
        The stage.
    points
        Shape (N, 3), float32, rasmm.
    lengths
        Shape (S,), int64: number of points of each streamline.
    place
        Shape (N,), float32: place of each point in its streamline, from 0 (first) to 1 (last).
    is_neighborhood
        Whether all but the first streamline are lines from points of it to those of their neighborhoods.
    """

    name: str
    points: Floats
    lengths: Integers
    place: Floats
    is_neighborhood: bool = False


@dataclass(frozen=True)
class BatchRows:
    """Streamlines of one subject in a batch, at each stage.

    Attributes
    ----------
    subject
        Name of the subject.
    index
        Its index in the subset.
    rows
        The stages, in order.
    text
        What was drawn for these streamlines, in a sentence.
    """

    subject: str
    index: int
    rows: list[BatchRow]
    text: str


def rows_of_batch(
    rebuilt: RebuiltExperiment, *, phase: str = "training", epoch: int = 0, batch: int = 0, nb: int = 20
) -> BatchRows:
    """Return the first streamlines of a batch, as the training of an experiment loads it.

    Parameters
    ----------
    rebuilt
        The experiment.
    phase
        ``"training"`` or ``"validation"``, whose batches are not augmented.
    epoch, batch
        Indices of the epoch and of the batch in it, from 0.
    nb
        Largest number of streamlines, of the first subject in the batch.

    Raises
    ------
    ValueError
        If there is no such batch.
    """
    check_phase(phase)
    check_whole("epoch", epoch, low=0, high=10**9)
    check_whole("nb", nb, low=1)
    sampler, loader = rebuilt.sampler, rebuilt.loader
    nb_batches = sampler.nb_batches(phase, epoch)
    if nb_batches == 0:
        raise ValueError(f"The {phase} set has no batch.")
    check_whole("batch", batch, low=0, high=nb_batches - 1)
    ids = sampler.whole_batch(phase, epoch, batch)
    fetcher = loader.fetcher(phase)
    drawn = fetcher.draw(ids)
    stored, slices_of_stored = fetcher.fetch(ids)
    targets, slices = fetcher.fetch(ids, drawn)
    index = next(iter(slices_of_stored))
    data = sampler.dataset.subset(phase).data_of(index)
    lines = data.streamlines[loader.streamline_group_name]
    model_batch = loader.model_batch(targets.to(rebuilt.model.device), slices)
    kept = slice(0, min(nb, slices_of_stored[index].stop))
    pieces = np.ones(len(stored), dtype=np.int64)
    if drawn is not None:
        pieces = drawn.apply(stored.data.numpy(), stored.lengths.numpy())[2]
    of_model = slice(0, int(pieces[kept].sum()))
    in_scanner = getattr(rebuilt.model, "streamlines_space", "vox") == "rasmm"

    def row(name: str, sequence: Any, some: slice, *, scanner: bool = False) -> BatchRow:
        lengths = sequence.lengths.cpu().numpy()[some]
        points = sequence.data.detach().cpu().numpy().astype(np.float32)[: lengths.sum()]
        if not scanner:
            points = from_vox_corner(
                points, space="rasmm", origin="center", affine=lines.affine, voxel_sizes=lines.voxel_sizes
            )
        return BatchRow(name, points, lengths, _places(lengths))

    rows = [
        row("as stored,\nresampled", stored, kept),
        row("as the model\nreceives them", model_batch.streamlines, of_model, scanner=in_scanner),
        row("targets of\nthe loss", model_batch.targets, of_model, scanner=in_scanner),
    ]
    around = None if in_scanner else getattr(rebuilt.model, "neighborhood_offsets", None)
    if around is not None and len(around):
        rows.append(_neighborhood(rows[1], around.cpu().numpy(), lines))
    return BatchRows(data.subject_id, index, rows, _text(rebuilt, drawn, pieces, kept, len(stored)))


def _places(lengths: Integers) -> Floats:
    numbers = np.arange(lengths.sum()) - np.repeat(offsets(lengths), lengths)
    return (numbers / np.maximum(np.repeat(lengths, lengths) - 1, 1)).astype(np.float32)


def _neighborhood(row: BatchRow, around: npt.NDArray[np.floating[Any]], lines: Any) -> BatchRow:
    """Return a line from some points of the longest streamline to each point of their neighborhood."""
    longest = int(np.argmax(row.lengths))
    rows = run_rows(offsets(row.lengths)[longest : longest + 1], row.lengths[longest : longest + 1])
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _NEIGHBORHOOD_POINTS).round().astype(int))]
    # The point itself is one of them.
    around = around[np.linalg.norm(around, axis=1) > 0]
    moved = around @ lines.affine[:3, :3].T
    ends = np.stack(np.broadcast_arrays(row.points[chosen, None], row.points[chosen, None] + moved), axis=2)
    points = np.concatenate([row.points[rows], ends.reshape(-1, 3).astype(np.float32)])
    lengths = np.array([len(rows), *[2] * (len(chosen) * len(moved))], dtype=np.int64)
    place = np.concatenate([row.place[rows], np.repeat(row.place[chosen], 2 * len(moved))])
    return BatchRow("neighborhood of\none streamline", points, lengths, place, is_neighborhood=True)


def _text(rebuilt: RebuiltExperiment, drawn: Any, pieces: Integers, kept: slice, nb_of_batch: int) -> str:
    nb = kept.stop - kept.start
    shown = f"{nb} of {counted(nb_of_batch, 'streamline')}"
    if drawn is None:
        return f"{shown}, none reversed or split"
    nb_reversed, nb_split = int(drawn.reversed[kept].sum()), int((pieces[kept] > 1).sum())
    noise = [
        f"{name.removeprefix('noise_').replace('_size', '').replace('_', ' ')} {value:g} voxel"
        for name, value in rebuilt.parameters.get("loader", {}).items()
        if name.startswith("noise_") and "_size" in name and isinstance(value, (int, float)) and value
    ]
    return f"{shown}, {nb_reversed} reversed, {nb_split} split; noise: {', '.join(noise) or 'none'}"
