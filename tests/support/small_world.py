"""One of everything that the commands read, on the grid of the tiny HDF5 file: made in some seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
from dwi_ml_models import save_experiment, transformer
from scoring_support import save_lines, save_volume
from tests_support import AFFINE, NB_FEATURES, SHAPE, curved_streamlines, edited, write_hdf5
from without_volume import SMALL_AUTOENCODER

from dwiml import AutoencoderModel
from dwiml.cli import train
from dwiml.ops.regions import LabelRegions
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

TRAINING = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
TRAINING += ["--step_size", "2", "--max_epochs", "1", "--seed", "1", "--log_weights", "-q"]


def make_world(root: Path) -> Path:
    """Make the files below ``root`` (existing, empty), and return it.

    ``data.hdf5``; ``exps/exp`` and ``exps/other``, experiments trained on it; ``images/`` (input, mask, labels);
    ``lines.trk`` (``.tck``, ``.trx``); ``truth/`` of two bundles, one of them a tractogram outside, ``outside.trk``;
    ``matrix.npy`` with its labels; ``autoencoder/``, an untrained one, saved; ``classifier/``, of
    :func:`add_classifier`; ``subjects/`` with config and lists for ``create_hdf5``.
    """
    rng = np.random.default_rng(5)
    write_hdf5(root / "data.hdf5", {"sub-a": 12, "sub-b": 8}, {"sub-d": 6}, {"sub-e": 5})
    assert train.main(["learn2track", str(root / "data.hdf5"), str(root / "exps"), "exp", *TRAINING]) == 0
    shutil.copytree(root / "exps" / "exp", root / "exps" / "other")
    _write_images(root / "images", rng)
    lines = curved_streamlines(rng, 12)
    for suffix in ("trk", "tck"):
        save_lines(root / f"lines.{suffix}", lines, AFFINE, SHAPE)
    with TractogramWriter(root / "lines.trx", grid=Grid(AFFINE, SHAPE)) as writer:
        writer.append(np.concatenate(lines), [len(line) for line in lines])
    _write_truth(root, lines)
    AutoencoderModel(**SMALL_AUTOENCODER).save(root / "autoencoder")
    add_classifier(root)
    from dwiml.hdf5.inputs.connectivity import write_matrix
    from dwiml.ops.connectivity_matrix import ConnectivityMatrix

    regions = LabelRegions.from_volume(_labels())
    write_matrix(root / "matrix.npy", ConnectivityMatrix.from_dense(np.ones((3, 3))), regions)
    for name in ("sub-1", "sub-2", "sub-3"):
        shutil.copytree(root / "images", root / "subjects" / name)
        shutil.copy(root / "lines.trk", root / "subjects" / name)
    config = {
        "input": {"type": "volume", "files": ["input.nii.gz"], "standardization": "all", "std_mask": ["mask.nii.gz"]},
        "streamlines": {"type": "streamlines", "files": ["lines.trk"]},
    }
    (root / "config.json").write_text(json.dumps(config))
    for number, name in enumerate(("training", "validation", "testing"), start=1):
        (root / f"{name}.txt").write_text(f"sub-{number}\n")
    return root


def add_classifier(root: Path) -> None:
    """Add ``classifier/``, an experiment whose model tells streamlines that start in the lower half from the others.

    Its data are ``labelled.hdf5``: those of ``data.hdf5`` with the data per streamline ``valid``.
    """
    path = Path(shutil.copy(root / "data.hdf5", root / "labelled.hdf5"))
    with edited(path) as handle:
        for subject in handle.values():
            group = subject["streamlines"]
            points, offsets = group["data"][:], group["offsets"][:]
            valid = (points[offsets, 2:3] > np.median(points[:, 2])).astype(np.float32)
            group.require_group("data_per_streamline").create_dataset("valid", data=valid)
    words = ["streamline-classifier", str(path), str(root), "classifier", "--seed", "1", "-q", "--nb_points", "8"]
    words += ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--max_epochs", "1"]
    assert train.main([*words, "--nb_channels", "8", "8", "--batch_size_training", "50"]) == 0


def add_transformer(root: Path) -> None:
    """Add ``dwi_ml/``, an experiment of dwi_ml with an untrained transformer, and ``transformer/``, imported from it.

    The data are those of ``data.hdf5``, with the groups ``input`` and ``streamlines``.
    """
    from dwiml.importing.experiment import import_dwi_ml

    loader = {"input_group_name": "input", "streamline_group_name": "streamlines", "rng": 1}
    training = {"hdf5 file": str(root / "data.hdf5"), "Loader params": loader, "Patience": 3}
    with h5py.File(root / "data.hdf5") as file:
        nb_features = int(next(iter(file.values()))["input"].attrs["nb_features"])
    theirs = transformer("OriginalTransformerModel", nb_features=nb_features)
    for place in ("best_model", "checkpoint/model"):
        save_experiment(root / "dwi_ml", theirs, training=training, place=place)
    import_dwi_ml(root / "dwi_ml", root / "transformer")


def _labels() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[:4], labels[4:8], labels[8:] = 1, 2, 5
    return labels


def _write_images(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir()
    save_volume(folder / "input.nii.gz", rng.normal(size=(*SHAPE, NB_FEATURES)).astype(np.float32), AFFINE)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:10, 2:8, 2:7] = True
    save_volume(folder / "mask.nii.gz", mask, AFFINE)
    save_volume(folder / "labels.nii.gz", _labels(), AFFINE)


def _write_truth(root: Path, lines: list[np.ndarray]) -> None:
    folder = root / "truth"
    folder.mkdir()
    save_volume(folder / "labels.nii.gz", _labels(), AFFINE)
    save_lines(root / "outside.trk", lines[:6], AFFINE, SHAPE)
    save_lines(folder / "inside.trk", lines[6:], AFFINE, SHAPE)
    ends = {name: {"file": "labels.nii.gz", "label": label} for name, label in (("head", 1), ("tail", 5))}
    truth = {
        "first": {"tractogram": "inside.trk", **ends},
        "second": {"tractogram": "../outside.trk", "head": ends["head"], "tail": {"file": "labels.nii.gz", "label": 2}},
    }
    (folder / "ground_truth.json").write_text(json.dumps(truth))
