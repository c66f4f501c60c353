"""The loss at each point, beside a plain loop over streamlines; the tractograms, read back with nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from scipy.ndimage import map_coordinates
from small_training import small_trainer
from tests_support import AFFINE, SHAPE

from dwiml.evaluation.direction_error import evaluate_directions
from dwiml.evaluation.loss_tractograms import loss_files, write_loss_tractograms
from dwiml.evaluation.losses_by_point import SubjectReader, measure_losses
from dwiml.evaluation.point_losses import PointLosses
from dwiml.matplotlib_backend import value_colors
from dwiml.ops.sequences import TensorSequence

WITH_END = {"dg_key": "sphere-classification", "dg_args": {"sphere": "repulsion100"}}


def reader_of(hdf5: Path, tmp_path: Path, **model_args: Any) -> tuple[Any, SubjectReader]:
    trainer = small_trainer(hdf5, tmp_path, model_args={"step_size": None, **model_args})
    return trainer.model, SubjectReader(trainer.batch_loader, "validation", 0, batch_size=5)


def lines_of(reader: SubjectReader) -> list[torch.Tensor]:
    return list(reader.data.streamlines["streamlines"].get())


def outputs_one_by_one(model: Any, reader: SubjectReader) -> list[torch.Tensor]:
    """Run each streamline alone, on features that scipy interpolates."""
    volume = reader.data.volumes["input"].as_tensor().numpy()
    outputs = []
    for line in lines_of(reader):
        seen = line if model.forward_uses_last_point else line[:-1]
        where = (seen.numpy().astype(np.float64) - 0.5).T
        values = [map_coordinates(volume[..., f], where, order=1, mode="nearest") for f in range(volume.shape[3])]
        inputs = torch.from_numpy(np.stack(values, axis=1).astype(np.float32))
        length = torch.tensor([len(seen)])
        with torch.no_grad():
            outputs.append(model(TensorSequence(inputs, length), TensorSequence(seen, length)))
    return outputs


def test_losses_equal_those_of_single_streamlines(tiny_hdf5: Path, tmp_path: Path) -> None:
    model, reader = reader_of(tiny_hdf5, tmp_path)
    seen: list[int] = []
    got = measure_losses(model, reader, on_progress=seen.append)
    assert seen == [5, 5, 2]
    assert model.training
    model.eval()
    lines = lines_of(reader)
    expected = []
    for line, outputs in zip(lines, outputs_one_by_one(model, reader), strict=True):
        steps, found = np.diff(line.numpy(), axis=0), outputs.numpy()
        cosine = (steps * found).sum(1) / np.linalg.norm(steps, axis=1) / np.linalg.norm(found, axis=1)
        expected.append(np.append(1 - cosine, np.nan))
    np.testing.assert_array_equal(got.lengths, [len(line) for line in lines])
    np.testing.assert_allclose(got.loss, np.concatenate(expected), atol=2e-5)
    np.testing.assert_allclose(got.streamline_means(), [np.nanmean(each) for each in expected], atol=2e-5)
    assert got.eos_probability is None
    assert got.eos_probabilities_by_place() is None


def test_a_model_that_learns_ends_has_a_loss_at_last_points(tiny_hdf5: Path, tmp_path: Path) -> None:
    model, reader = reader_of(tiny_hdf5, tmp_path, **WITH_END)
    got = measure_losses(model, reader)
    model.eval()
    losses, ends = [], []
    for line, outputs in zip(lines_of(reader), outputs_one_by_one(model, reader), strict=True):
        log_p = torch.log_softmax(outputs.double(), dim=1).numpy()
        steps = np.diff(line.numpy(), axis=0)
        cosines = steps / np.linalg.norm(steps, axis=1, keepdims=True) @ model.direction_getter.directions.numpy().T
        classes = np.append(cosines.argmax(1), log_p.shape[1] - 1)
        losses.append(-log_p[np.arange(len(line)), classes])
        ends.append(np.exp(log_p[:, -1]))
    np.testing.assert_allclose(got.loss, np.concatenate(losses), atol=1e-3)
    assert got.eos_probability is not None
    np.testing.assert_allclose(got.eos_probability, np.concatenate(ends), atol=1e-4)
    assert got.eos_error is not None
    np.testing.assert_allclose(
        got.eos_error, np.concatenate([np.append(each[:-1], 1 - each[-1]) for each in ends]), atol=1e-4
    )
    last, others = got.eos_probabilities_by_place() or (np.zeros(0), np.zeros(0))
    np.testing.assert_allclose(last, [each[-1] for each in ends], atol=1e-4)
    assert len(last) + len(others) == len(got.loss)


def test_streamlines_are_resampled_as_for_the_model_and_never_augmented(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    reader = SubjectReader(trainer.batch_loader, "validation", 0, batch_size=5)
    got = measure_losses(trainer.model, reader)
    assert got.lengths.tolist() != [len(line) for line in lines_of(reader)]
    evaluated = evaluate_directions(trainer.model, trainer.batch_sampler, trainer.batch_loader)
    assert np.nanmean(got.loss) == pytest.approx(evaluated.loss, rel=1e-4)
    whole = SubjectReader(trainer.batch_loader, "training", 1, batch_size=100)
    assert len(measure_losses(trainer.model, whole).lengths) == whole.nb_streamlines == 20


def test_a_repeated_point_a_single_point_and_none() -> None:
    nan = np.nan
    losses = PointLosses(
        np.array([4, 1, 0, 3]), np.array([nan, 0.5, nan, nan, nan, 0.25, 0.75, nan], dtype=np.float32), None
    )
    np.testing.assert_array_equal(losses.streamline_means(), [0.5, nan, nan, 0.5])
    np.testing.assert_array_equal(losses.filled(), np.float32([nan, 0.5, 0.5, 0.5, nan, 0.25, 0.75, 0.75]))


def test_the_thirds_of_a_streamline() -> None:
    # 7 points, 6 steps; 3 points; 2 points; a single point; none.
    lengths = np.array([7, 3, 2, 1, 0])
    values = np.float32([0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 20, 21, 30])
    losses = PointLosses(lengths, values, None)
    first, middle, last = losses.by_third(losses.loss)
    assert first.tolist() == [0, 1, 10, 20]
    assert middle.tolist() == [2, 3, 11]
    assert last.tolist() == [4, 5, 6, 12, 21, 30]
    values[[1, 12]] = np.nan
    assert [each.tolist() for each in losses.by_third(values)] == [[0, 10, 20], [2, 3, 11], [4, 5, 6, 12, 21]]


def test_the_error_of_the_end() -> None:
    losses = PointLosses(np.array([3, 0, 1]), np.zeros(4, np.float32), np.float32([0.1, 0.25, 0.75, 0.5]))
    assert losses.eos_error is not None
    np.testing.assert_allclose(losses.eos_error, [0.1, 0.25, 0.25, 0.5], rtol=1e-6)
    assert set(losses.data_per_point()) == {"loss", "eos_probability", "eos_error"}


class Fixed(torch.nn.Module):
    """A model whose loss at each step is its number in the batch, or one value for all."""

    forward_uses_last_point = False
    device = torch.device("cpu")

    def __init__(self, value: float | None = None) -> None:
        super().__init__()
        self.value = value

    def forward(self, inputs: object, streamlines: TensorSequence) -> torch.Tensor:
        return streamlines.data

    def compute_loss(self, outputs: torch.Tensor, targets: object, average_results: bool) -> tuple[torch.Tensor, int]:
        rows = torch.arange(len(outputs), dtype=torch.float32)
        return (rows if self.value is None else torch.full_like(rows, self.value)), len(rows)

    def eos_probability(self, outputs: object) -> None:
        return None


class FixedDirection(Fixed):
    """A model that always goes to +x in voxel space, with any length."""

    def __init__(self, length: float = 5.0, *, with_end: bool = False) -> None:
        super().__init__()
        self.length = length
        self.forward_uses_last_point = with_end

    def get_tracking_directions(self, outputs: torch.Tensor, algo: str, threshold: None) -> torch.Tensor:
        assert (algo, threshold) == ("det", None)
        return torch.tensor([[self.length, 0.0, 0.0]]).expand(len(outputs), 3)


@pytest.mark.parametrize("with_end", [False, True])
def test_displacements_equal_those_in_rasmm(tiny_hdf5: Path, tmp_path: Path, with_end: bool) -> None:
    """The subject is oblique, with anisotropic voxels."""
    _, reader = reader_of(tiny_hdf5, tmp_path)
    trainer_model, reader.batch_loader.model = reader.batch_loader.model, FixedDirection(with_end=with_end)
    for name in ("step_size", "nb_points", "compress_lines", "neighborhood_offsets"):
        setattr(reader.batch_loader.model, name, getattr(trainer_model, name))
    losses = measure_losses(reader.batch_loader.model, reader)
    expected, by_angle = [], []
    for line in lines_of(reader):
        points = nib.affines.apply_affine(AFFINE, line.numpy().astype(np.float64) - 0.5)
        steps = np.diff(points, axis=0)
        lengths = np.linalg.norm(steps, axis=1, keepdims=True)
        ahead = AFFINE[:3, 0] / np.linalg.norm(AFFINE[:3, 0])
        reached = points[:-1] + lengths * ahead
        expected.append(np.append(np.linalg.norm(points[1:] - reached, axis=1), np.nan))
        angle = np.arccos(np.clip((steps / lengths) @ ahead, -1, 1))
        by_angle.append(np.append(2 * lengths[:, 0] * np.sin(angle / 2), np.nan))
    assert losses.displacement_mm is not None
    np.testing.assert_allclose(losses.displacement_mm, np.concatenate(expected), atol=2e-5)
    np.testing.assert_allclose(losses.displacement_mm, np.concatenate(by_angle), atol=2e-5)
    summary = write_loss_tractograms(tmp_path / "out", reader, losses, color_by="displacement_mm")
    known = np.concatenate(expected)
    assert summary["mean_displacement_mm"] == pytest.approx(np.nanmean(known), rel=1e-5)
    assert summary["color_by"] == "displacement_mm"
    assert summary["color_range"] == pytest.approx(np.nanquantile(known, [0.05, 0.95]).tolist(), rel=1e-4)
    assert list(summary["mean_displacement_mm_by_third"]) == ["first", "middle", "last"]
    found = nib.streamlines.load(tmp_path / "out" / "loss.trk").tractogram.data_per_point
    first = expected[0]
    first[-1] = first[-2]
    np.testing.assert_allclose(found["displacement_mm"][0][:, 0], first, atol=2e-5)
    colors = value_colors(losses.filled(losses.displacement_mm), *summary["color_range"])
    np.testing.assert_allclose(found["color"].get_data(), colors, atol=1e-3)


def test_a_model_of_scanner_space_has_its_directions_there(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    model = FixedDirection(1.0)
    for name in ("nb_points", "compress_lines", "neighborhood_offsets", "nb_features"):
        setattr(model, name, getattr(trainer.model, name))
    model.step_size, model.streamlines_space = None, "rasmm"
    dataset = trainer.batch_sampler.dataset
    reader = SubjectReader(type(trainer.batch_loader)(dataset, model, "input", "streamlines"), "validation", 0)
    losses = measure_losses(model, reader)
    line = nib.affines.apply_affine(AFFINE, lines_of(reader)[0].numpy().astype(np.float64) - 0.5)
    steps = np.diff(line, axis=0)
    reached = np.linalg.norm(steps, axis=1, keepdims=True) * [[1.0, 0, 0]]
    assert losses.displacement_mm is not None
    got = losses.displacement_mm[: len(steps)]
    np.testing.assert_allclose(got, np.linalg.norm(steps - reached, axis=1), atol=1e-4)


def test_a_model_without_any_direction_has_no_displacement(tiny_hdf5: Path, tmp_path: Path) -> None:
    _, reader = reader_of(tiny_hdf5, tmp_path)
    losses = measure_losses(FixedDirection(0.0), reader)
    assert losses.displacement_mm is None
    with pytest.raises(ValueError, match=r"The model has no displacement_mm; give color_by='loss'\."):
        write_loss_tractograms(tmp_path / "out", reader, losses, color_by="displacement_mm")


def test_directions_of_another_shape_are_reported(tiny_hdf5: Path, tmp_path: Path) -> None:
    _, reader = reader_of(tiny_hdf5, tmp_path)
    model = FixedDirection()
    model.get_tracking_directions = lambda *_: torch.zeros(3)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"one direction per row of the outputs, shape \(\d+, 3\); it returned shape"):
        measure_losses(model, reader)
    model.get_tracking_directions = lambda *_: None  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(TypeError, match="as a tensor; it returned None"):
        measure_losses(model, reader)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_reported(tiny_hdf5: Path, tmp_path: Path, value: float) -> None:
    _, reader = reader_of(tiny_hdf5, tmp_path)
    with pytest.raises(FloatingPointError, match="NaN or infinite at a streamline of subject 'sub-d'"):
        measure_losses(Fixed(value), reader)


def written(
    tiny_hdf5: Path, tmp_path: Path, **options: Any
) -> tuple[PointLosses, dict[str, Any], dict[str, Any], SubjectReader]:
    model, reader = reader_of(tiny_hdf5, tmp_path, **WITH_END)
    losses = measure_losses(model, reader)
    summary = write_loss_tractograms(tmp_path / "out", reader, losses, percent=25, **options)
    files = {name: nib.streamlines.load(tmp_path / "out" / name) for name in loss_files(25)}
    return losses, summary, files, reader


def test_tractograms_hold_the_losses(tiny_hdf5: Path, tmp_path: Path) -> None:
    losses, summary, files, reader = written(tiny_hdf5, tmp_path)
    assert list(files) == ["loss.trk", "best_25_percent.trk", "worst_25_percent.trk"]
    whole = files["loss.trk"]
    np.testing.assert_allclose(whole.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(whole.header["dimensions"], SHAPE)
    for found, line in zip(whole.streamlines, lines_of(reader), strict=True):
        np.testing.assert_allclose(found, nib.affines.apply_affine(AFFINE, line.numpy() - 0.5), atol=1e-4)
    of_points = whole.tractogram.data_per_point
    np.testing.assert_allclose(of_points["loss"].get_data()[:, 0], losses.loss)
    np.testing.assert_allclose(of_points["eos_probability"].get_data()[:, 0], losses.eos_probability)
    low, high = np.quantile(losses.loss, [0.05, 0.95])
    share = np.clip((losses.loss - low) / (high - low), 0, 1)
    np.testing.assert_allclose(
        of_points["color"].get_data(), 255 * colormaps["viridis"](0.25 + 0.75 * share)[:, :3], atol=4
    )
    assert summary["color_range"] == pytest.approx([low, high])
    assert summary["mean_loss"] == pytest.approx(losses.loss.mean())
    assert summary["loss_quantiles"]["0.5"] == pytest.approx(np.median(losses.loss))
    assert (summary["nb_streamlines"], summary["nb_points"]) == (12, len(losses.loss))
    ends = [of_points["eos_probability"][number] for number in range(12)]
    at_last = np.mean([end[-1] for end in ends])
    assert summary["mean_eos_probability_at_last_points"] == pytest.approx(at_last, rel=1e-5)
    errors = of_points["eos_error"].get_data()[:, 0]
    np.testing.assert_allclose(errors, losses.eos_error)
    thirds = [each.mean() for each in losses.by_third(losses.loss)]
    assert list(summary["mean_loss_by_third"].values()) == pytest.approx(thirds, rel=1e-5)
    others = np.concatenate([end[:-1] for end in ends]).mean()
    assert summary["mean_eos_probability_at_other_points"] == pytest.approx(others, rel=1e-5)


def test_best_and_worst_are_sorted_and_have_their_ids(tiny_hdf5: Path, tmp_path: Path) -> None:
    losses, summary, files, reader = written(tiny_hdf5, tmp_path)
    means = [losses.loss[start : start + n].mean() for start, n in zip(losses.offsets, losses.lengths, strict=True)]
    order = np.argsort(means)
    for name, ids in (("best", order[:3]), ("worst", order[::-1][:3])):
        found = files[f"{name}_25_percent.trk"]
        assert found.tractogram.data_per_streamline["id"][:, 0].tolist() == ids.tolist()
        np.testing.assert_allclose(
            found.tractogram.data_per_streamline["mean_loss"][:, 0], np.array(means)[ids], rtol=1e-5
        )
        assert [len(line) for line in found.streamlines] == losses.lengths[ids].tolist()
        start = losses.offsets[ids[0]]
        np.testing.assert_allclose(
            found.tractogram.data_per_point["loss"][0][:, 0], losses.loss[start : start + losses.lengths[ids[0]]]
        )
        assert summary[f"mean_loss_of_{name}"] == pytest.approx(np.mean(np.array(means)[ids]))
    assert reader.nb_streamlines == 12


def test_a_last_point_has_the_loss_before_it(tiny_hdf5: Path, tmp_path: Path) -> None:
    _, reader = reader_of(tiny_hdf5, tmp_path)
    losses = measure_losses(Fixed(), reader)
    write_loss_tractograms(tmp_path, reader, losses)
    found = nib.streamlines.load(tmp_path / "loss.trk").tractogram.data_per_point
    assert set(found) == {"loss", "color"}
    first = found["loss"][0][:, 0]
    np.testing.assert_array_equal(first, np.minimum(np.arange(len(first)), len(first) - 2))


def test_colors() -> None:
    got = value_colors(np.array([-1.0, 2.0, 4.0, 9.0, np.nan]), 0.0, 4.0)
    viridis = 255 * np.array(colormaps["viridis"]([0.25, 0.625, 1.0]))[:, :3]
    np.testing.assert_allclose(got, [viridis[0], viridis[1], viridis[2], viridis[2], [128] * 3], atol=3)
    assert np.isfinite(value_colors(np.array([1.0, 1.0]), 1.0, 1.0)).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"percent": 0}, "percent must be above 0 and at most 100, got 0"),
        ({"color_by": "eos_error"}, "The model has no eos_error; give color_by='loss'."),
        ({"color_by": "Loss"}, "color_by must be one of 'loss', 'displacement_mm', 'eos_error', got 'Loss'."),
        ({"color_range": (2.0, 1.0)}, "color_range must be two finite numbers, the lower one first, got 2 and 1."),
    ],
)
def test_bad_options(tiny_hdf5: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    _, reader = reader_of(tiny_hdf5, tmp_path)
    with pytest.raises(ValueError, match=sentence):
        write_loss_tractograms(tmp_path / "out", reader, measure_losses(Fixed(), reader), **options)
    assert not (tmp_path / "out").exists()
