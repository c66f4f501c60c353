"""The attention along true streamlines; the tractogram, read back with nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dipy.io.streamline import load_tractogram
from small_training import small_trainer
from tests_support import AFFINE

from dwiml import Learn2TrackModel, TransformerSrcAndTgtModel
from dwiml.evaluation.attention import (
    StreamlineAttention,
    attention_at_points,
    check_has_attention,
    choose_streamlines,
    measure_attention,
)
from dwiml.evaluation.attention_tractogram import write_attention_tractogram
from dwiml.evaluation.losses_by_point import SubjectReader
from dwiml.ops.randomness import BatchKey

SMALL = {"input_embedded_size": 8, "nb_heads": 2, "nb_layers_encoder": 2, "nb_layers_decoder": 1}


@pytest.fixture
def reader(tiny_hdf5: Path, tmp_path: Path) -> SubjectReader:
    trainer = small_trainer(tiny_hdf5, tmp_path, model_class=TransformerSrcAndTgtModel, model_args=SMALL)
    return SubjectReader(trainer.batch_loader, "validation", 0)


def measured(reader: SubjectReader, ids: list[int]) -> list[StreamlineAttention]:
    model: Any = reader.batch_loader.model
    return list(measure_attention(model, reader, np.array(ids)))


def test_each_streamline_has_the_attention_that_the_model_gives_for_a_batch(reader: SubjectReader) -> None:
    ids, model = [7, 2, 5], reader.batch_loader.model
    found = measured(reader, ids)
    assert model.training
    assert [each.id for each in found] == ids
    ((targets, ids_per_subj),) = reader.batches(np.array(ids))
    assert ids_per_subj.key == BatchKey("validation", 0, 0)
    batch = reader.batch_loader.model_batch(targets, ids_per_subj)
    expected = model.attention(batch.inputs, batch.streamlines)
    for number, each in enumerate(found):
        nb = int(batch.streamlines.lengths[number])
        np.testing.assert_array_equal(each.points, batch.streamlines[number].numpy())
        steps = np.linalg.norm(np.diff(each.points.astype(np.float64), axis=0) @ np.diag(each.voxel_sizes), axis=1)
        np.testing.assert_allclose(each.mm, [steps[:i].sum() for i in range(nb)], atol=1e-4)
        assert {group: list(layers) for group, layers in each.weights.items()} == {
            "encoder": [0, 1],
            "decoder": [0],
            "cross": [0],
        }
        for group, layers in each.weights.items():
            for layer, heads in layers.items():
                for head, matrix in heads.items():
                    whole = expected[group][layer][number, head, :nb, :nb]
                    np.testing.assert_allclose(matrix, whole, atol=1e-6)
                    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
                    assert not np.triu(matrix, 1).any()


def test_groups_layers_and_heads_are_selected(reader: SubjectReader) -> None:
    (found,) = measured(reader, [0])
    chosen = found.select(groups=["cross", "encoder"], layers=[0], heads=[1])
    assert {group: {n: list(heads) for n, heads in layers.items()} for group, layers in chosen.weights.items()} == {
        "cross": {0: [1]},
        "encoder": {0: [1]},
    }
    matrices = [matrix for heads in found.weights["encoder"].values() for matrix in heads.values()]
    np.testing.assert_allclose(found.mean("encoder"), sum(each.astype(float) for each in matrices) / 4)
    np.testing.assert_allclose(found.mean("encoder", 1), (matrices[2].astype(float) + matrices[3]) / 2)
    for options, sentence in (
        ({"groups": ["self"]}, "no attention named 'self'; it has: 'encoder', 'decoder', 'cross'"),
        ({"layers": [1]}, "The attention 'decoder' has 1 layers, numbered from 0; there is no layer 1"),
        ({"heads": [2]}, "The attention 'encoder' has 2 heads, numbered from 0; there is no head 2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            found.select(**options)  # type: ignore[arg-type]


def test_the_attention_at_points_is_that_of_loops() -> None:
    rng = np.random.default_rng(3)
    nb = 6
    weights = np.tril(rng.random((nb, nb)))
    weights /= weights.sum(axis=1, keepdims=True)
    weight, ratio = attention_at_points(weights)
    for j in range(nb):
        given = [weights[i, j] for i in range(j, nb)]
        equal = [1 / (i + 1) for i in range(j, nb)]
        assert weight[j] == pytest.approx(np.mean(given))
        assert ratio[j] == pytest.approx(np.mean(given) / np.mean(equal))
    weight, ratio = attention_at_points(weights, 3)
    np.testing.assert_array_equal(weight, weights[3])
    np.testing.assert_allclose(ratio, [*(4 * weights[3, :4]), np.nan, np.nan])
    np.testing.assert_array_equal(attention_at_points(weights, -1)[0], weights[5])
    equal = np.tril(np.ones((nb, nb))) / np.arange(1, nb + 1)[:, None]
    np.testing.assert_allclose(attention_at_points(equal)[1], 1)
    np.testing.assert_allclose(attention_at_points(np.eye(nb))[0], 1 / np.arange(nb, 0, -1))


def test_streamlines_are_drawn_or_given(reader: SubjectReader) -> None:
    drawn = choose_streamlines(reader, nb=4, seed=1)
    assert len(set(drawn)) == 4
    assert list(drawn) == sorted(drawn)
    np.testing.assert_array_equal(choose_streamlines(reader, nb=4, seed=1), drawn)
    assert list(choose_streamlines(reader, nb=4, seed=2)) != list(drawn)
    assert len(choose_streamlines(reader, nb=100)) == 12
    assert list(choose_streamlines(reader, ids=[5, 1])) == [5, 1]
    with pytest.raises(ValueError, match="Subject 'sub-d' has 12 streamlines, numbered from 0; there is no number 12"):
        choose_streamlines(reader, ids=[12])
    with pytest.raises(ValueError, match="must be different, got 3, 3"):
        choose_streamlines(reader, ids=[3, 3])


@pytest.mark.parametrize(("point", "extension"), [(None, ".trk"), (1, ".trk"), (-1, ".trk"), (1, ".trx")])
def test_the_tractogram_has_the_attention_at_each_point(
    reader: SubjectReader, tmp_path: Path, point: int | None, extension: str
) -> None:
    found, path = measured(reader, [3, 0]), tmp_path / f"a{extension}"
    ratios = write_attention_tractogram(path, reader, found, "cross", point=point)
    tractogram = load_tractogram(str(path), "same", bbox_valid_check=False)
    assert tractogram.data_per_streamline["id"].ravel().tolist() == [3, 0]
    for number, (each, ratio) in enumerate(zip(found, ratios, strict=True)):
        in_mm = nib.affines.apply_affine(AFFINE, each.points - 0.5)
        np.testing.assert_allclose(tractogram.streamlines[number], in_mm, atol=1e-3)
        weight, expected = each.at_points("cross", point)
        np.testing.assert_array_equal(ratio, expected)
        data = {name: values[number] for name, values in tractogram.data_per_point.items()}
        np.testing.assert_allclose(data["weight"][:, 0], weight, rtol=1e-6)
        np.testing.assert_allclose(data["ratio"][:, 0], np.nan_to_num(expected), rtol=1e-6)
        later = np.isnan(expected)
        assert later.sum() == (len(weight) - 2 if point == 1 else 0)
        assert (data["color"][later] == 128).all()
        assert not (data["color"][~later] == 128).all(axis=1).any()


def test_points_and_models_that_do_not_fit(reader: SubjectReader) -> None:
    (found,) = measured(reader, [4])
    nb = len(found.points)
    with pytest.raises(ValueError, match=f"run at {nb} points of streamline 4, .*; there is no point {nb}"):
        found.at_points("cross", nb)
    with pytest.raises(ValueError, match="Learn2TrackModel has no attention to show; transformers have"):
        check_has_attention(Learn2TrackModel(nb_features=4))
    reader.batch_loader.model.max_len = nb - 1
    with pytest.raises(ValueError, match="this model takes at most"):
        measured(reader, [4])
