"""The simulated images, compared with single-voxel simulations of DIPY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dipy.sims.voxel import multi_tensor, single_tensor
from scipy import sparse

from dwiml.phantom.create import save_acquisition
from dwiml.phantom.simulate import B_VALUE, FIBER_DIFFUSIVITIES, S0_FIBERS, make_protocol, simulate_dwi, to_fsl
from dwiml.phantom.tensor_maps import fractional_anisotropy, signal_harmonics
from dwiml.phantom.voxelize import FiberMap

PROTOCOL = make_protocol()
NO_NOISE = 1e9


def voxel_of(fractions: dict[int, float]) -> FiberMap:
    """Return one voxel with these fractions of fibers in these directions."""
    row = np.zeros((1, len(PROTOCOL.directions)))
    row[0, list(fractions)] = list(fractions.values())
    filled = np.array([[sum(fractions.values())]])
    return FiberMap((1, 1, 1), np.array([0]), filled, sparse.csr_array(row), np.zeros((1, 1, 1), np.int16))


def signal_of(fractions: dict[int, float], snr: float = NO_NOISE) -> np.ndarray:
    in_head = np.ones((1, 1, 1), dtype=bool)
    return simulate_dwi(PROTOCOL, voxel_of(fractions), in_head, snr=snr, rng=np.random.default_rng(0))[0, 0, 0]


def angles_of(index: int) -> tuple[float, float]:
    x, y, z = PROTOCOL.directions[index]
    return float(np.degrees(np.arccos(z))), float(np.degrees(np.arctan2(y, x)))


def test_protocol_is_one_shell_with_b0s_and_spread_directions() -> None:
    gtab = PROTOCOL.gtab
    assert set(np.unique(gtab.bvals)) == {0.0, B_VALUE}
    directions = gtab.bvecs[~gtab.b0s_mask]
    assert 32 <= len(directions) <= 64
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    cosines = np.abs(directions @ directions.T)[~np.eye(len(directions), dtype=bool)]
    assert np.degrees(np.arccos(cosines.max())) > 10


def test_response_matrix_equals_dipys_single_tensor() -> None:
    for index in (0, 17, 2000, 5000):
        axis = PROTOCOL.directions[index]
        frame = np.linalg.qr(np.column_stack([axis, np.eye(3)[:, np.argsort(np.abs(axis))[:2]]]))[0]
        expected = single_tensor(PROTOCOL.gtab, S0_FIBERS, evals=FIBER_DIFFUSIVITIES, evecs=frame)
        np.testing.assert_allclose(PROTOCOL.fibers[index], expected, atol=1e-3)


def test_crossing_voxel_equals_dipys_multi_tensor() -> None:
    first, second = 100, 3000
    angles = [angles_of(first), angles_of(second)]
    evals = np.array([FIBER_DIFFUSIVITIES] * 2)
    expected, _ = multi_tensor(PROTOCOL.gtab, evals, S0=S0_FIBERS, angles=angles, fractions=[30, 70], snr=None)
    # The images are rounded to integers.
    np.testing.assert_allclose(signal_of({first: 0.3, second: 0.7}), expected, atol=0.51)


def test_voxel_without_fibers_is_isotropic() -> None:
    signal = signal_of({0: 0.0})
    np.testing.assert_allclose(signal[:5], 1000)
    np.testing.assert_allclose(signal[5:], 1000 * np.exp(-1500 * 0.8e-3), atol=0.51)


def test_noise_is_rician_with_the_requested_snr() -> None:
    nowhere = FiberMap(
        (20, 20, 20),
        np.zeros(0, np.int64),
        np.zeros((0, 1)),
        sparse.csr_array((0, len(PROTOCOL.directions))),
        np.zeros((20, 20, 20), np.int16),
    )
    air = np.zeros((20, 20, 20), dtype=bool)
    noise = simulate_dwi(PROTOCOL, nowhere, air, snr=20.0, rng=np.random.default_rng(1))
    sigma = S0_FIBERS / 20
    # Without signal, it is a Rayleigh distribution: mean sigma sqrt(pi / 2), variance (2 - pi / 2) sigma^2.
    assert noise.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.01)
    assert noise.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.01)


def test_harmonics_reproduce_the_signal_and_anisotropy_is_that_of_the_tensor() -> None:
    from dipy.core.sphere import Sphere
    from dipy.reconst.shm import sh_to_sf

    in_head = np.ones((1, 1, 1), dtype=bool)
    dwi = simulate_dwi(PROTOCOL, voxel_of({700: 1.0}), in_head, snr=NO_NOISE, rng=np.random.default_rng(0))
    shell = ~PROTOCOL.gtab.b0s_mask
    harmonics = signal_harmonics(dwi, PROTOCOL.gtab, in_head)
    assert harmonics.shape == (1, 1, 1, 28)
    assert harmonics.dtype == np.float32
    sphere = Sphere(xyz=np.concatenate([PROTOCOL.gtab.bvecs[shell], -PROTOCOL.gtab.bvecs[shell]]))
    back = sh_to_sf(harmonics[0, 0, 0], sphere, sh_order_max=6, basis_type="descoteaux07", legacy=False)
    # The fit is regularized, so not exact; a mirrored x axis would cause errors of 0.5.
    np.testing.assert_allclose(back, np.tile(dwi[0, 0, 0, shell] / S0_FIBERS, 2), atol=0.05)

    along, across, _ = FIBER_DIFFUSIVITIES
    expected = (along - across) / np.sqrt(along**2 + 2 * across**2)
    assert fractional_anisotropy(dwi, PROTOCOL.gtab, in_head)[0, 0, 0] == pytest.approx(expected, abs=0.01)


def test_air_has_no_harmonics_and_no_anisotropy() -> None:
    dwi = np.ones((2, 1, 1, len(PROTOCOL.gtab.bvals)), dtype=np.int16)
    in_head = np.array([True, False])[:, None, None]
    assert not signal_harmonics(dwi, PROTOCOL.gtab, in_head)[1].any()
    assert not fractional_anisotropy(dwi, PROTOCOL.gtab, in_head)[1].any()


@pytest.mark.parametrize(("first_axis", "mirrored"), [(-2.0, 1.0), (2.0, -1.0)])
def test_bvecs_are_written_in_the_fsl_convention(tmp_path: Path, first_axis: float, mirrored: float) -> None:
    directions = np.array([[0, 0, 0], [0.6, 0.8, 0], [0, -0.6, 0.8]])
    affine = np.diag([first_axis, 2.0, 2.0, 1.0])
    images = np.zeros((2, 2, 2, 3), dtype=np.int16)
    save_acquisition(tmp_path, images, affine, bvals=np.array([0.0, 1500, 1500]), directions=directions)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "dwi.bval"), [0, 1500, 1500])
    bvecs = np.loadtxt(tmp_path / "dwi.bvec").T
    np.testing.assert_allclose(bvecs, directions * [mirrored, 1, 1], atol=1e-7)
    np.testing.assert_allclose(to_fsl(bvecs, affine), directions, atol=1e-7)
