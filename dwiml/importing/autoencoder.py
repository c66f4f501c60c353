"""``ModelAE`` of dwi_ml in terms of dwiml's autoencoder."""

from __future__ import annotations

import numpy as np

from dwiml.importing.given import Given, Translated, Weights
from dwiml.importing.parts import add_base
from dwiml.ops.spaces import voxel_sizes_of
from dwiml.tractograms.grid import Grid

CLASS = "ModelAE"
"""Name of the class in dwi_ml."""

_NB_LAYERS = 6
_NB_POINTS = 256
_LATENT_SIZE = 32
_CHANNELS = (32, 64, 128, 256, 512, 1024)
# Of the voxel size: headers round affines.
_TOLERANCE = 1e-3


def translate_autoencoder(given: Given, weights: Weights, *, grid: Grid | None) -> Translated:
    """Translate the parameters and the weights of a ``ModelAE`` of dwi_ml.

    It receives points in voxel space, corner origin, of the subjects that it was trained on; dwiml's model receives
    scanner space, and converts.

    Parameters
    ----------
    given, weights
        The parameters and the weights of dwi_ml.
    grid
        The voxel grid of these subjects.

    Raises
    ------
    ValueError
        If dwiml does not have this model, there is no grid, or its axes are not those of scanner space.
    """
    model = Translated("AutoencoderModel")
    add_base(given, model)
    given.refuse_rest()
    if grid is None:
        raise ValueError(
            f"'{given.path}': an autoencoder of dwi_ml receives points in voxels, those of dwiml in mm: give an image "
            "with the voxel grid of the subjects that it was trained on (grid='IMAGE.nii.gz')."
        )
    nb_points = model.params["nb_points"]
    if nb_points != _NB_POINTS:
        raise ValueError(f"'{given.path}': nb_points of an autoencoder of dwi_ml is {_NB_POINTS}, got {nb_points}.")
    sizes = np.diag(grid.affine)[:3]
    if np.abs(grid.affine[:3, :3] - np.diag(sizes)).max() > _TOLERANCE * voxel_sizes_of(grid.affine).min():
        raise ValueError(
            f"The axes of the grid of '{grid.source}' are not those of scanner space (x, y, z): an autoencoder can "
            "only be imported for a grid without rotation."
        )
    for name in ("step_size", "compress_lines"):
        del model.params[name]
    model.params |= {
        "latent_size": _LATENT_SIZE,
        "nb_channels": list(_CHANNELS),
        # The corner of the first voxel is 0.
        "center": (grid.affine[:3, 3] - 0.5 * sizes).tolist(),
        "scale": sizes.tolist(),
    }
    for number in range(_NB_LAYERS):
        weights.move(f"encod_conv{number + 1}.1.", f"encoder.{number}.", model.state)
        weights.move(f"decod_conv{number + 1}.1.", f"decoder.{number}.", model.state)
    weights.move("fc1.", "to_latent.", model.state)
    weights.move("fc2.", "from_latent.", model.state)
    weights.refuse_rest()
    model.notes.append(
        "The loss of dwi_ml is the sum of squares of a batch, in voxels; that of dwiml the mean over points, in mm^2."
    )
    return model
