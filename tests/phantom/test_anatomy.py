"""The anatomy and the voxel grid of a subject."""

from __future__ import annotations

import numpy as np
import pytest

from dwiml.phantom.anatomy import draw_streamlines, draw_subject
from dwiml.phantom.geometry import disk_grid, template_bundles


def test_deformation_is_smooth_never_folds_and_differs_between_subjects() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-45, 45, 10)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    moved = []
    for seed in range(20):
        deformation = draw_subject(0, 2.0, np.random.default_rng(seed)).deformation
        moved.append(deformation.apply(grid) - deformation.translation)
        h = 1e-3
        columns = [(deformation.apply(grid + h * e) - deformation.apply(grid - h * e)) / (2 * h) for e in np.eye(3)]
        determinants = np.linalg.det(np.stack(columns, axis=-1))
        assert determinants.min() > 0.4
        assert determinants.max() < 2.0
        assert np.linalg.norm(moved[-1] - grid, axis=1).max() < 15
    spread = np.linalg.norm(np.std(moved, axis=0), axis=1).mean()
    assert spread > 2.0, "the subjects are almost the same"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_fiber_is_inside_the_volume(index: int) -> None:
    skin = disk_grid(30, 30)
    skin = skin[np.linalg.norm(skin, axis=1) > 0.9]
    fibers = np.concatenate([b.fibers(skin, np.linspace(0, 1, 40)).reshape(-1, 3) for b in template_bundles()])
    for seed in range(30):
        subject = draw_subject(index, 2.0, np.random.default_rng(seed))
        inverse = np.linalg.inv(subject.affine)
        voxels = subject.deformation.apply(fibers) @ inverse[:3, :3].T + inverse[:3, 3]
        assert voxels.min() > -0.5
        assert (voxels < np.array(subject.shape) - 0.5).all()


def test_second_subject_is_anisotropic_and_third_oblique() -> None:
    subjects = [draw_subject(index, 2.0, np.random.default_rng(index)) for index in range(6)]
    for index, subject in enumerate(subjects):
        anisotropic = np.ptp(subject.voxel_sizes) > 0.1
        oblique = np.abs(subject.affine[:3, :3]).min(axis=1).max() > 0.1
        assert (anisotropic, oblique) == (index == 1, index == 2)
        assert np.linalg.det(subject.affine[:3, :3]) < 0
    np.testing.assert_allclose(subjects[1].voxel_sizes, [1.8, 2.0, 2.4], rtol=1e-6)


def test_streamlines_run_from_start_to_end_in_steps_of_one_mm() -> None:
    bundles = template_bundles()
    subject = draw_subject(0, 2.0, np.random.default_rng(3))
    tractograms = draw_streamlines(bundles, subject.deformation, 20, 1.0, np.random.default_rng(4))
    assert [len(streamlines) for streamlines in tractograms] == [20] * len(bundles)
    for bundle, streamlines in zip(bundles, tractograms, strict=True):
        start, end = subject.deformation.apply(bundle.center[[0, -1]])
        for points in streamlines:
            steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
            np.testing.assert_allclose(steps, 1.0, atol=0.05)
            assert 20 < steps.sum() < 120
            assert np.linalg.norm(points[0] - start) < np.linalg.norm(points[0] - end)
            assert np.linalg.norm(points[-1] - end) < np.linalg.norm(points[-1] - start)
