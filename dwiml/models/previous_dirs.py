"""Models that use the last directions of a streamline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dwiml.arguments import check_whole, shown
from dwiml.models.base import MainModelAbstract
from dwiml.models.embeddings import Embedding, build_embedding
from dwiml.ops.directions import previous_directions
from dwiml.ops.sequences import TensorSequence

# Far above any trained size: a number from a damaged or untrusted file must not cause a large allocation.
MAX_PREVIOUS_DIRS = 10_000


class ModelWithPreviousDirections(MainModelAbstract):
    """Provides the directions of the last steps at each point, optionally embedded.

    Parameters
    ----------
    nb_previous_dirs
        Number of previous directions given with the input. With 0, all sizes are 0.
    prev_dirs_embedding_key
        Embedding of the previous directions: 'no_embedding', 'nn_embedding' or 'mlp_embedding'; None: 'no_embedding'.
    prev_dirs_embedded_size
        Size of the embedding of the previous directions; None for 'no_embedding'.
    prev_dirs_embedding_args
        Options of the embedding of the previous directions: ``hidden_sizes``, ``activation`` and ``dropout`` of
        'mlp_embedding'.
    normalize_prev_dirs
        Give previous directions unit length. Otherwise they are the steps themselves, in voxels.

    Attributes
    ----------
    embedded_prev_dirs_size : int
        Number of columns that :meth:`embed_previous_dirs` returns.

    Raises
    ------
    ValueError
        If ``nb_previous_dirs`` is negative, an embedding is given without previous directions, or the embedding, its
        size or an option is invalid.
    """

    def __init__(
        self,
        *,
        nb_previous_dirs: int = 0,
        prev_dirs_embedding_key: str | None = None,
        prev_dirs_embedded_size: int | None = None,
        prev_dirs_embedding_args: Mapping[str, Any] | None = None,
        normalize_prev_dirs: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        nb_previous_dirs = check_whole("nb_previous_dirs", nb_previous_dirs, low=0, high=MAX_PREVIOUS_DIRS)
        given = {
            "prev_dirs_embedding_key": prev_dirs_embedding_key,
            "prev_dirs_embedded_size": prev_dirs_embedded_size,
            "prev_dirs_embedding_args": prev_dirs_embedding_args,
        }
        if nb_previous_dirs == 0 and any(value is not None for value in given.values()):
            named = " and ".join(f"{name}={shown(value)}" for name, value in given.items() if value is not None)
            raise ValueError(f"{named} needs nb_previous_dirs of at least 1, got 0.")
        self.nb_previous_dirs = nb_previous_dirs
        self.normalize_prev_dirs = normalize_prev_dirs
        self.prev_dirs_embedding_key = prev_dirs_embedding_key
        self.prev_dirs_embedding: Embedding | None = None
        if self.nb_previous_dirs:
            self.prev_dirs_embedding = build_embedding(
                "no_embedding" if prev_dirs_embedding_key is None else prev_dirs_embedding_key,
                3 * self.nb_previous_dirs,
                prev_dirs_embedded_size,
                prev_dirs_embedding_args,
                of="prev_dirs",
            )
        self.embedded_prev_dirs_size = self.prev_dirs_embedding.output_size if self.prev_dirs_embedding else 0

    @property
    def layers_by_point(self) -> list[nn.Module]:
        """The embedding, if it has weights, and the layers of the other base classes."""
        own = self.prev_dirs_embedding
        return [*super().layers_by_point, *([own] if own is not None and list(own.parameters()) else [])]

    @property
    def nb_points_to_track(self) -> int:
        """Number of last points needed by the previous directions, or by the other base classes if they need more."""
        return max(super().nb_points_to_track, self.nb_previous_dirs + 1)

    def previous_dirs(self, streamlines: TensorSequence) -> Tensor:
        """Return the last directions at each point, the most recent first.

        Parameters
        ----------
        streamlines
            Points, shape (N, 3), voxel space, any origin.

        Returns
        -------
        Tensor
            Shape (N, 3 * nb_previous_dirs), along voxel axes: unit vectors, or steps in voxels. Zeros before the start
            of the streamline and at repeated points.
        """
        return previous_directions(streamlines, self.nb_previous_dirs, normalize=self.normalize_prev_dirs)

    def embed_previous_dirs(self, directions: Tensor) -> Tensor:
        """Embed previous directions.

        Parameters
        ----------
        directions
            Output of :meth:`previous_dirs`, shape (N, 3 * nb_previous_dirs).

        Returns
        -------
        Tensor
            Shape (N, embedded_prev_dirs_size).
        """
        if self.prev_dirs_embedding is None:
            return directions
        embedded: Tensor = self.prev_dirs_embedding(directions)
        return embedded
