"""The direction of the step that led to each point, as an input of a transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwiml.arguments import check_whole
from dwiml.models.embeddings import MAX_UNITS
from dwiml.ops.directions import SHORTEST_STEP, normalize_directions, pairwise_cosines, sphere_directions


class TargetEmbedding(nn.Module):
    """A linear layer, then ReLU, for previous directions and the start of a streamline (SOS).

    With ``sos="label"``, the layer receives the direction and a fourth value, 1 at the start. Otherwise it receives the
    class of the direction on a sphere, as a one-hot vector whose last value is the start; a repeated point has no
    direction, and so no class.

    Parameters
    ----------
    output_size
        Number of features of the embedding.
    sos
        'label', or the name of one of DIPY's spheres.

    Raises
    ------
    ValueError
        If the sphere is unknown, or the size is not a positive integer.
    """

    vertices: Tensor | None
    """The directions of the sphere, (C, 3), float32, voxel axes, unit length; None with a label."""

    def __init__(self, output_size: int, sos: str) -> None:
        super().__init__()
        self.output_size = check_whole("target_embedded_size", output_size, low=1, high=MAX_UNITS)
        vertices = None if sos == "label" else sphere_directions(sos, "sos must be 'label' or")
        self.register_buffer("vertices", vertices, persistent=False)
        self.linear = nn.Linear(4 if self.vertices is None else len(self.vertices) + 1, self.output_size)

    def forward(self, directions: Tensor, is_start: Tensor) -> Tensor:
        """Embed previous directions.

        Parameters
        ----------
        directions
            Shape (N, 3), along voxel axes; not used at the start.
        is_start
            Shape (N,), bool: the first points of streamlines.

        Returns
        -------
        Tensor
            Shape (N, output_size).
        """
        if self.vertices is None:
            features = torch.cat([directions, is_start[:, None].to(directions.dtype)], dim=1)
            return torch.relu(self.linear(features))
        classes = pairwise_cosines(normalize_directions(directions), self.vertices).argmax(dim=1)
        classes = torch.where(is_start, len(self.vertices), classes)
        has_class = is_start | (torch.linalg.vector_norm(directions, dim=1) > SHORTEST_STEP)
        # The product of the weights with a one-hot vector is one of their columns.
        columns = functional.embedding(classes, self.linear.weight.T)
        return torch.relu(columns * has_class[:, None] + self.linear.bias)
