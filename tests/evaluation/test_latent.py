"""The latent space of streamlines: nearest distances beside scipy's tree, and what must not change them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from without_volume import SMALL_AUTOENCODER

from dwiml import AutoencoderModel, Learn2TrackModel, seed_everything
from dwiml.evaluation.latent_filter import LatentReference, nearest_distances
from dwiml.evaluation.latent_space import encode_streamlines, load_autoencoder, reconstruct_streamlines
from dwiml.ops.ragged import reversed_rows

Lines = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def model() -> AutoencoderModel:
    seed_everything(2)
    return AutoencoderModel(**SMALL_AUTOENCODER)


def lines(nb: int, seed: int = 0) -> Lines:
    """Return smooth lines of 2 to 60 points, in mm."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 61, nb)
    parts = [
        rng.uniform(-40, 40, 3) + np.linspace(0, 1, n)[:, None] ** rng.uniform(0.5, 2, 3) * rng.uniform(-60, 60, 3)
        for n in lengths
    ]
    return np.concatenate([*parts, np.zeros((0, 3))]).astype(np.float32), lengths.astype(np.int64)


@pytest.mark.parametrize(("nb_points", "nb_references", "size"), [(0, 3, 4), (1, 1, 4), (300, 50, 32), (40, 300, 2)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_distances_are_those_of_scipy(nb_points: int, nb_references: int, size: int, offset: float) -> None:
    rng = np.random.default_rng(nb_points)
    points, references = rng.normal(size=(nb_points, size)), rng.normal(size=(nb_references, size))
    points, references = points + offset, references + offset
    expected, _ = cKDTree(references).query(points)
    np.testing.assert_allclose(
        nearest_distances(torch.from_numpy(points), torch.from_numpy(references)), expected, atol=1e-12, rtol=1e-9
    )


def test_nearest_distances_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    points, references = torch.from_numpy(rng.normal(size=(57, 3))), torch.from_numpy(rng.normal(size=(20, 3)))
    whole = nearest_distances(points, references)
    monkeypatch.setattr("dwiml.evaluation.latent_filter._AT_ONCE", 130)
    assert np.array_equal(nearest_distances(points, references), whole)


def test_an_equal_point_is_at_no_distance(model: AutoencoderModel) -> None:
    points, lengths = lines(30)
    reference = LatentReference.from_streamlines(model, points, lengths)
    np.testing.assert_array_equal(reference.distances(points, lengths), 0)


def test_own_distances_leave_out_the_streamline_and_its_reverse(model: AutoencoderModel) -> None:
    points, lengths = lines(25)
    reference = LatentReference.from_streamlines(model, points, lengths, batch_size=7)
    forward, backward = reference.latents.double().numpy()
    expected = []
    for i in range(25):
        others = cKDTree(np.concatenate([np.delete(forward, i, axis=0), np.delete(backward, i, axis=0)]))
        expected.append(min(others.query(forward[i])[0], others.query(backward[i])[0]))
    np.testing.assert_allclose(reference.own_distances(), expected, rtol=1e-9)
    np.testing.assert_allclose(reference.threshold_at(0.4), np.quantile(expected, 0.4), rtol=1e-9)
    assert reference.threshold_at(1) == pytest.approx(max(expected))


def test_duplicates_in_the_reference_are_told(model: AutoencoderModel, caplog: pytest.LogCaptureFixture) -> None:
    points, lengths = lines(25)
    LatentReference.from_streamlines(model, points, lengths).threshold_at(0.5)
    assert not caplog.text
    flipped = reversed_rows(lengths[:3])
    twice = np.concatenate([points, points[flipped]]), np.concatenate([lengths, lengths[:3]])
    reference = LatentReference.from_streamlines(model, *twice, batch_size=9)
    reference.threshold_at(0.5)
    assert "6 of the 28 reference streamlines are the same as another one" in caplog.text


def test_directions_do_not_matter(model: AutoencoderModel) -> None:
    points, lengths = lines(20, seed=1)
    known, known_lengths = lines(15, seed=2)
    expected = LatentReference.from_streamlines(model, known, known_lengths).distances(points, lengths)
    turned = LatentReference.from_streamlines(model, known[reversed_rows(known_lengths)], known_lengths)
    for distances in (
        turned.distances(points, lengths),
        turned.distances(points[reversed_rows(lengths)], lengths),
    ):
        np.testing.assert_allclose(distances, expected, rtol=1e-3, atol=1e-4)


def test_the_size_of_a_batch_does_not_matter(model: AutoencoderModel) -> None:
    points, lengths = lines(20)
    seen: list[int] = []
    whole = encode_streamlines(model, points, lengths, on_progress=seen.append)
    parts = encode_streamlines(model, points, lengths, batch_size=3, on_progress=seen.append)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert seen == [20, *[3] * 6, 2]
    assert model.training


def test_without_streamlines_and_with_few(model: AutoencoderModel) -> None:
    points, lengths = lines(3)
    reference = LatentReference.from_streamlines(model, points, lengths)
    assert reference.distances(*lines(0)).shape == (0,)
    assert encode_streamlines(model, *lines(0)).shape == (0, 4)
    assert list(reconstruct_streamlines(model, *lines(0))) == []
    with pytest.raises(ValueError, match="There is no reference streamline"):
        LatentReference.from_streamlines(model, *lines(0))
    one = LatentReference.from_streamlines(model, points[: lengths[0]], lengths[:1])
    assert one.distances(points, lengths)[0] == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="There is a single reference streamline, .*: give a threshold"):
        one.threshold_at(0.5)
    with pytest.raises(ValueError, match="quantile must be a number from 0 to 1, got 2"):
        reference.threshold_at(2)


def test_streamlines_of_one_point_and_without_length(model: AutoencoderModel) -> None:
    points = np.array([[1, 2, 3], [4, 5, 6], [4, 5, 6], [4, 5, 6]], dtype=np.float32)
    latent = encode_streamlines(model, points, np.array([1, 3]))
    assert torch.isfinite(latent).all()
    ((rebuilt, errors),) = reconstruct_streamlines(model, points, np.array([1, 3]))
    assert rebuilt.shape == (32, 3)
    assert np.isfinite(errors).all()
    with pytest.raises(ValueError, match="Streamline 1 of 3 has no points"):
        encode_streamlines(model, points, np.array([1, 0, 3]))


@pytest.mark.parametrize("size", [-2e6, 1e30, 3e38])
def test_coordinates_that_are_too_large_are_named(model: AutoencoderModel, size: float) -> None:
    points, lengths = lines(9)
    first = int(lengths[:5].sum())
    points[first] = [size, 0, 0]
    sentence = "Streamline 5 of 9 has coordinates beyond 1 000 000 mm; check the units"
    with pytest.raises(ValueError, match=sentence):
        list(reconstruct_streamlines(model, points, lengths, batch_size=4))
    with pytest.raises(ValueError, match=sentence):
        encode_streamlines(model, points, lengths, batch_size=4)


def test_results_that_are_not_finite_are_named() -> None:
    seed_everything(2)
    broken = AutoencoderModel(**SMALL_AUTOENCODER)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(1e30)
    with pytest.raises(FloatingPointError, match="for streamline 0 is NaN or infinite; check its weights"):
        list(reconstruct_streamlines(broken, *lines(3)))
    with pytest.raises(FloatingPointError, match="for streamline 0 is NaN or infinite; check its weights"):
        encode_streamlines(broken, *lines(3))


def test_errors_are_distances_in_mm(model: AutoencoderModel) -> None:
    points, lengths = lines(9)
    parts = list(reconstruct_streamlines(model, points, lengths, batch_size=4))
    assert [len(errors) for _, errors in parts] == [4, 4, 1]
    from dipy.tracking.streamline import set_number_of_points

    start = 0
    rebuilt = np.concatenate([part for part, _ in parts]).reshape(9, 16, 3)
    errors = np.concatenate([part for _, part in parts])
    for i, length in enumerate(lengths):
        original = set_number_of_points(points[start : start + length].astype(np.float64), nb_points=16)
        start += length
        distance = np.sqrt(((rebuilt[i] - original) ** 2).sum(1).mean())
        assert errors[i] == pytest.approx(distance, rel=1e-4)


def test_a_model_of_another_kind_is_refused(tmp_path: Path, model: AutoencoderModel) -> None:
    model.save(tmp_path / "good")
    assert load_autoencoder(tmp_path / "good").params == model.params
    Learn2TrackModel(nb_features=2, rnn_layer_sizes=[4]).save(tmp_path / "other")
    with pytest.raises(ValueError, match="is of class Learn2TrackModel; an autoencoder is needed"):
        load_autoencoder(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        load_autoencoder(tmp_path / "nothing")
