from __future__ import annotations

import numpy as np
import pytest
import torch

from dwiml.ops.neighborhood import neighborhood_offsets


def test_no_neighborhood_is_the_point_itself():
    assert torch.equal(neighborhood_offsets(None, None, None), torch.zeros(1, 3))


def test_axes_from_the_nearest_ring_outwards():
    offsets = neighborhood_offsets("axes", 2, 0.5)
    assert offsets.dtype == torch.float32
    expected = [
        [0, 0, 0],
        [0.5, 0, 0], [-0.5, 0, 0], [0, 0.5, 0], [0, -0.5, 0], [0, 0, 0.5], [0, 0, -0.5],
        [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1],
    ]  # fmt: skip
    assert offsets.tolist() == expected


@pytest.mark.parametrize("radius", [1, 2, np.int64(3)])
def test_grid_is_the_whole_cube_once_with_its_centre_first(radius):
    offsets = neighborhood_offsets("grid", radius)
    assert offsets.shape == ((2 * int(radius) + 1) ** 3, 3)
    assert torch.equal(offsets[0], torch.zeros(3))
    cube = np.indices((2 * int(radius) + 1,) * 3).reshape(3, -1).T - int(radius)
    np.testing.assert_array_equal(offsets[1:].numpy(), cube[np.any(cube != 0, axis=1)])
    torch.testing.assert_close(neighborhood_offsets("grid", radius, 0.4), offsets * 0.4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sphere", 1, 1.0), "'sphere' is unknown; choose 'axes', 'grid' or None"),
        (("axes", None, None), "needs a radius"),
        (("axes", 0, None), "radius must be a positive integer, got 0"),
        (("grid", -1, None), "radius must be a positive integer, got -1"),
        (("grid", 1.5, None), "radius must be a positive integer, got 1.5"),
        (("grid", 1, 0.0), "resolution must be a positive number of voxels, got 0"),
        (("grid", 1, float("nan")), "resolution must be a positive number of voxels, got nan"),
        ((None, 1, None), "needs a type: 'axes' or 'grid'"),
        ((None, None, 0.5), "needs a type: 'axes' or 'grid'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        neighborhood_offsets(*arguments)
