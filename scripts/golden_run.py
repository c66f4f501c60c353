"""Train, resume, track and score on the built-in subjects, and write digests of all results.

It checks that a change of the code changes no result: run ``python scripts/golden_run.py before.json`` before the
change, and ``python scripts/golden_run.py after.json --compare before.json`` after it. The digests are valid for one
machine and one version of torch. It takes less than a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    Learn2TrackModel,
    MultiSubjectDataset,
    TensorSequence,
    seed_everything,
)
from dwiml.cli.main import main as dwiml

MODEL = ("--nb_previous_dirs", "2", "--neighborhood_type", "axes", "--neighborhood_radius", "1", "--step_size", "3")
BATCHES = ("--batch_size_training", "60", "--max_batches_per_epoch_training", "8", "--max_epochs", "2", "--seed", "4")
AUGMENTATION = ("--reverse_ratio", "0.5", "--split_ratio", "0.2", "--noise_gaussian_size_forward", "0.08")
WANDERING = ("--noise_correlated_size", "0.3")
TRACKING_PHASE = ("--tracking_phase_nb_segments_init", "3", "--tracking_phase_max_batches", "1")
# What depends on the moment and the machine.
TIMES = ("duration_s", "points_per_s", "data_wait_s", "time", "memory_mb")


def main() -> int:
    """Make the digests; with ``--compare``, tell what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--compare", type=Path, help="JSON file of another run; exit code 1 where something differs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measured()
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.compare is None:
        return 0
    expected = json.loads(arguments.compare.read_text())
    different = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    print("Different: " + ", ".join(different) if different else f"All {len(found)} digests are the same.")
    return 1 if different else 0


def measured() -> dict[str, str]:
    """Return the digest of each result, by name."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run("phantom", "phantom", "--size", "small", "--nb_subjects", "3")
        lists = [f"phantom/{name}.txt" for name in ("training", "validation", "testing")]
        run("create_hdf5", "phantom/subjects", "data.hdf5", "phantom/config.json", *lists)
        groups = ("--input_group_name", "input", "--streamline_group_name", "streamlines")
        for name, options in (
            ("gru", (*AUGMENTATION, *WANDERING, *TRACKING_PHASE, "--ema_decay", "0.9", "--nb_cpu_processes", "2")),
            ("sphere", ("--dg_key", "sphere-classification", "--dg_args", '{"add_eos": true}', *AUGMENTATION)),
        ):
            run("train", "learn2track", "data.hdf5", "experiments", name, *groups, *MODEL, *BATCHES, *options, "-q")
        stop_and_resume()
        subject = Path("phantom/testing.txt").read_text().split()[0]
        truth = f"phantom/subjects/{subject}"
        tracking = ("--tracking_mask", "wm_mask", "--seeding_mask", f"{truth}/labels/endpoints.nii.gz", "--seed", "3")
        run("track", "experiments/gru", subject, "gru.trk", *tracking)
        probabilistic = ("--algo", "prob", "--eos_stopping_thresh", "0.9", "--mask_interpolation", "trilinear")
        run("track", "experiments/sphere", subject, "sphere.tck", *tracking, *probabilistic)
        run("score", "gru.trk", "--ground_truth", truth, "--json", "scores.json")
        found = {f"weights of {name}": digest_of_weights(name) for name in ("gru", "sphere", "stopped")}
        found |= {f"log of {name}": digest_of_log(name) for name in ("gru", "sphere", "stopped")}
        found |= {path: digest_of_streamlines(path) for path in ("gru.trk", "sphere.tck")}
        found["scores"] = digest(without_places(json.loads(Path("scores.json").read_text())))
        os.chdir("/")
    return found


def run(*arguments: str) -> None:
    """Run a command of dwiml."""
    if dwiml(arguments) != 0:
        sys.exit(f"dwiml {' '.join(arguments)} failed")


class Stopped(DWIMLTrainerOneInput):
    """Is told to stop within its second epoch."""

    stop_at = 13

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        """Count batches, and send the signal of a job's end."""
        self.nb_batches = getattr(self, "nb_batches", 0) + 1
        if self.nb_batches == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().run_one_batch(targets, ids_per_subj)


def stop_and_resume() -> None:
    """Train, stop in the middle of an epoch, and go on with new objects."""
    for stop_at, resume in ((13, "never"), (0, "must")):
        seed_everything(5)
        dataset = MultiSubjectDataset("data.hdf5", lazy=True)
        dataset.load_data(load_testing=False)
        model = Learn2TrackModel(nb_features=dataset.nb_features["input"], rnn_layer_sizes=[16], dropout=0.0)
        sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=40)
        loader = DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines", noise_gaussian_size_loss=0.05)
        trainer = Stopped(
            model,
            "experiments",
            "stopped",
            sampler,
            loader,
            max_epochs=2,
            max_batches_per_epoch_training=8,
            max_batches_per_epoch_validation=4,
            resume=resume,
            verbose=False,
        )
        trainer.stop_at = stop_at
        try:
            trainer.train_and_validate()
        except SystemExit:
            continue


def digest(value: Any) -> str:
    """Return the SHA-256 of what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_weights(experiment: str) -> str:
    """Return the digest of the last weights and of the best ones."""
    found = hashlib.sha256()
    for path in ("checkpoint/latest.pt", "best_model/model_state.pt"):
        state = torch.load(f"experiments/{experiment}/{path}", weights_only=True)
        for name, tensor in sorted(state.get("model", state).items()):
            found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def digest_of_log(experiment: str) -> str:
    """Return the digest of all metrics but those of time."""
    lines = Path(f"experiments/{experiment}/logs/metrics.jsonl").read_text().splitlines()
    return digest([{k: v for k, v in json.loads(line).items() if not k.endswith(TIMES)} for line in lines])


def digest_of_streamlines(path: str) -> str:
    """Return the digest of a tractogram's points."""
    streamlines = nib.streamlines.load(path).streamlines
    found = hashlib.sha256(np.asarray([len(each) for each in streamlines]).tobytes())
    found.update(streamlines.get_data().tobytes())
    return found.hexdigest()


def without_places(scores: Any) -> Any:
    """Return scores without the paths of their files."""
    if isinstance(scores, dict):
        return {k: without_places(v) for k, v in scores.items() if k not in ("tractogram", "ground_truth")}
    return [without_places(each) for each in scores] if isinstance(scores, list) else scores


if __name__ == "__main__":
    sys.exit(main())
