from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from dwiml.hdf5.config import ConnectivityFiles, StreamlinesGroup, VolumeGroup, load_config

VOLUME = {"type": "volume", "files": ["dwi.nii.gz"]}
STREAMLINES = {"type": "streamlines", "files": ["wb.trk"]}


def test_all_keys(tmp_path):
    content = {
        "input": {"type": "volume", "files": ["a.nii", "b*.nii"], "standardization": "per_file", "std_mask": "m.nii"},
        "lines": {"type": "streamlines", "files": ["*.trk"], "dps_keys": ["id", "weight"]},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    for config in (load_config(path), load_config(content)):
        assert config.groups == (
            VolumeGroup(name="input", files=("a.nii", "b*.nii"), standardization="per_file", std_mask=("m.nii",)),
            StreamlinesGroup(name="lines", files=("*.trk",), dps_keys=("id", "weight")),
        )
        assert config.volumes + config.streamlines == config.groups
        assert json.loads(config.text) == content


def test_standardization_left_out_is_none():
    assert load_config({"input": VOLUME}).volumes[0].standardization == "none"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "at least one group"),
        ([], "at least one group"),
        ({"input": []}, r"Group 'input' of .* must be an object with 'type' and 'files', got \[\]"),
        ({"in/put": VOLUME}, "'in/put' cannot be used as a file name"),
        ({"input": {"files": ["a"]}}, "has no 'type'; it must be 'volume' or 'streamlines'"),
        ({"input": {**VOLUME, "type": "image"}}, "has type 'image'; it must be 'volume' or 'streamlines'"),
        ({"input": {"type": "volume"}}, "Group 'input' of .* has no 'files'"),
        ({"input": {"type": "volume", "files": []}}, "'files' is empty"),
        ({"input": {"type": "volume", "files": [3]}}, r"'files' must be a list of non-empty strings, got \[3\]"),
        ({"input": {"type": "volume", "files": ["a", "a"]}}, "'files' lists 'a' more than once"),
        ({"input": {"type": "volume", "files": ["/a.nii"]}}, "relative to the subject's folder, got '/a.nii'"),
        ({"input": {"type": "volume", "files": ["~/a.nii"]}}, "relative to the subject's folder, got '~/a.nii'"),
        ({"input": {**VOLUME, "standardisation": "all"}}, "unknown key 'standardisation'.*'files', 'standardization'"),
        (
            {"lines": {"type": "streamlines", "files": ["*.trk"], "dps_keys": ["a/b"]}},
            "one of its dps_keys 'a/b' cannot be used",
        ),
        ({"input": {**VOLUME, "dps_keys": ["id"]}}, "unknown key 'dps_keys'; a group of type 'volume' has"),
        ({"lines": {**STREAMLINES, "std_mask": "m"}}, "unknown key 'std_mask'; a group of type 'streamlines' has"),
        (
            {"input": {**VOLUME, "standardization": "zscore"}},
            "unknown standardization 'zscore'; it must be one of 'all', 'independent', 'per_file', 'none'",
        ),
        ({"input": {**VOLUME, "standardization": ["all"]}}, r"unknown standardization \['all'\]"),
        ({"input": {**VOLUME, "connectivity_matrix": "m.npy"}}, "unknown key 'connectivity_matrix'; a group of type"),
    ],
)
def test_bad_content_gets_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence) as caught:
        load_config(path)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        (
            {"connectivity_matrix": "m.npy", "connectivity_nb_blocs": 20},
            ConnectivityFiles(matrix="m.npy", nb_blocs=(20, 20, 20)),
        ),
        (
            {"connectivity_matrix": "m*.npy", "connectivity_nb_blocs": [4, 3, 2]},
            ConnectivityFiles(matrix="m*.npy", nb_blocs=(4, 3, 2)),
        ),
        (
            {"connectivity_matrix": "a/m.npy", "connectivity_labels": "labels.nii.gz"},
            ConnectivityFiles(matrix="a/m.npy", labels="labels.nii.gz"),
        ),
    ],
)
def test_connectivity(keys, expected):
    config = load_config({"lines": {**STREAMLINES, **keys}})
    assert config.streamlines[0].connectivity == expected


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"connectivity_nb_blocs": 20}, "has 'connectivity_nb_blocs' but no 'connectivity_matrix'; name"),
        ({"connectivity_labels": "l.nii.gz"}, "has 'connectivity_labels' but no 'connectivity_matrix'; name"),
        ({"connectivity_matrix": "m.npy"}, "give 'connectivity_nb_blocs' or 'connectivity_labels', got neither"),
        (
            {"connectivity_matrix": "m.npy", "connectivity_nb_blocs": 20, "connectivity_labels": "l.nii.gz"},
            "give 'connectivity_nb_blocs' or 'connectivity_labels', got both",
        ),
        ({"connectivity_matrix": "m.txt", "connectivity_nb_blocs": 2}, "'connectivity_matrix' must be a .npy file"),
        (
            {"connectivity_matrix": 3, "connectivity_nb_blocs": 2},
            "'connectivity_matrix' must be a list of non-empty strings",
        ),
        ({"connectivity_matrix": ["a.npy", "b.npy"], "connectivity_nb_blocs": 2}, "must be one file, got 'a.npy'"),
        (
            {"connectivity_matrix": "/m.npy", "connectivity_nb_blocs": 2},
            "relative to the subject's folder, got",
        ),
        ({"connectivity_matrix": "m.npy", "connectivity_labels": []}, "'connectivity_labels' is empty"),
        *[
            (
                {"connectivity_matrix": "m.npy", "connectivity_nb_blocs": bad},
                "or three of them .along x, y and z., got",
            )
            for bad in (0, -3, 2.0, True, "20", None, [2, 3], [2, 3, 4, 5], [2, 3, 0], [2, 3, False], [])
        ],
    ],
)
def test_bad_connectivity_gets_one_sentence(keys, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        load_config({"lines": {**STREAMLINES, **keys}})
    assert str(caught.value).startswith("Group 'lines' of the groups config")
    assert "\n" not in str(caught.value)


def test_a_key_written_twice_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"input": {"type": "volume", "files": ["a"]}, "input": {"type": "volume", "files": ["b"]}}')
    with pytest.raises(ValueError, match="'input' appears twice"):
        load_config(path)


def test_no_json_and_no_file(tmp_path):
    (tmp_path / "config.json").write_text("{'input': 3}")
    with pytest.raises(ValueError, match="config.json' is not valid JSON"):
        load_config(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match="none.json' was not found"):
        load_config(tmp_path / "none.json")


def test_the_example_of_the_documentation_is_a_config():
    page = (Path(__file__).parents[2] / "docs" / "hdf5.rst").read_text()
    block = re.search(r"\.\. code-block:: json\n\n((?:    .*\n|\n)+)", page)[1]
    config = load_config(json.loads(textwrap.dedent(block)))
    assert [group.name for group in config.groups] == ["input", "wm_mask", "streamlines"]
    assert config.streamlines[0].dps_keys == ("bundle_id",)


def test_the_example_on_connectivity_is_a_config():
    page = (Path(__file__).parents[2] / "docs" / "connectivity.rst").read_text()
    block = re.search(r"\.\. code-block:: json\n\n((?:    .*\n|\n)+)", page)[1]
    config = load_config(json.loads(textwrap.dedent(block)))
    kinds = [group.connectivity for group in config.streamlines]
    assert kinds == [
        ConnectivityFiles(matrix="connectivity/labels.npy", labels="labels/endpoints.nii.gz"),
        ConnectivityFiles(matrix="connectivity/blocs.npy", nb_blocs=(20, 24, 16)),
    ]
