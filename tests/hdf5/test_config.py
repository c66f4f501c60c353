from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from dwiml.hdf5.config import StreamlinesGroup, VolumeGroup, load_config

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
        ({"in/put": VOLUME}, "'in/put' cannot name a group"),
        ({"input": {"files": ["a"]}}, "has no 'type'; it must be 'volume' or 'streamlines'"),
        ({"input": {**VOLUME, "type": "image"}}, "has type 'image'; it must be 'volume' or 'streamlines'"),
        ({"input": {"type": "volume"}}, "Group 'input' of .* has no 'files'"),
        ({"input": {"type": "volume", "files": []}}, "'files' is empty"),
        ({"input": {"type": "volume", "files": [3]}}, r"'files' must be a list of texts, got \[3\]"),
        ({"input": {"type": "volume", "files": ["a", "a"]}}, "'files' lists 'a', 'a'"),
        ({"input": {"type": "volume", "files": ["/a.nii"]}}, "relative to the subject's folder, got '/a.nii'"),
        ({"input": {"type": "volume", "files": ["~/a.nii"]}}, "relative to the subject's folder, got '~/a.nii'"),
        ({"input": {**VOLUME, "standardisation": "all"}}, "unknown key 'standardisation'.*'files', 'standardization'"),
        ({"input": {**VOLUME, "dps_keys": ["id"]}}, "unknown key 'dps_keys'; a group of type 'volume' has"),
        ({"lines": {**STREAMLINES, "std_mask": "m"}}, "unknown key 'std_mask'; a group of type 'streamlines' has"),
        (
            {"input": {**VOLUME, "standardization": "zscore"}},
            "unknown standardization 'zscore'; it must be one of 'all', 'independent', 'per_file', 'none'",
        ),
        ({"input": {**VOLUME, "standardization": ["all"]}}, r"unknown standardization \['all'\]"),
        (
            {"lines": {**STREAMLINES, "connectivity_matrix": "m.npy", "connectivity_nb_blocs": 20}},
            "'connectivity_matrix', 'connectivity_nb_blocs', which this version of dwiml does not write",
        ),
    ],
)
def test_bad_content_gets_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence) as caught:
        load_config(path)
    assert "config.json" in str(caught.value)
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
    with pytest.raises(FileNotFoundError, match="none.json' not found"):
        load_config(tmp_path / "none.json")


def test_the_example_of_the_documentation_is_a_config():
    page = (Path(__file__).parents[2] / "docs" / "hdf5.rst").read_text()
    block = re.search(r"\.\. code-block:: json\n\n((?:    .*\n|\n)+)", page)[1]
    config = load_config(json.loads(textwrap.dedent(block)))
    assert [group.name for group in config.groups] == ["input", "wm_mask", "streamlines"]
    assert config.streamlines[0].dps_keys == ("bundle_id",)
