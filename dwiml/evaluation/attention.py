"""The attention of a model along true streamlines: which points each point attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwiml.arguments import check_whole, grouped, quoted
from dwiml.evaluation.losses_by_point import SubjectReader
from dwiml.models.protocols import AttentionModel
from dwiml.ops.randomness import keyed_generator

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StreamlineAttention:
    """The attention of a model within one streamline.

    Attributes
    ----------
    id
        Index of the streamline in the HDF5 file.
    points
        Shape (L, 3), float32, voxel space, corner origin: the points at which the model is run, after resampling.
    voxel_sizes
        Shape (3,), mm.
    weights
        {group: {layer: {head: matrix}}}; layers and heads are counted from 0. Each matrix has shape (L, L), float32:
        row i has the weights that point i gives to the points 0 to i; its sum is 1.
    """

    id: int
    points: Floats
    voxel_sizes: Floats
    weights: Mapping[str, Mapping[int, Mapping[int, Floats]]]

    @property
    def mm(self) -> Doubles:
        """Distance of each point from the first one along the streamline, mm; shape (L,), float64."""
        steps = np.linalg.norm(np.diff(self.points, axis=0) * self.voxel_sizes, axis=1)
        return np.concatenate([[0.0], np.cumsum(steps, dtype=np.float64)])

    def select(
        self,
        *,
        groups: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
    ) -> StreamlineAttention:
        """Return the attention of some groups, layers and heads only.

        Parameters
        ----------
        groups
            Names of groups; None for all.
        layers
            Indices of layers, from 0, in each of the groups; None for all.
        heads
            Indices of heads, from 0; None for all.

        Raises
        ------
        ValueError
            If the model does not have one of them.
        """
        names = list(self.weights) if groups is None else list(groups)
        for name in names:
            if name not in self.weights:
                raise ValueError(f"The model has no attention named '{name}'; it has: {quoted(self.weights)}.")
        chosen = {}
        for name in names:
            of_group = self.weights[name]
            chosen[name] = {
                layer: {head: of_group[layer][head] for head in _checked("head", heads, of_group[layer], name)}
                for layer in _checked("layer", layers, of_group, name)
            }
        return replace(self, weights=chosen)

    def mean(self, group: str, layer: int | None = None) -> Doubles:
        """Return the mean over the heads of a layer, or of all layers, of a group; shape (L, L), float64."""
        layers = self.weights[group]
        chosen = layers.values() if layer is None else [layers[layer]]
        mean: Doubles = np.mean([matrix for heads in chosen for matrix in heads.values()], axis=0, dtype=np.float64)
        return mean

    def at_points(self, group: str, point: int | None = None) -> tuple[Doubles, Doubles]:
        """Return the attention that each point receives, in the mean over the layers and heads of a group.

        Parameters
        ----------
        group
            Name of the group.
        point
            Index of the point that attends, from 0, or from the end if negative; None for all points.

        Returns
        -------
        weight, ratio
            Shape (L,), float64: as :func:`attention_at_points`.

        Raises
        ------
        ValueError
            If the streamline has no such point.
        """
        nb = len(self.points)
        if point is not None and not -nb <= point < nb:
            raise ValueError(
                f"The model is run at {grouped(nb)} points of streamline {self.id}, numbered from 0 or, from the end, "
                f"from -1; there is no point {point}."
            )
        return attention_at_points(self.mean(group), point)


def check_has_attention(model: Any) -> None:
    """Check that a model has a method ``attention``.

    Raises
    ------
    ValueError
        If it has none.
    """
    if not callable(getattr(model, "attention", None)):
        raise ValueError(
            f"{type(model).__name__} has no attention to show; transformers have (transformer-src-only, "
            "transformer-src-and-tgt, transformer-src-tgt-concat)."
        )


def choose_streamlines(
    reader: SubjectReader, *, ids: Sequence[int] | None = None, nb: int = 3, seed: int = 0
) -> Integers:
    """Return the indices of streamlines of a subject: the given ones, or some drawn at random.

    Parameters
    ----------
    reader
        Reader of the subject.
    ids
        Indices in the HDF5 file, from 0; None to draw them.
    nb
        Number of streamlines to draw, among those with two points or more; fewer if there are not as many.
    seed
        Seed of the draw.

    Returns
    -------
    (S,) int64
        The given indices, or the drawn ones in increasing order.

    Raises
    ------
    ValueError
        If an index is out of range or given twice, or no streamline has two points.
    """
    lengths = reader.data.streamlines[reader.batch_loader.streamline_group_name].lengths
    name = reader.data.subject_id
    if ids is not None:
        for each in ids:
            if not 0 <= each < len(lengths):
                raise ValueError(
                    f"Subject '{name}' has {grouped(len(lengths))} streamlines, numbered from 0; there is no number "
                    f"{each}."
                )
        if len(set(ids)) < len(ids):
            raise ValueError(f"The streamlines must be different, got {', '.join(map(str, ids))}.")
        return np.asarray(ids, dtype=np.int64)
    check_whole("nb", nb, low=1)
    usable = np.flatnonzero(lengths >= 2).astype(np.int64)
    if not len(usable):
        raise ValueError(f"Subject '{name}' has no streamline with two points or more; choose another subject.")
    return np.sort(keyed_generator(seed, "attention").choice(usable, min(nb, len(usable)), replace=False))


def measure_attention(
    model: AttentionModel, reader: SubjectReader, ids: Integers, *, on_progress: Callable[[int], None] = lambda nb: None
) -> Iterator[StreamlineAttention]:
    """Compute the attention of a model within true streamlines, one at a time.

    Parameters
    ----------
    model
        A model with a method ``attention``, such as a transformer, on its current device.
    reader
        Reader of the subject.
    ids
        Shape (S,), int64: indices of the streamlines in the HDF5 file.
    on_progress
        Called with 1 after each streamline.

    Yields
    ------
    StreamlineAttention
        The attention within each streamline, in the order of `ids`.

    Raises
    ------
    ValueError
        If the model has no attention, or a streamline has no point at which the model is run, or too many for it.
    """
    check_has_attention(model)
    voxel_sizes = reader.data.streamlines[reader.batch_loader.streamline_group_name].voxel_sizes
    # Attention takes memory in proportion to the square of the number of points.
    for number, (targets, ids_per_subj) in zip(ids.tolist(), replace(reader, batch_size=1).batches(ids), strict=True):
        batch = reader.batch_loader.model_batch(targets.to(model.device), ids_per_subj)
        if not batch.streamlines.total_points:
            raise ValueError(
                f"Streamline {number} of subject '{reader.data.subject_id}' has no point at which the model is run; "
                "choose another one."
            )
        found = model.attention(batch.inputs, batch.streamlines)
        weights = {group: dict(enumerate(map(_by_head, layers))) for group, layers in found.items()}
        yield StreamlineAttention(number, batch.streamlines.data.cpu().numpy(), voxel_sizes, weights)
        on_progress(1)


def attention_at_points(weights: npt.NDArray[Any], point: int | None = None) -> tuple[Doubles, Doubles]:
    """Return the attention that each point of a streamline receives.

    The ratio compares it with equal attention, in which point i gives 1 / (i + 1) to itself and to each of the i points
    before it: earlier points are seen by more points and would otherwise seem to receive more or less than others.

    Parameters
    ----------
    weights
        Shape (L, L): row i has the weights that point i gives to the points 0 to i.
    point
        Index of the point that attends, from 0, or from the end if negative; None for all points.

    Returns
    -------
    weight
        Shape (L,), float64: the weight that `point` gives to each point, 0 for later ones; without `point`, the mean
        of the weights that the point receives from itself and from each later point.
    ratio
        Shape (L,), float64: `weight` divided by its value for equal attention; NaN for points after `point`.
    """
    nb = len(weights)
    equal = np.tril(np.ones((nb, nb))) / np.arange(1, nb + 1)[:, None]
    if point is None:
        nb_seen_by = nb - np.arange(nb)
        means = [np.tril(each).sum(axis=0, dtype=np.float64) / nb_seen_by for each in (weights, equal)]
        return means[0], means[0] / means[1]
    row = weights[point].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return row, row / np.where(equal[point] > 0, equal[point], np.nan)


def _by_head(layer: torch.Tensor) -> dict[int, Floats]:
    """Return the matrices of a layer, (1, H, L, L), by head."""
    return dict(enumerate(layer[0].detach().to("cpu", torch.float32).numpy()))


def _checked(what: str, given: Sequence[int] | None, known: Mapping[int, Any], group: str) -> list[int]:
    """Return the indices of layers or heads: the given ones, or all."""
    for each in given or ():
        if each not in known:
            raise ValueError(
                f"The attention '{group}' has {len(known)} {what}s, numbered from 0; there is no {what} {each}."
            )
    return list(known) if given is None else list(dict.fromkeys(given))
