"""What a model receives at each point: the features of one volume, in a neighborhood, and previous directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dwiml.arguments import check_number, check_whole, shown
from dwiml.models.base import MainModelAbstract
from dwiml.models.embeddings import Embedding, build_embedding
from dwiml.ops.directions import previous_directions
from dwiml.ops.neighborhood import grid_size, neighborhood_offsets
from dwiml.ops.sequences import TensorSequence

# Far above any trained size: a number from a damaged or untrusted file must not cause a large allocation.
MAX_FEATURES = 10_000_000
MAX_PREVIOUS_DIRS = 10_000


class ModelWithNeighborhood(MainModelAbstract):
    """Reads the volume in a neighborhood of each point.

    Inherit from it and from :class:`ModelWithOneInput`, in any order. The loader interpolates the volume at each point
    plus :attr:`neighborhood_offsets`, shape (P, 3), in voxels, first the point itself (plus `volume_shift`). The
    features of neighbor p are the columns ``p * nb_features : (p + 1) * nb_features`` of the input.

    Parameters
    ----------
    neighborhood_type
        Neighbors of a point whose features are also part of the input: 'axes' or 'grid'; None for the point alone.
    neighborhood_radius
        Number of neighbors on each side of the point, along each axis.
    neighborhood_resolution
        Distance between two neighbors, in voxels; None: 1.
    volume_shift
        Distance, in voxels along each axis, from a point to where the volume is read for it, and for its neighbors;
        None: 0. A model that was trained by dwi_ml 1.0, which reads half a voxel off, needs 0.5.

    Raises
    ------
    ValueError
        If the first three are inconsistent (see :func:`dwiml.ops.neighborhood.neighborhood_offsets`), or the shift is
        not a number from -1 to 1.
    """

    def __init__(
        self,
        *,
        neighborhood_type: str | None = None,
        neighborhood_radius: int | None = None,
        neighborhood_resolution: float | None = None,
        volume_shift: float | None = None,
        **kwargs: Any,
    ) -> None:
        offsets = neighborhood_offsets(neighborhood_type, neighborhood_radius, neighborhood_resolution)
        # Before super().__init__: ModelWithOneInput, if it comes later, builds its embedding from them.
        self._nb_neighborhood_points = len(offsets)
        self.neighborhood_type = neighborhood_type
        self._grid_size = grid_size(neighborhood_type, neighborhood_radius)
        super().__init__(**kwargs)
        self.neighborhood_radius = neighborhood_radius
        self.neighborhood_resolution = neighborhood_resolution
        self.volume_shift = volume_shift
        shift = 0.0 if volume_shift is None else check_number("volume_shift", volume_shift, low=-1, high=1)
        self.neighborhood_offsets = None if neighborhood_type is None and not shift else offsets + shift


class ModelWithOneInput(MainModelAbstract):
    """Receives the features of one volume at each point, optionally embedded.

    Parameters
    ----------
    nb_features
        Number of features of each voxel of the volume.
    input_embedding_key
        Embedding of the input: 'no_embedding', 'nn_embedding', 'mlp_embedding' or 'cnn_embedding'.
    input_embedded_size
        Size of the embedding of the input; None for 'no_embedding'.
    input_embedding_args
        Options of the embedding of the input: ``hidden_sizes``, ``activation`` and ``dropout`` of 'mlp_embedding', or
        ``nb_filters`` and ``kernel_sizes`` of 'cnn_embedding'.

    Attributes
    ----------
    input_size : int
        Number of columns of the input: ``nb_features`` times the number of points of the neighborhood.
    embedded_input_size : int
        Number of columns that :meth:`embed_inputs` returns.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or the embedding, its size or an option is invalid.
    """

    neighborhood_type: str | None = None
    _nb_neighborhood_points: int = 1
    _grid_size: int | None = None

    def __init__(
        self,
        *,
        nb_features: int,
        input_embedding_key: str = "no_embedding",
        input_embedded_size: int | None = None,
        input_embedding_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Counts read from an HDF5 file are numpy integers, which torch's layers refuse.
        self.nb_features = check_whole("nb_features", nb_features, low=1, high=MAX_FEATURES)
        self.input_size = self.nb_features * self._nb_neighborhood_points
        self.input_embedding_key = input_embedding_key
        self.input_embedding = build_embedding(
            input_embedding_key,
            self.input_size,
            input_embedded_size,
            input_embedding_args,
            neighborhood_type=self.neighborhood_type,
            grid_size=self._grid_size,
        )
        self.embedded_input_size = self.input_embedding.output_size

    @property
    def layers_by_point(self) -> list[nn.Module]:
        """The embedding, if it has weights, and the layers of the other base classes."""
        own = [self.input_embedding] if list(self.input_embedding.parameters()) else []
        return [*super().layers_by_point, *own]

    def embed_inputs(self, inputs: TensorSequence) -> Tensor:
        """Embed the inputs of all points.

        Parameters
        ----------
        inputs
            Shape (N, input_size), floating-point.

        Returns
        -------
        Tensor
            Shape (N, embedded_input_size), one streamline after the other.

        Raises
        ------
        ValueError
            If the number of columns is not :attr:`input_size`.
        """
        if inputs.data.shape[1] != self.input_size:
            raise ValueError(
                f"The input has {inputs.data.shape[1]} features per point; this model was built for {self.input_size} "
                f"(nb_features={self.nb_features} x {self._nb_neighborhood_points} point(s) of the neighborhood)."
            )
        embedded: Tensor = self.input_embedding(inputs.data)
        return embedded


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
