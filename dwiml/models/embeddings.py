"""Embeddings: the first layers of a model, which act on the features of each point."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwiml.arguments import check_choice, check_dropout, check_options, check_sizes, check_whole, shown
from dwiml.ops.neighborhood import MAX_RADIUS, features_on_grid
from dwiml.params import checks_arguments

# Far above any trained size: a number from a damaged or untrusted file must not cause a large allocation.
MAX_UNITS = 100_000

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "gelu": functional.gelu}

# Arguments of an embedding that are determined by the model and by the size of the embedding.
_OWN = ("input_size", "output_size", "grid_size")


class Embedding(nn.Module, abc.ABC):
    """Maps the features of each point to ``output_size`` features.

    A subclass defines :meth:`forward`, which must process each row independently. Its constructor receives
    ``input_size`` and ``output_size`` (None if the user gave no size), and has its own options as keywords.

    Parameters
    ----------
    output_size
        Number of features after the embedding.
    """

    needs_grid: ClassVar[bool] = False
    """Whether the constructor also receives ``grid_size``, the number of points of a 'grid' neighborhood along each
    axis, which is then required."""

    output_size: int
    """Number of features after the embedding."""

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    @abc.abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Embed features.

        Parameters
        ----------
        features
            Shape (N, input_size), floating-point.

        Returns
        -------
        Tensor
            Shape (N, output_size).
        """


class NoEmbedding(Embedding):
    """The identity: features are not changed.

    Parameters
    ----------
    input_size
        Number of features.
    output_size
        None, or the same number.

    Raises
    ------
    ValueError
        If ``output_size`` differs from ``input_size``.
    """

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        if output_size is not None and output_size != input_size:
            raise ValueError(
                f"'no_embedding' keeps the {input_size} features, got an embedded size of {shown(output_size)}: "
                "leave it out, or choose 'nn_embedding'."
            )
        super().__init__(input_size)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features themselves."""
        return features


class NNEmbedding(Embedding):
    """A linear layer, then ReLU.

    Parameters
    ----------
    input_size, output_size
        Number of features before and after.

    Raises
    ------
    ValueError
        If ``output_size`` is not a positive integer.
    """

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__(_size_of("nn_embedding", output_size))
        self.linear = nn.Linear(input_size, self.output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Embed rows of shape (N, input_size) to (N, output_size)."""
        return torch.relu(self.linear(features))


class MLPEmbedding(Embedding):
    """A multilayer perceptron: hidden layers, each linear with an activation and dropout, then a linear layer.

    Parameters
    ----------
    input_size, output_size
        Number of features before and after.
    hidden_sizes
        Number of units of each hidden layer.
    activation
        'relu' or 'gelu', a key of :data:`ACTIVATIONS`.
    dropout
        Probability that a hidden value is set to zero in training.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or an option is out of range.
    """

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        hidden_sizes: Sequence[int] = (256,),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(_size_of("mlp_embedding", output_size))
        sizes = check_sizes("The hidden_sizes of 'mlp_embedding'", hidden_sizes, high=MAX_UNITS)
        self._activation = ACTIVATIONS[check_choice("The activation of 'mlp_embedding'", activation, ACTIVATIONS)]
        self.dropout = nn.Dropout(check_dropout("The dropout of 'mlp_embedding'", dropout))
        self.hidden = nn.ModuleList(map(nn.Linear, [input_size, *sizes], sizes))
        self.output = nn.Linear(sizes[-1], self.output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Embed rows of shape (N, input_size) to (N, output_size)."""
        for layer in self.hidden:
            features = self.dropout(self._activation(layer(features)))
        embedded: Tensor = self.output(features)
        return embedded


class CNNEmbedding(Embedding):
    """3D convolutions over the 'grid' neighborhood of each point, each followed by ReLU, then a linear layer.

    The features of a point are an image of (grid_size, grid_size, grid_size) voxels with ``input_size / grid_size**3``
    channels; its axes are the voxel axes x, y and z of the volume, whatever its affine. Convolutions have a stride of 1
    and no padding: each reduces the image by the size of its kernel minus 1 along each axis. The result is flattened,
    the filters of one voxel side by side.

    Parameters
    ----------
    input_size
        Number of features of a point, of all its neighbors together.
    output_size
        Number of features of the linear layer; None: no linear layer, the flattened result is the embedding.
    grid_size
        Number of points of the neighborhood along each axis.
    nb_filters
        Number of filters of each convolution.
    kernel_sizes
        Size of the kernels of each convolution along x, y and z, in points of the neighborhood; a number for all
        convolutions, or one for each.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or the kernels are larger than the neighborhood.
    """

    needs_grid = True

    @checks_arguments
    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        grid_size: int,
        nb_filters: Sequence[int] = (32,),
        kernel_sizes: int | Sequence[int] = 3,
    ) -> None:
        filters = check_sizes("The nb_filters of 'cnn_embedding'", nb_filters, high=MAX_UNITS, example="[32, 32]")
        kernels = _kernel_sizes(kernel_sizes, len(filters))
        side = grid_size - sum(kernels) + len(kernels)
        if side < 1:
            raise ValueError(
                f"The kernel_sizes of 'cnn_embedding', {kernels}, need a neighborhood of at least "
                f"{grid_size - side + 1} points along each axis, got {grid_size}: choose a larger neighborhood_radius "
                "or smaller kernels."
            )
        flat_size = side**3 * filters[-1]
        super().__init__(flat_size if output_size is None else _size_of("cnn_embedding", output_size))
        self.grid_size = grid_size
        channels = [input_size // grid_size**3, *filters]
        self.convolutions = nn.ModuleList(map(nn.Conv3d, channels, filters, kernels))
        self.linear = None if output_size is None else nn.Linear(flat_size, self.output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Embed rows of shape (N, input_size) to (N, output_size)."""
        images = features_on_grid(features, self.grid_size)
        for convolution in self.convolutions:
            images = torch.relu(convolution(images))
        flat = images.movedim(1, -1).flatten(1)
        return flat if self.linear is None else self.linear(flat)


EMBEDDINGS: dict[str, type[Embedding]] = {
    "no_embedding": NoEmbedding,
    "nn_embedding": NNEmbedding,
    "mlp_embedding": MLPEmbedding,
    "cnn_embedding": CNNEmbedding,
}
"""{key: its class}. Add your own here, before you build a model: ``EMBEDDINGS["mine"] = Mine``."""


def build_embedding(
    key: str,
    input_size: int,
    output_size: int | None,
    options: Mapping[str, Any] | None = None,
    *,
    of: str = "input",
    neighborhood_type: str | None = None,
    grid_size: int | None = None,
) -> Embedding:
    """Build an embedding by its key.

    Parameters
    ----------
    key
        A key of :data:`EMBEDDINGS`.
    input_size, output_size
        Number of features before and after; None if the embedding determines it, as 'no_embedding'.
    options
        Other keywords of its class.
    of
        Beginning of the names of the model's parameters, for messages: 'input' or 'prev_dirs'.
    neighborhood_type
        The neighborhood from which the features come.
    grid_size
        Number of points of a neighborhood of type 'grid' along each axis; None for another type.

    Raises
    ------
    ValueError
        If the key or an option is unknown, the size is invalid for the embedding, or the embedding needs a neighborhood
        of another type.
    TypeError
        If the class is not a subclass of :class:`Embedding`.
    """
    check_choice(f"{of}_embedding_key", key, EMBEDDINGS)
    make: Any = EMBEDDINGS[key]
    if not (isinstance(make, type) and issubclass(make, Embedding)):
        raise TypeError(f"EMBEDDINGS[{key!r}] must be a subclass of Embedding, got {shown(make)}.")
    given = check_options(f"{of}_embedding_args", options, make, key=key, own=_OWN, example={"hidden_sizes": [64]})
    build: Callable[..., Embedding] = make
    if not make.needs_grid:
        return build(input_size, output_size, **given)
    if of != "input":
        raise ValueError(f"{of}_embedding_key cannot be {key!r}, which needs the neighborhood of a volume.")
    if grid_size is None:
        raise ValueError(
            f"{of}_embedding_key {key!r} needs neighborhood_type 'grid', got {neighborhood_type!r}: set "
            "neighborhood_type and neighborhood_radius, or choose another embedding."
        )
    return build(input_size, output_size, grid_size=grid_size, **given)


def _size_of(key: str, output_size: int | None) -> int:
    return check_whole(f"The embedded size of {key!r}", output_size, low=1, high=MAX_UNITS)


def _kernel_sizes(kernel_sizes: Any, nb_layers: int) -> list[int]:
    """Return the size of the kernels of each of the layers."""
    name, largest = "The kernel_sizes of 'cnn_embedding'", 2 * MAX_RADIUS["grid"] + 1
    if isinstance(kernel_sizes, (int, np.integer)):
        return [check_whole(name, kernel_sizes, low=1, high=largest)] * nb_layers
    sizes = check_sizes(name, kernel_sizes, high=largest, example="[3, 3]")
    if len(sizes) != nb_layers:
        raise ValueError(f"{name} must be one number, or {nb_layers} as nb_filters, got {len(sizes)}.")
    return sizes
