"""``dwiml show_tractogram`` on real files; what it reads is compared with nibabel and trx-python."""

from __future__ import annotations

import shutil
import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Space, StatefulTractogram
from nibabel.streamlines import Tractogram
from tests_support import AFFINE, SHAPE, VOXEL_SIZES
from trx import trx_file_memmap

from dwiml.cli.main import main
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter
from dwiml.viz.pieces import DrawnTractogram
from dwiml.viz.slices import Background

HEADER = {
    "voxel_to_rasmm": AFFINE,
    "voxel_sizes": VOXEL_SIZES.astype(np.float32),
    "dimensions": np.array(SHAPE, dtype=np.int16),
    "voxel_order": "RAS",
}


def lines(nb: int, seed: int = 0) -> list[np.ndarray]:
    """Return streamlines inside the image, in rasmm."""
    rng = np.random.default_rng(seed)
    start = nib.affines.apply_affine(AFFINE, rng.uniform(3, 6, (nb, 3)))
    return [
        (each + np.cumsum(rng.normal(size=(rng.integers(2, 9), 3)) * 0.2, axis=0)).astype(np.float32) for each in start
    ]


def save(path: Path, streamlines: list[np.ndarray], *, with_data: bool = True, **header: object) -> Path:
    rng = np.random.default_rng(5)
    of_points = {"loss": [rng.uniform(size=(len(line), 1)).astype(np.float32) for line in streamlines]}
    of_points["color"] = [rng.integers(0, 256, (len(line), 3)).astype(np.float32) for line in streamlines]
    of_streamlines = {"mean_loss": np.arange(len(streamlines), dtype=np.float32)[:, None]}
    of_streamlines["seeds"] = rng.normal(size=(len(streamlines), 3)).astype(np.float32)
    with_data = with_data and path.suffix != ".tck"
    data = {"data_per_point": of_points, "data_per_streamline": of_streamlines} if with_data else {}
    tractogram = Tractogram(streamlines, affine_to_rasmm=np.eye(4), **data)
    if path.suffix == ".trx":
        sft = StatefulTractogram(
            streamlines, nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), AFFINE), Space.RASMM, **data
        )
        file = trx_file_memmap.TrxFile.from_sft(sft, dtype_dict={"positions": np.dtype("float32")})
        trx_file_memmap.save(file, str(path))
        file.close()
    else:
        nib.streamlines.save(tractogram, path, header={**HEADER, **header} if path.suffix == ".trk" else None)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "fa.nii.gz"
    data = np.random.default_rng(0).uniform(size=(*SHAPE, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
@pytest.mark.parametrize("most", [100, 12, 7, 1])
def test_evenly_picked_streamlines_in_rasmm(tmp_path: Path, suffix: str, most: int) -> None:
    written = lines(12)
    drawn = DrawnTractogram.from_file(
        save(tmp_path / f"lines{suffix}", written), color="direction", max_streamlines=most
    )
    picked = [written[k * 12 // min(most, 12)] for k in range(min(most, 12))]
    assert (drawn.name, drawn.nb_in_file, drawn.values) == ("lines", 12, None)
    assert drawn.points.dtype == np.float32
    np.testing.assert_array_equal(drawn.lengths, [len(line) for line in picked])
    np.testing.assert_allclose(drawn.points, np.concatenate(picked), atol=2e-5)


@pytest.mark.parametrize("suffix", [".trk", ".trx"])
@pytest.mark.parametrize("name", ["loss", "color", "mean_loss"])
def test_data_by_name(tmp_path: Path, suffix: str, name: str) -> None:
    streamlines = lines(9)
    path = save(tmp_path / f"lines{suffix}", streamlines)
    drawn = DrawnTractogram.from_file(path, color=name, max_streamlines=4)
    if suffix == ".trk":
        tractogram = nib.streamlines.load(path).tractogram
        of_points, of_streamlines = tractogram.data_per_point, tractogram.data_per_streamline
    else:
        file = trx_file_memmap.load(str(path))
        of_points, of_streamlines = file.data_per_vertex, file.data_per_streamline
    expected = []
    for number in (0, 2, 4, 6):
        if name in of_points:
            expected.append(np.array(of_points[name][number]))
        else:
            expected.append(np.tile(np.array(of_streamlines[name][number]), (len(streamlines[number]), 1)))
    joined = np.concatenate(expected)
    if suffix == ".trx":
        file.close()
    np.testing.assert_allclose(drawn.values, joined / 255 if name == "color" else joined[:, 0], rtol=1e-6)


def test_a_trx_in_any_form(tmp_path: Path) -> None:
    path = save(tmp_path / "lines.trx", lines(9))
    expected = DrawnTractogram.from_file(path, color="loss", max_streamlines=5)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder.trx")
        with zipfile.ZipFile(tmp_path / "packed.trx", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in archive.namelist():
                packed.writestr(name, archive.read(name))
    # As after a run that was killed while appending.
    with (tmp_path / "folder.trx" / "positions.3.float32").open("ab") as stream:
        stream.write(bytes(12 * 40))
    path.chmod(0o444)
    for form in ("lines.trx", "packed.trx", "folder.trx"):
        drawn = DrawnTractogram.from_file(tmp_path / form, color="loss", max_streamlines=5)
        np.testing.assert_array_equal(drawn.points, expected.points)
        np.testing.assert_array_equal(drawn.values, expected.values)


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_what_dwiml_writes_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with TractogramWriter(path, grid=Grid(AFFINE, SHAPE)) as writer:
        writer.append(np.array([[1, 2, 3], [2, 2, 3], [3, 2, 3.5]]), [3])
    drawn = DrawnTractogram.from_file(path, color="direction", max_streamlines=5)
    np.testing.assert_allclose(
        drawn.points, nib.affines.apply_affine(AFFINE, np.array([[1, 2, 3], [2, 2, 3], [3, 2, 3.5]]) - 0.5), atol=1e-5
    )
    with TractogramWriter(path, grid=Grid(AFFINE, SHAPE), overwrite=True):
        pass
    (tmp_path / f"none{suffix}").unlink(missing_ok=True)
    with TractogramWriter(tmp_path / f"none{suffix}", grid=Grid(AFFINE, SHAPE)):
        pass
    assert len(DrawnTractogram.from_file(tmp_path / f"none{suffix}", color="loss", max_streamlines=5).lengths) == 0


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
def test_memory_is_bounded(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"large{suffix}", [np.zeros((20_000, 3), dtype=np.float32)] * 200, with_data=False)
    nb_bytes = path.stat().st_size
    tracemalloc.start()
    drawn = DrawnTractogram.from_file(path, color="direction", max_streamlines=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(drawn.lengths) == 8
    # Eight streamlines of 0.24 MB, in float64 and float32, and nibabel's buffers of 4 MB.
    assert peak < 30e6 < nb_bytes


def test_streamlines_that_cannot_be_drawn_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streamlines = lines(5)
    streamlines[1][1] = np.inf
    streamlines[3] = streamlines[3][:1]
    with np.errstate(invalid="ignore"):
        path = save(tmp_path / "lines.trk", streamlines)
    drawn = DrawnTractogram.from_file(path, color="mean_loss", max_streamlines=10)
    assert drawn.lengths.tolist() == [len(streamlines[k]) for k in (0, 2, 4)]
    np.testing.assert_allclose(drawn.points, np.concatenate([streamlines[k] for k in (0, 2, 4)]), atol=2e-5)
    np.testing.assert_array_equal(drawn.values, np.repeat([0, 2, 4], drawn.lengths))
    assert "2 streamlines of" in caplog.text


def test_a_header_without_grid_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streamlines = lines(3)
    nib.streamlines.save(Tractogram(streamlines, affine_to_rasmm=np.eye(4)), tmp_path / "lines.trk")
    drawn = DrawnTractogram.from_file(tmp_path / "lines.trk", color="direction", max_streamlines=10)
    np.testing.assert_allclose(drawn.points, np.concatenate(streamlines), atol=2e-5)
    assert "does not give its voxel grid" in caplog.text


def test_the_volume_of_an_image(image: Path) -> None:
    data = np.asarray(nib.load(image).dataobj)
    np.testing.assert_array_equal(Background.from_file(image, None).data, data[..., 0])
    background = Background.from_file(image, 1)
    np.testing.assert_array_equal(background.data, data[..., 1])
    np.testing.assert_allclose(background.affine, AFFINE, atol=1e-6)


@pytest.mark.first(1)
@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_the_command(tmp_path: Path, image: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = save(tmp_path / f"lines{suffix}", lines(12)), tmp_path / "out.png"
    command = ["show_tractogram", str(path), str(out), "--background", str(image), "--max_streamlines", "5"]
    command += ["--views", "axial", "--dpi", "40"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == f"5 of 12 streamlines drawn in {out}\n"
    assert printed.err == ""
    first = out.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert main(command) == 2
    assert "exists; replace it with -f." in capsys.readouterr().err
    assert out.read_bytes() == first
    assert main([*command, "-f"]) == 0
    # The figure does not depend on a random choice.
    assert out.read_bytes() == first
    assert main([*command, "-f", "--thickness", "0.5", "--title", "A title"]) == 0
    assert out.read_bytes() != first


def test_several_by_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(save(tmp_path / f"{name}.trk", lines(4, seed))) for seed, name in enumerate(["best", "worst"])]
    command = ["show_tractogram", *paths, str(tmp_path / "out.svg"), "--separate", "--color", "loss"]
    assert main([*command, "--color_range", "0", "1", "--slice_mm", "13", "17", "-11"]) == 0
    assert capsys.readouterr().out.startswith("8 of 8 streamlines drawn")
    text = (tmp_path / "out.svg").read_text()
    for expected in ("<!-- loss -->", "<!-- best", "<!-- worst", "<!-- z = 13.0 mm", "neurological convention"):
        assert expected in text


def test_an_image_of_another_subject_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "lines.tck", lines(6))
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3)), nib.affines.from_matvec(np.eye(3), [80, 80, 80])), tmp_path / "t1.nii")
    out = str(tmp_path / "out.png")
    assert main(["show_tractogram", str(path), out, "--background", str(tmp_path / "t1.nii"), "--dpi", "30"]) == 0
    assert "100 % of the points of 'lines' are outside '" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.trk", "OUT"], "The tractogram 'none.trk' was not found."),
        (["lines.ply", "OUT"], "The tractogram 'lines.ply' is not in a format that dwiml reads; convert it to .trk"),
        (["empty.trk", "OUT"], "There are no streamlines to draw in: empty."),
        (["empty.trx", "OUT", "--color", "loss"], "There are no streamlines to draw in: empty."),
        (["cut.trk", "OUT"], "'cut.trk' is damaged or truncated"),
        (["cut.tck", "OUT"], "'cut.tck' is damaged"),
        (["cut.trx", "OUT"], "'cut.trx' is damaged (file is not a zip file)"),
        (["short.trx", "OUT"], "'short.trx' is damaged (it is truncated: its header announces"),
        (["bad.trk", "OUT"], "the header of 'bad.trk' contradicts itself"),
        (
            ["a.trk", "OUT", "--color", "lsos"],
            "'a.trk' has no data named 'lsos'; it has per point: 'color',",
        ),
        (["a.trx", "OUT", "--color", "lsos"], "per point: 'color', 'loss'; per streamline: 'mean_loss', 'seeds'. 'dir"),
        (["a.tck", "OUT", "--color", "loss"], "it has per point: none; per streamline: none."),
        (
            ["a.trk", "OUT", "--color", "seeds"],
            "'seeds' of 'a.trk' must have one value per point or streamline, got 3.",
        ),
        (["a.trk", "OUT", "--background", "none.nii"], "The background 'none.nii' was not found."),
        (["a.trk", "OUT", "--background", "a.tck"], "The background: the file 'a.tck' is not an image"),
        (
            ["a.trk", "OUT", "--background", "4d.nii", "--background_volume", "2"],
            "must be from 0 to 1 in '4d.nii', got 2",
        ),
        (["a.trk", "OUT", "--background", "2d.nii"], "has shape (4, 4)"),
        (["a.trk", "OUT", "--background_volume", "1"], "selects a volume of --background, which was not given."),
        (["a.trk", "OUT", "--max_streamlines", "0"], "--max_streamlines must be a whole number of at least 1, got 0."),
        (["a.trk", "OUT", "--dpi", "0"], "--dpi must be a number from 10 to 1200, got 0.0."),
        (["a.trk", "OUT", "--thickness", "-1"], "thickness must be positive, in mm, got -1."),
        (["a.trk", "OUT", "--slice_mm", "1"], "slices_mm must have one value for each view (axial, coronal, sagittal)"),
        (
            ["a.trk", "OUT", "--color_range", "0", "1"],
            "color_range requires a color given by the name of values, got the color 'direction'.",
        ),
        (["a.trk", "out.trk"], "Figure 'out.trk' must end in one of:"),
        (["a.trk", "none/out.png"], "OUT: the folder 'none' does not exist; create it first."),
    ],
)
def test_bad_input_is_one_sentence(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    before = sorted(files.rglob("*"))
    arguments = ["out.png" if argument == "OUT" else argument for argument in arguments]
    assert main(["show_tractogram", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["a.trk"], ["a.trk", "out.png", "--views", "above"]])
def test_bad_command_lines(files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["show_tractogram", *arguments])
    assert stop.value.code == 2
    assert "usage: dwiml show_tractogram" in capsys.readouterr().err


@pytest.fixture(scope="module")
def made_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for suffix in (".trk", ".tck", ".trx"):
        path = save(folder / f"a{suffix}", lines(6))
        (folder / f"cut{suffix}").write_bytes(path.read_bytes()[:-30])
    save(folder / "empty.trk", [], with_data=False)
    with TractogramWriter(folder / "empty.trx", grid=Grid(AFFINE, SHAPE)):
        pass
    with zipfile.ZipFile(folder / "a.trx") as archive, zipfile.ZipFile(folder / "short.trx", "w") as short:
        for name in archive.namelist():
            short.writestr(name, archive.read(name)[: 40 if name.startswith("positions") else None])
    save(folder / "bad.trk", lines(2), voxel_order="LPS")
    (folder / "lines.ply").write_text("ply")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), dtype=np.float32), np.eye(4)), folder / "4d.nii")
    nib.save(nib.Nifti1Image(np.zeros((4, 4), dtype=np.float32), np.eye(4)), folder / "2d.nii")
    return folder


@pytest.fixture
def files(made_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    shutil.copytree(made_files, folder)
    monkeypatch.chdir(folder)
    return folder


def test_a_background_for_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, other = (tmp_path / f"{name}.nii.gz" for name in ("image", "other"))
    for path, value in ((image, 1), (other, 2)):
        nib.save(nib.Nifti1Image(np.full(SHAPE, value, dtype=np.uint8), AFFINE), path)
    drawn = [str(save(tmp_path / f"lines.{suffix}", lines(5))) for suffix in ("trk", "trx")]
    command = ["show_tractogram", *drawn, str(tmp_path / "o.png"), "--dpi", "40", "--background", str(image)]
    assert main([*command, "--background", str(other)]) == 2
    assert "--background was given 2 times; give it once or, with --separate" in capsys.readouterr().err
    assert main([*command, "--background", str(other), "--separate"]) == 0
    assert main([*command, "--background", str(image), "--background", str(other), "--separate", "-f"]) == 2
