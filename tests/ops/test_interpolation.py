from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from dwiml.ops.interpolation import interpolate_at, interpolate_nearest, interpolate_trilinear
from dwiml.ops.neighborhood import neighborhood_offsets

SHAPE = (7, 5, 6)


def random_volume(shape=SHAPE, nb_features=3, seed=0, dtype=torch.float32):
    return torch.randn((*shape, nb_features), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_coords(nb, shape=SHAPE, margin=3.0, seed=1, dtype=torch.float32):
    """Points in the volume and up to `margin` voxels outside of it."""
    uniform = torch.rand((nb, 3), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return uniform * (torch.tensor(shape) + 2 * margin) - margin


def scipy_read(volume, coords, order):
    on_centres = coords.double().numpy().T - 0.5
    columns = [
        map_coordinates(feature, on_centres, order=order, mode="nearest")
        for feature in volume.double().numpy().transpose(3, 0, 1, 2)
    ]
    return np.stack(columns, axis=1)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    nb_features=st.integers(1, 4),
    nb_points=st.integers(0, 50),
    seed=st.integers(0, 2**31),
)
def test_trilinear_equals_scipy_inside_outside_and_on_flat_volumes(shape, nb_features, nb_points, seed):
    volume = random_volume(shape, nb_features, seed)
    coords = random_coords(nb_points, shape, seed=seed + 1)
    result = interpolate_trilinear(volume, coords)
    assert result.dtype == torch.float32
    assert result.shape == (nb_points, nb_features)
    np.testing.assert_allclose(result.numpy(), scipy_read(volume, coords, order=1), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 2**31))
def test_nearest_equals_scipy(shape, seed):
    volume = random_volume(shape, 2, seed)
    coords = random_coords(40, shape, seed=seed + 1)
    np.testing.assert_array_equal(
        interpolate_nearest(volume, coords).double().numpy(), scipy_read(volume, coords, order=0)
    )


def test_centres_and_borders_of_voxels():
    volume = random_volume()
    voxels = torch.cartesian_prod(*[torch.arange(n) for n in SHAPE])
    values = volume.reshape(-1, 3)
    torch.testing.assert_close(interpolate_trilinear(volume, voxels + 0.5), values, rtol=0, atol=0)
    for place_in_voxel in (0.0, 0.5, 0.999):
        assert torch.equal(interpolate_nearest(volume, voxels + place_in_voxel), values)
    between = interpolate_trilinear(volume, torch.tensor([[3.0, 2.5, 4.5]]))
    torch.testing.assert_close(between[0], (volume[2, 2, 4] + volume[3, 2, 4]) / 2)


def test_voxel_centres_given_in_rasmm_get_their_voxels_values():
    """Pitfall 1: half a voxel off on each axis, seen only when the points come from another tool's conversion."""
    rotation, _ = np.linalg.qr(np.array([[0.9, 0.2, -0.1], [-0.15, 0.95, 0.25], [0.1, -0.2, 1.0]]))
    affine = np.eye(4)
    affine[:3, :3] = rotation * [1.0, 2.0, 3.5]
    affine[:3, 3] = [-20.0, 15.0, -7.0]
    volume = random_volume()
    image = nib.Nifti1Image(volume.numpy(), affine)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1).reshape(-1, 3)
    anywhere = np.random.default_rng(5).uniform(0, np.array(SHAPE) - 1, (200, 3))
    in_rasmm = [nib.affines.apply_affine(affine, vox).astype(np.float32) for vox in (voxels, anywhere)]
    tractogram = StatefulTractogram(in_rasmm, image, Space.RASMM, origin=Origin.NIFTI)
    tractogram.to_vox()
    tractogram.to_corner()
    at_centres, elsewhere = (
        interpolate_trilinear(volume, torch.from_numpy(np.asarray(line, dtype=np.float32)))
        for line in tractogram.streamlines
    )
    np.testing.assert_allclose(at_centres.numpy(), volume.reshape(-1, 3).numpy(), atol=1e-4)
    expected = [
        map_coordinates(feature, anywhere.T, order=1) for feature in volume.double().numpy().transpose(3, 0, 1, 2)
    ]
    np.testing.assert_allclose(elsewhere.numpy(), np.stack(expected, 1), atol=1e-4)


def test_gradients_of_volume_and_coordinates():
    volume = random_volume((3, 4, 1), 2, dtype=torch.float64).requires_grad_()
    # Away from the borders between linear pieces, where there is no derivative; some points outside.
    coords = torch.tensor([[1.1, 2.3, 0.4], [0.2, 3.2, 0.9], [2.4, 0.7, 5.0], [-3.0, 1.2, 0.3]], dtype=torch.float64)
    assert torch.autograd.gradcheck(interpolate_trilinear, (volume, coords.requires_grad_()))
    assert torch.autograd.gradcheck(lambda v: interpolate_nearest(v, coords.detach()), (volume,))

    def in_slabs(volume, coords):
        return interpolate_at(volume, coords, offsets=neighborhood_offsets("axes", 1, 0.23), max_bytes=1)

    assert torch.autograd.gradcheck(in_slabs, (volume, coords))


def test_float32_gradients_and_no_graph_without_need():
    volume, coords = random_volume(), random_coords(20)
    assert not interpolate_trilinear(volume, coords).requires_grad
    volume.requires_grad_()
    interpolate_trilinear(volume, coords).sum().backward()
    assert volume.grad.sum().item() == pytest.approx(20 * 3, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1)])
def test_wild_coordinates_stay_in_bounds(bad, axis, shape):
    volume = random_volume(shape)
    coords = torch.full((2, 3), 0.5)
    coords[1, axis] = bad
    trilinear, nearest = interpolate_trilinear(volume, coords), interpolate_nearest(volume, coords)
    torch.testing.assert_close(trilinear[0], volume[0, 0, 0])
    if bad != bad:
        assert trilinear[1].isnan().all()
        assert nearest[1].isnan().all()
        labels = interpolate_nearest(volume.long(), coords)
        assert torch.equal(labels[1], volume.long()[0, 0, 0])
        return
    voxel = [0, 0, 0]
    voxel[axis] = shape[axis] - 1 if bad > 0 else 0
    torch.testing.assert_close(trilinear[1], volume[tuple(voxel)])
    torch.testing.assert_close(nearest[1], volume[tuple(voxel)])


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
@pytest.mark.parametrize("kind", ["axes", "grid"])
def test_neighborhood_columns_and_slabs(mode, kind):
    volume, coords = random_volume(), random_coords(23)
    offsets = neighborhood_offsets(kind, 1, 0.7)
    whole = interpolate_at(volume, coords, offsets=offsets, mode=mode)
    assert whole.shape == (23, len(offsets) * 3)
    read = interpolate_trilinear if mode == "trilinear" else interpolate_nearest
    for p, offset in enumerate(offsets):
        torch.testing.assert_close(whole[:, p * 3 : (p + 1) * 3], read(volume, coords + offset), rtol=0, atol=1e-6)
    for max_bytes in (1, 20_000, 40_000):
        assert torch.equal(interpolate_at(volume, coords, offsets=offsets, mode=mode, max_bytes=max_bytes), whole)


def test_no_neighborhood_and_no_points():
    volume, coords = random_volume(), random_coords(11)
    assert torch.equal(interpolate_at(volume, coords), interpolate_trilinear(volume, coords))
    assert torch.equal(
        interpolate_at(volume, coords, offsets=neighborhood_offsets(None)), interpolate_at(volume, coords)
    )
    assert interpolate_at(volume, coords[:0], offsets=neighborhood_offsets("axes", 1)).shape == (0, 21)
    assert interpolate_nearest(volume, coords[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("max_bytes", [None, 20_000])
def test_half_precision_rounds_the_volume_and_nothing_else(dtype, max_bytes):
    volume, coords = random_volume().to(dtype), random_coords(300)
    offsets = neighborhood_offsets("axes", 1)
    read = interpolate_at(volume, coords, offsets=offsets, max_bytes=max_bytes)
    assert read.dtype == torch.float32
    expected = interpolate_at(volume.double(), coords.double(), offsets=offsets)
    torch.testing.assert_close(read.double(), expected, rtol=0, atol=1e-5)
    nearest = interpolate_at(volume, coords, mode="nearest", max_bytes=max_bytes)
    assert nearest.dtype == dtype
    assert torch.equal(nearest, interpolate_nearest(volume, coords))


def test_any_strides_and_dtypes():
    volume, coords = random_volume(), random_coords(30)
    expected = interpolate_trilinear(volume, coords)
    channels_first = volume.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not channels_first.is_contiguous()
    assert torch.equal(interpolate_trilinear(channels_first, coords), expected)
    assert torch.equal(interpolate_nearest(channels_first, coords), interpolate_nearest(volume, coords))
    assert torch.equal(interpolate_trilinear(volume, coords.t().contiguous().t()), expected)
    assert interpolate_trilinear(volume.double(), coords).dtype == torch.float64


@pytest.mark.parametrize(
    ("volume", "coords", "sentence"),
    [
        (torch.zeros(2, 2, 2), torch.zeros(1, 3), r"shape \(X, Y, Z, C\), got \(2, 2, 2\)"),
        (torch.zeros(2, 0, 2, 1), torch.zeros(1, 3), "volume is empty"),
        (torch.zeros(2, 2, 2, 1), torch.zeros(3), r"shape \(N, 3\), got \(3,\)"),
        (torch.zeros(2, 2, 2, 1), torch.zeros(1, 2), r"shape \(N, 3\), got \(1, 2\)"),
        (torch.zeros(2, 2, 2, 1), torch.zeros(1, 3, dtype=torch.int64), "must be floating-point"),
        (torch.zeros(2, 2, 2, 1, device="meta"), torch.zeros(1, 3), "volume is on meta and the coordinates on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(volume, coords, sentence):
    for read in (interpolate_trilinear, interpolate_nearest, interpolate_at):
        with pytest.raises(ValueError, match=sentence):
            read(volume, coords)


def test_wrong_options_are_refused():
    volume, coords = random_volume(), random_coords(2)
    with pytest.raises(ValueError, match="'cubic' is unknown; choose one of trilinear, nearest"):
        interpolate_at(volume, coords, mode="cubic")
    with pytest.raises(ValueError, match="max_bytes must be positive"):
        interpolate_at(volume, coords, max_bytes=0)
    for offsets in (torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"offsets must have shape \(P, 3\)"):
            interpolate_at(volume, coords, offsets=offsets)
    with pytest.raises(ValueError, match="needs a floating-point volume"):
        interpolate_trilinear(volume.long(), coords)
