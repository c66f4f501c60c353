"""The figures of a file show each subject's streamlines where they are, over an image that tells white matter apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from tests_support import edited

from dwiml.cli.main import main
from dwiml.hdf5.stored import open_hdf5
from dwiml.inspection.subject_figures import distance_from_background, plot_subject
from dwiml.viz.slices import VIEWS


@pytest.fixture
def path(tmp_path: Path, tiny_hdf5: Path) -> Path:
    return Path(shutil.copy(tiny_hdf5, tmp_path / "data.hdf5"))


@pytest.mark.parametrize("subject", ["sub-01", "sub-02", "sub-03"])
def test_streamlines_are_drawn_at_their_place_in_the_scanner(phantom_hdf5: Path, subject: str) -> None:
    """On a left-handed, an anisotropic and an oblique grid; the truth is the phantom's .trk, read by nibabel."""
    import nibabel as nib

    with open_hdf5(phantom_hdf5) as file:
        figure = plot_subject(file, subject)
    files = sorted((phantom_hdf5.parent / "subjects" / subject / "bundles").glob("*.trk"))
    truth = np.concatenate([nib.streamlines.load(each).streamlines.get_data() for each in files])
    for ax, view in zip(figure.axes, VIEWS.values(), strict=True):
        position = float(ax.get_title().split("= ")[1].split(" ")[0])
        half = float(ax.get_title().split("± ")[1].split(" ")[0])
        # A piece is a point and the halves of the way to its neighbors; its second vertex is the point.
        pieces = np.array([path.vertices[1] for path in ax.collections[0].get_paths()])
        # The title is rounded to 0.1 mm.
        near = truth[np.abs(truth[:, view.across] - position) <= half - 0.1][:, list(view.axes)]
        away = truth[np.abs(truth[:, view.across] - position) > half + 0.1][:, list(view.axes)]
        assert len(near) > 100
        assert len(near) <= len(pieces) <= len(truth) - len(away)
        nearest = [np.abs(pieces - point).sum(axis=1).min() for point in near[:: len(near) // 50]]
        assert max(nearest) < 2e-3
        assert ax.get_aspect() == 1


def test_image_and_streamlines_agree_in_the_phantom(phantom_hdf5: Path) -> None:
    """The bright voxels are where the streamlines are: the image has a meaning, in all three views."""
    with open_hdf5(phantom_hdf5) as file:
        figure = plot_subject(file, "sub-03")
    assert "over the volume 'input'" in figure.get_suptitle()
    for ax in figure.axes:
        image = ax.get_images()[0]
        left, right, bottom, top = image.get_extent()
        pixels = np.ma.filled(image.get_array().astype(float), np.nan)
        pieces = np.array([path.vertices[1] for path in ax.collections[0].get_paths()])
        columns = ((pieces[:, 0] - left) / (right - left) * pixels.shape[1]).astype(int)
        rows = ((pieces[:, 1] - bottom) / (top - bottom) * pixels.shape[0]).astype(int)
        kept = (columns >= 0) & (columns < pixels.shape[1]) & (rows >= 0) & (rows < pixels.shape[0])
        under = pixels[rows[kept], columns[kept]]
        tissue = pixels[pixels > 0.1]
        assert np.nanmedian(under) > 1.5 * np.median(tissue)


def test_the_background_is_not_seen() -> None:
    """Of a standardized volume, whose background is not 0, the image is the same as of the original one."""
    rng = np.random.default_rng(0)
    values = np.zeros((6, 7, 8, 3), dtype=np.float32)
    values[1:-1, 1:-1, 1:-1] = rng.normal(size=(4, 5, 6, 3))
    image = distance_from_background(values)
    assert np.allclose(image, np.sqrt((values.astype(float) ** 2).mean(axis=-1)))
    assert np.allclose(distance_from_background((values - 0.7) / 1.0), image, atol=1e-6)


@pytest.mark.slow
def test_the_command_writes_one_figure_for_each_subject(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "figures"
    assert main(["check_hdf5", str(path), "--figures", str(folder)]) == 0
    assert f"5 figures in {folder}" in capsys.readouterr().out
    names = [f"sub-{letter}.png" for letter in "abcde"]
    assert sorted(each.name for each in folder.iterdir()) == names
    for name in names:
        assert imread(folder / name).std() > 0.05
    before = (folder / "sub-a.png").stat().st_mtime_ns
    assert main(["check_hdf5", str(path), "--figures", str(folder)]) == 2
    assert "exists; replace the results with -f" in capsys.readouterr().err
    assert (folder / "sub-a.png").stat().st_mtime_ns == before
    assert main(["check_hdf5", str(path), "--figures", str(folder), "-f"]) == 0


def test_a_damaged_subject_has_no_figure_and_the_others_have(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with edited(path) as handle:
        handle["sub-b/streamlines/data"][3] = np.nan
        del handle["sub-d/streamlines/data"], handle["sub-d/streamlines/euclidean_lengths"]
        handle["sub-d/streamlines/data"] = np.zeros((0, 3), dtype=np.float32)
        handle["sub-d/streamlines/lengths"][...] = 0
        handle["sub-d/streamlines/offsets"][...] = 0
    folder = tmp_path / "figures"
    assert main(["check_hdf5", str(path), "--figures", str(folder)]) == 2
    assert sorted(each.name for each in folder.iterdir()) == ["sub-a.png", "sub-c.png", "sub-e.png"]
    warnings = [message for message in caplog.messages if message.startswith("No figure of subject")]
    assert len(warnings) == 2
    assert "'sub-d': it has no streamlines." in warnings[1]


def test_a_link_in_the_folder_is_not_followed(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "sub-c.png").symlink_to(path)
    before = path.read_bytes()
    assert main(["check_hdf5", str(path), "--figures", str(folder), "-f"]) == 2
    assert "is an input" in capsys.readouterr().err
    assert path.read_bytes() == before
