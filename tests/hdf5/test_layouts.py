"""Each layout of dwiml: a small dataset with the names of the pipeline becomes a file in one command, and trains."""

from __future__ import annotations

import gzip
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    Learn2TrackModel,
    MultiSubjectDataset,
    create_hdf5,
)
from dwiml.cli import create_hdf5 as command
from dwiml.hdf5.config import load_config
from dwiml.hdf5.layouts.layout import PRESETS, load_layout, preset_file
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

SHAPE = (8, 7, 6)
AFFINE = np.array([[-1.5, 0, 0, 61], [0, 2.0, 0, -97], [0, 0, 2.5, -43], [0, 0, 0, 1]])


def image(path: Path, nb_features: int = 0) -> None:
    """Write a volume of random values around 0, in which no direction is preferred, or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    rng = np.random.default_rng(len(str(path)))
    values = rng.normal(0, 3, (*SHAPE, nb_features)).astype(np.float32) if nb_features else mask
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def lines() -> list[np.ndarray]:
    """Return 12 straight streamlines of 10 points inside the volume, in mm."""
    rng = np.random.default_rng(3)
    ends = rng.uniform(0.2, 0.8, (12, 2, 3)) * SHAPE
    voxels = [start + (end - start) * np.linspace(0, 1, 10)[:, None] for start, end in ends]
    return [((line - 0.5) @ AFFINE[:3, :3].T + AFFINE[:3, 3]).astype(np.float32) for line in voxels]


def tractogram(path: Path) -> None:
    """Write the streamlines as .trk, .tck.gz or .trx; coordinates in voxel space, corner origin, for the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nib.streamlines.Tractogram(lines(), affine_to_rasmm=np.eye(4))
    if path.suffix == ".trx":
        points = (np.concatenate(lines()) - AFFINE[:3, 3]) @ np.linalg.inv(AFFINE[:3, :3]).T + 0.5
        with TractogramWriter(path, grid=Grid(AFFINE, SHAPE)) as writer:
            writer.append(points, np.full(12, 10))
    elif path.suffix == ".gz":
        nib.streamlines.save(content, str(path.with_suffix("")))
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
        path.with_suffix("").unlink()
    else:
        header = {
            "voxel_to_rasmm": AFFINE.astype(np.float32),
            "dimensions": SHAPE,
            "voxel_sizes": np.linalg.norm(AFFINE[:3, :3], axis=0),
            "voxel_order": "".join(aff2axcodes(AFFINE)),
        }
        nib.streamlines.save(content, str(path), header=header)


DWI = "qsirecon/derivatives/qsirecon-MRtrix3_act-HSVS/sub-{s}/dwi/sub-{s}_space-ACPC_"
SF = "{s}/ses-1/dwi/{s}_ses-1_"
# Names of the pipelines' publications and repositories: {preset: (a subject's volumes of SH or peaks, its masks, its
# tractograms, and other files that a layout must not read)}.
FILES: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {
    "tractoinferno": (
        ["{set}/sub-{s}/fodf/sub-{s}__fodf.nii.gz"],
        ["{set}/sub-{s}/mask/sub-{s}__mask_wm.nii.gz"],
        ["{set}/sub-{s}/tractography/sub-{s}__AF_L.trk", "{set}/sub-{s}/tractography/sub-{s}__CC_Fr_1.trk"],
        ["{set}/sub-{s}/dti/sub-{s}__fa.nii.gz", "{set}/sub-{s}/dwi/sub-{s}__dwi.nii.gz"],
    ),
    "tractoflow": (
        ["{s}/FODF_Metrics/{s}__fodf.nii.gz"],
        ["{s}/Segment_Tissues/{s}__mask_wm.nii.gz"],
        ["{s}/PFT_Tracking/{s}__pft_tracking_prob_interface_seed_0.trk"],
        [
            "{s}/FODF_Metrics/{s}__peaks.nii.gz",
            "{s}/Segment_Tissues/{s}__mask_gm.nii.gz",
            "{s}/Local_Tracking/{s}__local_tracking_prob_fa_seeding_fa_mask_seed_0.trk",
            "Mean_FRF/mean_frf.txt",
        ],
    ),
    "sf-tractomics": (
        [SF + "model-csd_param-sh_dwimap.nii.gz"],
        [SF + "label-WM_desc-fastseg_mask.nii.gz"],
        [SF + "desc-pft_tractogram.trk"],
        [
            SF + "model-csd_param-peaks_dwimap.nii.gz",
            SF + "desc-local_tractogram.trk",
            "{s}/ses-1/dwi/bundles/{s}_ses-1_tract-ArcuateFasciculus_hemi-left_track-sdstream_tractogram.trk",
            "pipeline_info/execution_report.html",
            "{s}/ses-1/anat/{s}_ses-1_space-DWI_T1w.nii.gz",
        ],
    ),
    "bids": (
        ["sub-{s}/dwi/sub-{s}_model-csd_param-wm_dwimap.nii.gz"],
        ["sub-{s}/dwi/sub-{s}_label-WM_mask.nii.gz"],
        ["sub-{s}/dwi/sub-{s}_track-ifod2_tractogram.trx"],
        [
            "sub-{s}/dwi/sub-{s}_model-csd_param-gm_dwimap.nii.gz",
            "sub-{s}/dwi/sub-{s}_desc-brain_mask.nii.gz",
            "sub-{s}/dwi/sub-{s}_track-ifod2_tractogram.json",
        ],
    ),
    "qsirecon": (
        [DWI + "model-csd_param-fod_label-WM_dwimap.nii.gz"],
        ["qsiprep/sub-{s}/dwi/sub-{s}_space-ACPC_desc-brain_mask.nii.gz"],
        [DWI + "model-ifod2_streamlines.tck.gz"],
        [
            "qsiprep/sub-{s}/dwi/sub-{s}_space-ACPC_desc-preproc_dwi.nii.gz",
            "qsiprep/sub-{s}/anat/sub-{s}_space-ACPC_desc-brain_mask.nii.gz",
            DWI + "model-csd_param-fod_label-CSF_dwimap.nii.gz",
            "qsirecon/derivatives/qsirecon-DIPYDKI/sub-{s}/dwi/sub-{s}_space-ACPC_model-tensor_param-fa_dwimap.nii.gz",
        ],
    ),
    "hcp-tractseg": (
        ["{s}/mrtrix_peaks.nii.gz"],
        ["{s}/T1w/Diffusion/nodif_brain_mask.nii.gz"],
        ["{s}/tracts/AF_left.trk", "{s}/tracts/AF_right.trk"],
        ["{s}/T1w/Diffusion/data.nii.gz", "{s}/bundle_masks.nii.gz"],
    ),
    "pyafq": (
        ["sub-{s}/ses-1/models/sub-{s}_ses-1_model-csd_param-fod_dwimap.nii.gz"],
        ["sub-{s}/ses-1/sub-{s}_ses-1_desc-brain_mask.nii.gz"],
        ["sub-{s}/ses-1/tractography/sub-{s}_ses-1_tractography.trx"],
        [
            "sub-{s}/ses-1/models/sub-{s}_ses-1_model-tensor_param-fa_dwimap.nii.gz",
            "sub-{s}/ses-1/bundles/sub-{s}_ses-1_desc-LeftArcuate_tractography.trx",
            "sub-{s}/ses-1/sub-{s}_ses-1_desc-bundles_tractography.trx",
        ],
    ),
}
DIPY = {"kind": "sh", "axes": "voxel", "basis": "descoteaux07", "legacy": True, "full_basis": False}
MRTRIX = {"kind": "sh", "axes": "rasmm", "basis": "tournier07", "legacy": False, "full_basis": False}
DIRECTIONS = {
    **dict.fromkeys(("tractoinferno", "tractoflow", "sf-tractomics", "pyafq"), DIPY),
    **dict.fromkeys(("qsirecon", "bids"), MRTRIX),
    "hcp-tractseg": {"kind": "peaks", "axes": "rasmm"},
}
# The sidecar of the proposal for BIDS.
SIDECAR = {
    "OrientationEncoding": {
        "Type": "sh",
        "EncodingAxis": 3,
        "Reference": "xyz",
        "SphericalHarmonicBasis": "MRtrix3",
        "SphericalHarmonicDegree": 2,
    }
}
SETS = {"01": "trainset", "02": "trainset", "03": "validset", "04": "testset"}
SPLIT = ["--split", "0.5", "0.25", "0.25"]


def dataset(root: Path, preset: str) -> Path:
    """Write four subjects with the names of a pipeline."""
    volumes, masks, tractograms, others = FILES[preset]
    for subject, of_set in SETS.items():
        for names, write in (
            (volumes, lambda path: image(path, 9 if preset == "hcp-tractseg" else 6)),
            (masks, image),
            (tractograms, tractogram),
            (others, lambda path: (path.parent.mkdir(parents=True, exist_ok=True), path.write_text("not read"))),
        ):
            for name in names:
                write(root / name.format(s=subject, set=of_set))
    if preset == "bids":
        for path in root.rglob("*_param-wm_dwimap.nii.gz"):
            path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(SIDECAR))
        rows = "".join(f"sub-{subject}\t{of_set}\n" for subject, of_set in SETS.items())
        (root / "participants.tsv").write_text(f"participant_id\tsplit\n{rows}sub-05\tn/a\n")
    return root


def train(hdf5_file: Path, root: Path) -> None:
    data = MultiSubjectDataset(hdf5_file)
    data.load_data()
    model = Learn2TrackModel(nb_features=data.nb_features["input"], step_size=1.0, rnn_layer_sizes=[8])
    trainer = DWIMLTrainerOneInput(
        model,
        root,
        "exp",
        DWIMLBatchIDSampler(data, "streamlines", batch_size_training=8),
        DWIMLBatchLoaderOneInput(data, model, "input", "streamlines"),
        max_epochs=1,
        max_batches_per_epoch_training=2,
        verbose=False,
    )
    trainer.train_and_validate()
    (line,) = [json.loads(text) for text in (root / "exp/logs/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(line["train_loss"])
    assert np.isfinite(line["valid_loss"])


def test_every_layout_has_a_test() -> None:
    assert set(FILES) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dataset_becomes_a_file_in_one_command_and_trains(
    tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root, out = dataset(tmp_path / "data", preset), tmp_path / "out.hdf5"
    split = [] if preset in ("bids", "tractoinferno") else SPLIT
    assert command.main([str(root), str(out), "--layout", preset, *split]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    names = {
        "sf-tractomics": "{s}_ses-1",
        "pyafq": "sub-{s}_ses-1",
        "tractoflow": "{s}",
        "hcp-tractseg": "{s}",
    }
    subjects = [names.get(preset, "sub-{s}").format(s=subject) for subject in SETS]
    with h5py.File(out) as handle:
        assert sorted(handle) == subjects
        sets = {name: list(handle.attrs[f"{name}_subjs"]) for name in ("training", "validation", "testing")}
        assert list(map(len, sets.values())) == [2, 1, 1]
        if not split:
            assert list(sets.values()) == [subjects[:2], subjects[2:3], subjects[3:]]
        masks = {"wm_mask", "brain_mask"} & set(handle[subjects[0]])
        assert len(masks) == 1
        nb_files = len(FILES[preset][2])
        for subject in subjects:
            lengths = handle[subject]["streamlines/lengths"][()]
            assert lengths.tolist() == [10] * 12 * nb_files
            mm = (handle[subject]["streamlines/data"][()] - 0.5) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
            np.testing.assert_allclose(mm, np.concatenate(lines() * nb_files), atol=1e-3)
            assert handle[subject]["input/data"].shape == (*SHAPE, 9 if preset == "hcp-tractseg" else 6)
            (read,) = json.loads(handle[subject]["input"].attrs["directions"])["read"]
            assert {key: read[key] for key in DIRECTIONS[preset]} == DIRECTIONS[preset]
            assert handle[subject][masks.copy().pop()]["data"][()].sum() == 6 * 5 * 4
        # What is recorded can be read back, and has the same groups.
        assert list(json.loads(handle.attrs["groups_config"])) == ["input", *masks, "streamlines"]
    for name, listed in sets.items():
        assert f"  {name:<10}  {', '.join(listed)}\n" in f"{printed}\n"
    if preset == "tractoflow":
        assert "Left out, because they have no file of any group: 'Mean_FRF'." in caplog.text
    else:
        assert not caplog.messages
    train(out, tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_printed_layout_is_a_layout_file(tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--print_layout", preset])
    assert caught.value.code == 0
    path = tmp_path / "mine.json"
    path.write_text(capsys.readouterr().out)
    mine, packaged = load_layout(path), load_layout(preset)
    assert (mine.subjects, mine.sets, mine.participants, mine.groups) == (
        packaged.subjects,
        packaged.sets,
        packaged.participants,
        packaged.groups,
    )
    assert [group.name for group in load_config(None, base=mine.groups).groups][::2] == ["input", "streamlines"]


def test_all_layouts_are_part_of_the_package() -> None:
    content = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"hdf5/layouts/presets/*.json"' in content
    assert preset_file("bids").parent.match("dwiml/hdf5/layouts/presets")


GROUPS: dict[str, Any] = {"streamlines": {"type": "streamlines", "files": ["x[_{session}].trk"]}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "must be a JSON object with the keys 'about', 'subjects'"),
        ({"subjects": ["{subject}"]}, "has no key 'groups'"),
        ({"subject": ["{subject}"], "groups": {}}, "has the unknown key 'subject'; it may have: 'about', 'subjects'"),
        ({"subjects": [], "groups": {}}, "'subjects' is empty"),
        ({"subjects": ["sub"], "groups": {}}, "'sub' in 'subjects' has no {subject}"),
        ({"subjects": ["[{subject}_{session}]"], "groups": {}}, "has no {subject}"),
        ({"subjects": ["/data/{subject}"], "groups": {}}, "must be relative to the folder of the dataset, got '/data/"),
        ({"subjects": ["../{subject}"], "groups": {}}, "must be relative to the folder of the dataset, got"),
        ({"subjects": [3], "groups": {}}, r"'subjects' must be a list of non-empty strings, got \[3\]"),
        ({"subjects": "{set}/{subject}", "groups": {}}, "'subjects' and the key 'sets' must be given together"),
        ({"subjects": "{subject}", "sets": {"a": "train"}, "groups": {}}, "whose values are among 'training', 'valid"),
        ({"subjects": "{subject}", "sets": {"a": []}, "groups": {}}, r"whose values are among .*, got {'a': \[\]}"),
        ({"subjects": "{subject}", "groups": []}, "'groups' must be an object"),
        ({"subjects": "{subject}", "groups": {"a": "x.trk"}}, "'groups' must be an object"),
        (
            {"subjects": "{subject}", "groups": GROUPS},
            r"group 'streamlines' has {session} in 'x.*', but 'subjects' has",
        ),
        (
            {
                "subjects": "{subject}[/{session}]",
                "groups": {"a": {"type": "volume", "files": ["x.nii"], "std_mask": "{session}.nii"}},
            },
            r"group 'a' has {session} in '{session}.nii', but a subject may have no session; put the part in brackets",
        ),
    ],
)
def test_a_bad_layout_is_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^Layout '{re.escape(str(path))}'.* ?{sentence}") as caught:
        load_layout(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no layout 'bid'; did you mean 'bids'"):
        load_layout("bid")
    with pytest.raises(FileNotFoundError, match="Layout 'none.json' was not found"):
        load_layout("none.json")
    assert command.main([str(tmp_path), str(tmp_path / "o.hdf5"), "--layout", "nothing"]) == 2
    assert "There is no layout 'nothing'; the layouts are 'bids', " in capsys.readouterr().err


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Sessions for two persons, none for a third one; streamlines as .trk."""
    root = tmp_path / "derivatives/mine"
    for name in ("sub-01/ses-a/dwi/sub-01_ses-a", "sub-01/ses-b/dwi/sub-01_ses-b", "sub-02/ses-a/dwi/sub-02_ses-a"):
        image(root / f"{name}_model-csd_param-wm_dwimap.nii.gz", 6)
        image(root / f"{name}_label-WM_mask.nii.gz")
        tractogram(root / f"{name}_tractogram.trx")
    image(root / "sub-03/dwi/sub-03_model-csd_param-wm_dwimap.nii.gz", 6)
    image(root / "sub-03/dwi/sub-03_label-WM_mask.nii.gz")
    tractogram(root / "sub-03/dwi/sub-03_tractogram.trx")
    return root


def test_sessions_of_a_person_are_in_one_set(bids: Path, tmp_path: Path) -> None:
    everything = {"sub-01_ses-a", "sub-01_ses-b", "sub-02_ses-a", "sub-03"}
    seen = set()
    for seed in range(6):
        split = {"split": (0.4, 0.3, 0.3), "split_seed": seed}
        summary = create_hdf5(bids, tmp_path / "out.hdf5", layout="bids", overwrite=True, **split)
        sets = summary.subjects
        assert {name for names in sets.values() for name in names} == everything
        (together,) = [names for names in sets.values() if "sub-01_ses-a" in names]
        assert "sub-01_ses-b" in together
        seen.add(str(sets))
    options = MultiSubjectDataset(tmp_path / "out.hdf5").provenance["options"]
    assert options == {"remove_invalid": False, "allow_missing": False, "sets": "split 0.4 0.3 0.3, seed 5"}
    assert len(seen) > 1
    # Lists name persons or single sessions.
    lists: dict[str, Any] = {"training": ["sub-01"], "validation": ["sub-02_ses-a"]}
    summary = create_hdf5(bids, tmp_path / "out.hdf5", layout="bids", overwrite=True, **lists)
    assert summary.subjects == {
        "training": ["sub-01_ses-a", "sub-01_ses-b"],
        "validation": ["sub-02_ses-a"],
        "testing": [],
    }
    assert summary.unused == ["sub-03"]
    lists["testing"] = ["sub-01_ses-b", "sub-09"]
    with pytest.raises(FileNotFoundError, match="There is no folder for 'sub-09'; found: 'sub-01_ses-a', "):
        create_hdf5(bids, tmp_path / "out.hdf5", layout="bids", overwrite=True, **lists)
    lists["testing"] = ["sub-01_ses-b"]
    with pytest.raises(ValueError, match=r"'sub-01_ses-b' is listed 2 times \(training and testing\)"):
        create_hdf5(bids, tmp_path / "out.hdf5", layout="bids", overwrite=True, **lists)


def test_participants(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.hdf5"
    arguments = [str(bids), str(out), "--layout", "bids", "-f"]
    table = tmp_path / "participants.tsv"

    def refused() -> str:
        assert command.main(arguments) == 2
        return capsys.readouterr().err

    assert "does not say which subjects are for training (4 subjects were found); give lists of" in refused()
    table.write_text("participant_id\tage\nsub-01\t9\n")
    assert "participants.tsv' has no column 'split' or 'set'); give lists" in refused()
    table.write_text("participant_id\tset\nsub-01\ttrain\nsub-02\tVal\n")
    assert "participants.tsv' has no row for 'sub-03'; add it" in refused()
    table.write_text("participant_id\tset\nsub-01\ttrain\nsub-02\tother\n")
    assert "the column 'set' has 'other' for 'sub-02'; it must be one of 'train', 'training', " in refused()
    table.write_text("participant_id\tset\nsub-01\ttrain\nsub-01\ttest\n")
    assert "the column 'set' has two values for 'sub-01'; give one" in refused()
    table.write_text("participant_id\tset\nsub-01\tn/a\nsub-02\tn/a\nsub-03\tn/a\n")
    assert "There is no training subject (the column 'set' of participants.tsv); found: 'sub-01_ses-a'" in refused()
    table.write_bytes(b"\xff\xfe")
    assert "participants.tsv' is not a tab-separated text file" in refused()
    table.write_text("participant_id\tset\nsub-01\ttrain\nsub-02\tVal\nsub-03\tn/a\nsub-04\ttest\n")
    assert command.main(arguments) == 0
    assert capsys.readouterr().out.endswith(
        "Sets, from the column 'set' of participants.tsv:\n"
        "  training    sub-01_ses-a, sub-01_ses-b\n"
        "  validation  sub-02_ses-a\n"
        "  testing     none\n"
        "  not used    sub-03\n"
    )
    before = out.read_bytes()
    assert command.main([str(bids), str(table), "--layout", "bids", "-f"]) == 2
    assert "participants.tsv' is an input" in capsys.readouterr().err
    assert command.main([*arguments, "--split", "0.4", "0.3", "0.3"]) == 0
    assert "Sets, from split 0.4 0.3 0.3, seed 0:" in capsys.readouterr().out
    assert out.read_bytes() != before


def test_a_config_and_lists_go_with_a_layout(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, config, listed = tmp_path / "out.hdf5", tmp_path / "more.json", tmp_path / "listed.txt"
    for path in bids.rglob("*_tractogram.trx"):
        tractogram(path.with_suffix(".trk"))
        path.unlink()
    mask = "sub-{subject}[_ses-{session}]_label-WM_mask.nii.gz"
    groups = {
        "streamlines": {"type": "streamlines", "files": ["*_tractogram.trk"]},
        "other": {"type": "volume", "files": [mask, "{root}/shared/{subject}.nii.gz"]},
    }
    config.write_text(json.dumps(groups))
    listed.write_text("sub-01_ses-b\n")
    image(bids / "shared/01.nii.gz")
    arguments = [str(bids), str(out), "--layout", "bids", "-f"]
    # With and without the config, before and after the options.
    assert command.main([*arguments[:2], str(config), str(listed), *arguments[2:]]) == 0
    printed = capsys.readouterr().out
    assert "sub-01_ses-b_label-WM_mask.nii.gz (1), shared/01.nii.gz (1)" in printed
    with h5py.File(out) as handle:
        assert list(handle) == ["sub-01_ses-b"]
        assert sorted(handle["sub-01_ses-b"]) == ["input", "other", "streamlines", "wm_mask"]
        assert json.loads(handle.attrs["groups_config"])["other"] == groups["other"]
    first = out.read_bytes()
    assert command.main([*arguments, str(config), str(listed)]) == 0
    assert len(out.read_bytes()) == len(first)
    assert command.main([*arguments, str(listed)]) == 2
    assert "sub-01_ses-b_*tractogram.trx' was not found" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([*arguments, str(config), "a.txt", "b.txt", "c.txt", "d.txt"])
    assert "too many arguments: d.txt" in capsys.readouterr().err
    assert command.main([*arguments, str(config), str(listed), "--split", "0.8", "0.1", "0.1"]) == 2
    assert "Give either lists of subjects or fractions (--split 0.8 0.1 0.1), not both." in capsys.readouterr().err


def test_what_is_required_without_a_layout(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"streamlines": {"type": "streamlines", "files": ["*.trk"]}}))
    for words, sentence in (([], "CONFIG.json or --layout"), ([str(config)], "TRAINING.txt, --split or --layout")):
        assert command.main([str(bids), str(tmp_path / "out.hdf5"), *words]) == 2
        assert f"error: {sentence} is required; the arguments are FOLDER" in capsys.readouterr().err
    with pytest.raises(ValueError, match="give config or layout"):
        create_hdf5(bids, tmp_path / "out.hdf5", training=["sub-01"])


def test_all_files_of_an_ambiguous_pattern_are_listed(bids: Path, tmp_path: Path) -> None:
    image(bids / "sub-03/dwi/sub-03_model-csd_desc-old_param-wm_dwimap.nii.gz", 6)
    sentence = (
        r"^Group 'input': 'sub-03_\*model-csd_\*param-wm_dwimap.nii.gz' matches 2 files of subject 'sub-03' "
        r"\('sub-03_model-csd_desc-old_param-wm_dwimap.nii.gz', 'sub-03_model-csd_param-wm_dwimap.nii.gz'\) and 1 file "
        r"of subject 'sub-01_ses-a' \('sub-01_ses-a_model-csd_param-wm_dwimap.nii.gz'\)"
    )
    with pytest.raises(ValueError, match=sentence):
        create_hdf5(bids, tmp_path / "out.hdf5", None, ["sub-01_ses-a"], ["sub-03"], layout="bids")


def test_one_subject_in_two_places(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", "tractoinferno")
    (root / "testset/sub-01").mkdir()
    sentence = "two folders for subject 'sub-01': 'testset/sub-01' and 'trainset/sub-01'"
    with pytest.raises(ValueError, match=sentence):
        create_hdf5(root, tmp_path / "out.hdf5", layout="tractoinferno")
    with pytest.raises(
        FileNotFoundError, match=r"has no folder 'derivatives/\{set\}/sub-\{subject\}', '\{set\}/sub-.*'data'"
    ):
        create_hdf5(tmp_path, tmp_path / "out.hdf5", layout="tractoinferno")


def test_tractoinferno_from_its_root(tmp_path: Path) -> None:
    dataset(tmp_path / "data/derivatives", "tractoinferno")
    summary = create_hdf5(tmp_path / "data", tmp_path / "out.hdf5", layout="tractoinferno")
    assert summary.subjects == {"training": ["sub-01", "sub-02"], "validation": ["sub-03"], "testing": ["sub-04"]}
    assert summary.origin == "the folders 'trainset', 'validset', 'testset'"


def test_an_image_of_mrtrix_must_be_converted(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", "qsirecon")
    name = DWI.format(s="02") + "model-csd_param-fod_label-WM_dwimap"
    (root / f"{name}.nii.gz").rename(root / f"{name}.mif.gz")
    sentence = (
        r"'sub-02': '.*' was not found; convert '.*/data/.*_dwimap.mif.gz' first, in its folder: mrconvert "
        r"sub-02_space-ACPC_model-csd_param-fod_label-WM_dwimap.mif.gz .*_dwimap.nii.gz\.$"
    )
    with pytest.raises(FileNotFoundError, match=sentence):
        create_hdf5(root, tmp_path / "out.hdf5", layout="qsirecon", split=(0.5, 0.25, 0.25))


def test_the_layout_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "layouts.rst").read_text()
    block = re.search(r"\.\. code-block:: json\n\n((?:    .*\n|\n)+)", page)[1]
    layout = json.loads(textwrap.dedent(block))
    folder = tmp_path / "data/derivatives/sub-01/ses-2/dwi"
    image(folder / "sub-01_ses-2_fodf.nii.gz", 6)
    image(tmp_path / "data/t1/sub-01_T1w.nii.gz")
    tractogram(folder / "sub-01_ses-2_af.trk")
    (tmp_path / "data/participants.tsv").write_text("participant_id\tsplit\nsub-01\ttrain\n")
    summary = create_hdf5(tmp_path / "data", tmp_path / "out.hdf5", layout=layout)
    assert summary.subjects["training"] == ["sub-01_ses-2"]
    assert summary.nb_features == {"input": 7}
    # The table of the presets names them all.
    assert re.findall(r"   \* - ``([\w-]+)``", page) == list(PRESETS)
