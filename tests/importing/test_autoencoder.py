"""An imported autoencoder computes the latent vectors and reconstructions of dwi_ml, in mm instead of voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dwi_ml_models import autoencoder, learn2track, save_experiment

from dwiml import TensorSequence
from dwiml.cli.main import main
from dwiml.importing.experiment import import_dwi_ml

# On the last one, a point in mm is the point in voxels of corner origin.
GRIDS = [
    ((2.0, 2.5, 3.0), (-20.0, 10.0, -30.0)),
    ((-1.0, 1.0, 1.0), (90.0, -126.0, -72.0)),
    ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5)),
]
# Largest difference of an output, as a share of the largest output.
SHARES = [(torch.float32, 1e-5), (torch.float64, 1e-12)]


def write_image(path: Path, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 20), dtype=np.uint8), affine), path)
    return path


def largest(values: torch.Tensor) -> float:
    return float(values.abs().max())


@pytest.mark.parametrize(("sizes", "origin"), GRIDS)
def test_latent_vectors_and_reconstructions(
    tmp_path: Path, sizes: tuple[float, ...], origin: tuple[float, ...]
) -> None:
    theirs = autoencoder()
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = origin
    source = save_experiment(tmp_path / "theirs", theirs)
    ours = import_dwi_ml(source, tmp_path / "ours", grid=write_image(tmp_path / "image.nii.gz", affine)).model
    points = torch.randn(3, 256, 3, generator=torch.Generator().manual_seed(1)).cumsum(1) * 0.1 + 10
    for dtype, share in SHARES:
        voxels = points.to(dtype)
        # nibabel's affine is from indices, of centers; corners are half a voxel before.
        mm = torch.from_numpy(nib.affines.apply_affine(affine, voxels.double().numpy() - 0.5)).to(dtype)
        lines = TensorSequence(mm.flatten(end_dim=1), torch.full((3,), 256))
        with torch.no_grad():
            latent, rebuilt = theirs.to(dtype)(voxels)
            our_latent, our_mm = ours.to(dtype).encode(lines), ours(lines)
        assert largest(our_latent - latent) <= share * largest(latent)
        expected = torch.from_numpy(nib.affines.apply_affine(affine, rebuilt.double().numpy() - 0.5))
        assert largest(our_mm.double() - expected) <= share * largest(expected)
        # In voxels, with the rounding of coordinates in mm.
        indices = nib.affines.apply_affine(np.linalg.inv(affine), our_mm.double().numpy())
        assert largest(torch.from_numpy(indices + 0.5) - rebuilt.double()) <= share
        if (sizes, origin) == GRIDS[-1]:
            assert largest(mm - voxels) <= 1e-6
            assert largest(our_mm - rebuilt) <= share * largest(rebuilt)


def test_a_grid_is_needed_without_rotation_and_for_an_autoencoder_only(tmp_path: Path) -> None:
    source = save_experiment(tmp_path / "theirs", autoencoder())
    with pytest.raises(ValueError, match="give an image with the voxel grid of the subjects"):
        import_dwi_ml(source, tmp_path / "ours")
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(ValueError, match="are not those of scanner space"):
        import_dwi_ml(source, tmp_path / "ours", grid=write_image(tmp_path / "turned.nii.gz", turned))
    other = save_experiment(tmp_path / "other", learn2track())
    with pytest.raises(ValueError, match="grid is for an autoencoder; the model is of class Learn2TrackModel"):
        import_dwi_ml(other, tmp_path / "ours", grid=tmp_path / "turned.nii.gz")
    with pytest.raises(TypeError, match="has no parameter 'reference'; it was renamed to 'grid'"):
        import_dwi_ml(source, tmp_path / "ours", reference=tmp_path / "turned.nii.gz")
    assert not (tmp_path / "ours").exists()


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_experiment(tmp_path / "theirs", autoencoder(), logs={"train_loss_monitor_per_epoch.npy": [3.0, 2.0]})
    image = write_image(tmp_path / "image.nii.gz", np.diag([2.0, 2.0, 2.0, 1.0]))
    command = ["import_dwi_ml", str(source), str(tmp_path / "ours")]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith("that it was trained on (--grid IMAGE.nii.gz).\n")
    with pytest.raises(SystemExit):
        main([*command, "--reference", str(image)])
    assert "--reference: did you mean --grid?" in capsys.readouterr().err
    assert main([*command, "--grid", str(image)]) == 0
    printed = capsys.readouterr().out
    assert "ModelAE of" in printed
    assert "is now the AutoencoderModel of" in printed
    assert "half a voxel" not in printed
    lines = nib.streamlines.Tractogram([np.float32([[1, 2, 3], [9, 8, 7]])], affine_to_rasmm=np.eye(4))
    nib.streamlines.save(lines, str(tmp_path / "in.tck"))
    assert main(["autoencode", str(tmp_path / "ours"), str(tmp_path / "in.tck"), str(tmp_path / "out.tck")]) == 0
    assert len(nib.streamlines.load(tmp_path / "out.tck").streamlines[0]) == 256
    assert main(["visualize_logs", str(tmp_path / "ours"), "--save"]) == 0
