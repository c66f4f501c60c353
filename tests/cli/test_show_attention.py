"""``dwiml show_attention``, run for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import dwiml.viz.attention
from dwiml.cli.main import main

GROUPS = ["--input_group_name", "input", "--streamline_group_name", "streamlines"]
SIZES = ["--input_embedded_size", "8", "--nb_heads", "2", "--nb_layers_encoder", "2", "--nb_layers_decoder", "1"]


@pytest.fixture(scope="module")
def experiment(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    options = [*GROUPS, *SIZES, "--step_size", "2", "--seed", "1", "--max_epochs", "1", "-q"]
    assert main(["train", "transformer-src-and-tgt", str(tiny_hdf5), str(folder), "exp", *options]) == 0
    return folder / "exp"


def test_matrices_and_streamlines(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["show_attention", str(experiment), "sub-e", "--out", str(out), "--streamlines", "4", "0"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == f"Attention along 2 streamlines of sub-e (testing set); results in {out}\n"
    assert printed.err == ""
    groups = ("cross", "decoder", "encoder")
    expected = ["attention_0.png", "attention_4.png", *(f"attention_{group}.trk" for group in groups)]
    assert sorted(path.name for path in out.iterdir()) == [
        *expected,
        *(f"streamlines_{group}.png" for group in groups),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    assert nib.streamlines.load(out / "attention_cross.trk").tractogram.data_per_streamline["id"].ravel().tolist() == [
        4,
        0,
    ]
    assert main(command) == 2
    assert "exists; replace the results with -f." in capsys.readouterr().err
    assert main([*command, "-f"]) == 0


@pytest.mark.slow
def test_one_group_by_head_of_streamlines_drawn_at_random(experiment: Path, tmp_path: Path) -> None:
    command = ["show_attention", str(experiment), "sub-d", "--nb", "2", "--seed", "3", "--group", "encoder"]
    command += ["--layer", "1", "--point", "-1"]
    for name, head in (("a", "all"), ("b", "1"), ("c", "all")):
        assert main([*command, "--head", head, "--out", str(tmp_path / name)]) == 0
    names = [[path.name for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b", "c")]
    assert names[0] == names[1] == names[2]
    assert [name.rpartition("_")[2] for name in names[0]] == ["encoder.png"] * 2 + ["encoder.trk", "encoder.png"]
    tractograms = [(tmp_path / name / "attention_encoder.trk").read_bytes() for name in ("a", "b", "c")]
    assert tractograms[0] == tractograms[2] != tractograms[1]


@pytest.mark.slow
def test_titles_name_single_layers_and_older_results_are_named(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    plot = dwiml.viz.attention.plot_attended_streamlines

    def noted(drawn: Any, *, color: str, title: str) -> Any:
        titles.append(title)
        return plot(drawn, color=color, title=title)

    monkeypatch.setattr(dwiml.viz.attention, "plot_attended_streamlines", noted)
    command = ["show_attention", str(experiment), "sub-e", "--out", str(tmp_path), "--group", "encoder", "-f"]
    for options in ([], ["--layer", "0"], ["--layer", "1", "--head", "0"]):
        assert main([*command, "--streamlines", "0", *options]) == 0
        printed = capsys.readouterr().out
    ends = [title.partition("encoder, ")[2] for title in titles]
    assert ends == ["mean over layers 0, 1 and heads 0, 1", "layer 0, mean over heads 0, 1", "layer 1, head 0"]
    assert f"Results of an earlier run are still in {tmp_path}: 'attention_0.png'.\n" in printed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["sub-x"], "Subject 'sub-x' not found in"),
        (["all"], "Subject 'all' not found in"),
        (["sub-a", "--subset", "testing"], "it has: testing: sub-e."),
        (["sub-a", "--nb", "0"], "--nb must be a whole number of at least 1, got 0."),
        (["sub-e", "--streamlines", "5"], "Subject 'sub-e' has 5 streamlines, numbered from 0; there is no number 5."),
        (["sub-a", "--group", "self"], "has no attention named 'self'; it has: 'encoder', 'decoder', 'cross'."),
        (["sub-a", "--layer", "7"], "there is no layer 7."),
        (["sub-a", "--head", "2"], "there is no head 2."),
        (["sub-a", "--head", "first"], "--head must be numbers of heads, from 0, or 'all', got first."),
        (["sub-a", "--point", "5000"], "there is no point 5000."),
        (["sub-a", "--seed", "-1"], "seed must be an integer from 0"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    subject, *others = options
    assert main(["show_attention", str(experiment), subject, "--out", str(tmp_path / "out"), *others]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_places_where_nothing_may_be_written(
    experiment: Path, tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["show_attention", str(experiment), "sub-e", "--nb", "1", "--group", "cross", "-f", "--out"]
    assert main([*command, str(experiment / "attention")]) == 2
    assert "is inside the experiment" in capsys.readouterr().err
    (tmp_path / "attention_cross.trk").hardlink_to(tiny_hdf5)
    assert main([*command, str(tmp_path)]) == 2
    assert "is an input" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert main([*command, str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


def test_a_model_without_attention(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*GROUPS, "--rnn_layer_sizes", "4", "--max_epochs", "1", "-q"]
    assert main(["train", "learn2track", str(tiny_hdf5), str(tmp_path), "exp", *options]) == 0
    capsys.readouterr()
    assert main(["show_attention", str(tmp_path / "exp"), "sub-a", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: Learn2TrackModel has no attention to show; transformers have")


OWN = """
import torch

from dwiml import ModelWithDirectionGetter, ModelWithOneInput


class Equal(ModelWithOneInput, ModelWithDirectionGetter):
    def __init__(self, *, name_of_group="own", **kwargs):
        super().__init__(**kwargs)
        self.name_of_group = name_of_group
        self.instantiate_direction_getter(self.embedded_input_size)

    def forward(self, inputs, streamlines):
        return self.direction_getter(self.embed_inputs(inputs))

    def attention(self, inputs, streamlines):
        nb = len(inputs.data)
        weights = torch.tril(torch.ones(nb, nb)) / torch.arange(1, nb + 1)[:, None]
        return {self.name_of_group: [weights.expand(1, 3, nb, nb)]}
"""


@pytest.mark.slow
def test_a_model_of_ones_own_with_equal_attention(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "equal.py").write_text(OWN)
    name = f"{tmp_path / 'equal.py'}:Equal"
    for group, experiment in (("own", "good"), ("../own", "bad")):
        options = [*GROUPS, "--name_of_group", group, "--max_epochs", "1", "-q"]
        assert main(["train", name, str(tiny_hdf5), str(tmp_path), experiment, *options]) == 0
    command = ["show_attention", str(tmp_path / "good"), "sub-e", "--out", str(tmp_path / "out"), "--nb", "2"]
    assert main(command) == 2
    assert "if you trust its code" in capsys.readouterr().err
    assert main([*command, "--model_class", name, "--head", "2"]) == 0
    tractogram = nib.streamlines.load(tmp_path / "out" / "attention_own.trk").tractogram
    for ratios, weights in zip(*(tractogram.data_per_point[each] for each in ("ratio", "weight")), strict=True):
        np.testing.assert_allclose(ratios, 1, rtol=1e-5)
        nb = len(weights)
        expected = [sum(1 / (i + 1) for i in range(j, nb)) / (nb - j) for j in range(nb)]
        np.testing.assert_allclose(weights[:, 0], expected, rtol=1e-5)
    command = ["show_attention", str(tmp_path / "bad"), "sub-e", "--out", str(tmp_path / "in"), "--model_class", name]
    for more in ([], ["--head", "all"]):
        assert main([*command, *more]) == 2
        assert "'../own'" in capsys.readouterr().err
    assert not (tmp_path / "in").exists()
