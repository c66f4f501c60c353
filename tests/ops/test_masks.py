"""The one rule of what a mask is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dwiml.ops.masks import as_mask, border_voxels


def volume(*values: float, dtype: type = np.float32) -> np.ndarray:
    return np.resize(np.array(values, dtype=dtype), (3, 4, 5))


@pytest.mark.parametrize(
    "values",
    [
        volume(0, 1, dtype=np.uint8),
        volume(0, 255, dtype=np.uint8),
        volume(0, -1, dtype=np.int8),
        volume(0, 1, 1),
        volume(0, 0.25),
        volume(1),
        volume(0),
        volume(0, 1, dtype=bool),
        np.zeros((0, 2, 2)),
    ],
)
def test_zero_and_one_other_value_is_a_mask(values: np.ndarray) -> None:
    mask = as_mask(values, "The mask")
    np.testing.assert_array_equal(mask.inside, values != 0)
    assert mask.inside.dtype == bool
    assert mask.values is mask.inside
    assert not mask.note


def test_a_map_of_probabilities_is_thresholded_with_a_note() -> None:
    values = volume(0, 1e-6, 0.25, 0.5, 0.75, 1)
    mask = as_mask(values, "The mask 'pve.nii.gz'")
    np.testing.assert_array_equal(mask.inside, values >= 0.5)
    np.testing.assert_array_equal(mask.values, values)
    assert (
        mask.note == "The mask 'pve.nii.gz' is not a 0/1 mask (values from 0 to 1): voxels of at least 0.5 are inside."
    )
    np.testing.assert_array_equal(as_mask(values, "m", threshold=0.2).inside, values >= 0.2)
    # Splines overshoot.
    assert as_mask(volume(-0.1, 0.3, 1.1), "m").inside.tolist() == (volume(-0.1, 0.3, 1.1) >= 0.5).tolist()


def test_the_threshold_is_compared_in_float32_as_what_interpolates_the_map_does() -> None:
    values = np.resize(np.array([0.0, 0.1, 1.0]), (2, 3, 4))
    assert as_mask(values, "m", threshold=0.1).inside.tolist() == (values > 0.05).tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_labels_are_inside_where_they_are_not_zero_with_a_note(dtype: type) -> None:
    values = volume(0, 2, 3, 41, dtype=dtype)
    mask = as_mask(values, "The mask")
    np.testing.assert_array_equal(mask.inside, values != 0)
    assert mask.probabilities is None
    assert mask.note == (
        "The mask is not a 0/1 mask but holds whole numbers (values from 0 to 41), which are taken as labels: all "
        "non-zero voxels are inside. If they are percentages or another scale of probabilities, threshold it first."
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (volume(0, np.nan, 1), "The mask holds 20 NaN or infinite values"),
        (volume(0, np.inf), "The mask holds 30 NaN or infinite values"),
        (
            volume(-1.5, 0.3, 2.2),
            "The mask is not a mask: it has values from -1.5 to 2.2; .* if it was standardized, use the original mask",
        ),
        (volume(0, 37.5, 100), "The mask is not a mask: it has values from 0 to 100"),
        (volume(-1, 0, 1, dtype=np.int16), "The mask is not a mask: it has values from -1 to 1"),
    ],
)
def test_anything_else_is_refused(values: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        as_mask(values, "The mask")


@given(arrays(np.float32, (2, 2, 3), elements=st.floats(0, 1, width=32)), st.sampled_from([0.01, 0.25, 0.5, 1.0]))
def test_probabilities_are_never_taken_as_everything_above_zero(values: np.ndarray, threshold: float) -> None:
    mask = as_mask(values, "m", threshold=threshold)
    plain = len(np.unique(values[values != 0])) <= 1 and (0 in values or len(np.unique(values)) == 1)
    expected = values != 0 if plain else values >= np.float32(threshold)
    np.testing.assert_array_equal(mask.inside, expected)
    assert bool(mask.note) is not plain


def test_the_border_of_a_mask() -> None:
    box = np.zeros((7, 7, 7), dtype=bool)
    box[1:6, 1:6, 1:6] = True
    inner = np.zeros_like(box)
    inner[2:5, 2:5, 2:5] = True
    assert np.array_equal(border_voxels(box), box & ~inner)
    # A diagonal neighbor outside is not enough.
    box[1, 1, 1] = False
    assert not border_voxels(box)[2, 2, 2]
    for shape in ((3, 4, 1), (1, 1, 1)):
        assert border_voxels(np.ones(shape, dtype=bool)).all()
    assert not border_voxels(np.zeros((3, 3, 3), dtype=bool)).any()
