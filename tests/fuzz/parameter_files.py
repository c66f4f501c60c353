"""Files of parameters that were changed: those of an experiment, and those of its best model.

Run as a program, it resumes, evaluates and tracks with some of them, and prints what came of them:
``parameter_files.py FIRST LAST``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import FILES, World, copied, holder_of, main_program, places
from fuzzing import Outcome, run_watched

from dwiml.cli.main import main

Rng = np.random.Generator

# Sizes that a constructor would believe.
SIZES = {
    "rnn_layer_sizes": ([30_000], [10**9], [10**30, 1], [4] * 100_000, [8, 8, 8], [], "88", [8.5], [-8], [True]),
    "nb_features": (10**6, 10**9, 10**12, 10**30, 0, -4, 4.0, "4", None, [4]),
    "nb_previous_dirs": (10**5, 10**9, 10**30, -1, 2, 1.5, None),
    "neighborhood_radius": (10**6, 10**12, 3, -1, None, 1.5),
    "neighborhood_type": ("grid", "axes", "", 3, []),
    "neighborhood_resolution": (1e-300, 1e300, -1, 0, "1", None),
    "input_embedding_key": ("nn_embedding", "mlp_embedding", "cnn_embedding", "other", None, 3, []),
    "input_embedding_args": (
        {"hidden_sizes": [10**9]},
        {"hidden_sizes": [8] * 10**5},
        {"nb_filters": [10**5]},
        [],
        "x",
    ),
    "input_embedded_size": (10**9, 10**30, -1, 8, None, "8"),
    "prev_dirs_embedding_key": ("nn_embedding", "no_embedding", "cnn_embedding", [], 3),
    "prev_dirs_embedded_size": (10**9, 10**30, 3, -1),
    "dg_key": ("sphere-classification", "l2-regression", "other", None, [], {}),
    "dg_args": ({"output_size": 7}, {"output_size": 10**12}, {"sphere": "../../x"}, {"dropout": 9}, [], "x", {"": 1}),
    "step_size": (1e-6, 1e-300, 1e300, 0, -1, "2", [], None),
    "nb_points": (10**6, 10**12, 1, 2.5, "9"),
    "compress_lines": (1e-300, 1e300, -1, "x"),
    "dropout": (1, -1, 1e300, "x", None),
    "rnn_key": ("lstm", "other", None, [], "GRU"),
    "batch_size_training": (10**12, 1e300, 0, -1, 0.5, "x", None, []),
    "cache_size": (10**12, 0, -1, None, "x", 1.5),
    "nb_subjects_per_batch": (10**12, 0, "x", 1.5),
    "cycles": (10**12, 0, "x"),
    "balance_by": ("id", "nowhere", "", 3, []),
    "hdf5_file": ("", "/dev/zero", "/etc/passwd", "nowhere.hdf5", 3, None, [], "a\0b", "."),
    "class": ("os.system", "Learn2TrackModel", "DWIMLTrainer", "", None, [], {}, 3, "a\nb"),
    "input_group_name": ("wm_mask", "nowhere", "", None, 3, [], "../input"),
    "streamline_group_name": ("input", "nowhere", "", None, 3, []),
    "experiment_name": ("../../outside", "", None, 3, [], "a\0b"),
    "lazy": (True, "yes", None, [], 3),
    "seed": (-1, 10**30, "x", None, 1.5),
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**18,
    10**200,
    0.5,
    1e308,
    "",
    "text",
    "../../outside",
    "x" * 10**5,
    [],
    {},
    [[]] * 3,
    {"a": 1},
    {"class": 3},
    list(range(10**4)),
)


def sized(parameters: Any, rng: Rng) -> None:
    """Change a parameter that has a meaning, wherever it stands."""
    found = [path for path in places(parameters) if path[-1] in SIZES]
    path = found[rng.integers(len(found))]
    values = SIZES[path[-1]]
    holder_of(parameters, path)[path[-1]] = values[rng.integers(len(values))]


def anything(parameters: Any, rng: Rng) -> None:
    found = list(places(parameters))
    path = found[rng.integers(len(found))]
    holder_of(parameters, path)[path[-1]] = VALUES[rng.integers(len(VALUES))]


def removed(parameters: Any, rng: Rng) -> None:
    found = list(places(parameters))
    path = found[rng.integers(len(found))]
    del holder_of(parameters, path)[path[-1]]


def added(parameters: Any, rng: Rng) -> None:
    found = [path for path in places(parameters) if isinstance(holder_of(parameters, path), dict)]
    holder = holder_of(parameters, found[rng.integers(len(found))])
    name = ["more", "", "self", "model", "__class__", "resume", "device"][rng.integers(7)]
    holder[name] = VALUES[rng.integers(len(VALUES))]


CHANGES = (sized, sized, sized, sized, anything, removed, added)


def spoilt_text(text: str, rng: Rng) -> bytes:
    raw = text.encode()
    place = int(rng.integers(len(raw)))
    texts = (
        raw[:place],
        b"",
        b"\xef\xbb\xbf" + raw,
        raw.decode().encode("utf-16"),
        raw[:place] + b"\xff" + raw[place:],
        raw.replace(b"1", b"NaN", 1),
        raw.replace(b"{", b'{"class": 3, "class": 4,', 1),
        b"[" * 10**5,
        b"null",
        b"[1, 2]",
        b'"text"',
        b"1" * 10**4,
        bytes(bytearray(raw[:place]) + bytearray([raw[place] ^ 1]) + bytearray(raw[place + 1 :])),
    )
    return texts[rng.integers(len(texts))]


def spoil(experiment: Path, rng: Rng) -> tuple[str, str]:
    """Change one of the two files; return which, and how."""
    name = ("parameters.json", "best_model/parameters.json")[rng.integers(2)]
    path = experiment / name
    text, choice = path.read_text(), rng.random()
    if choice < 0.8:
        parameters = copied(json.loads(text))
        done = []
        for _ in range(int(rng.integers(1, 3))):
            change = CHANGES[rng.integers(len(CHANGES))]
            try:
                change(parameters, rng)
            except (ValueError, IndexError, KeyError, TypeError):
                continue
            done.append(change.__name__)
        path.write_text(json.dumps(parameters))
        return name, " ".join(done)
    if choice < 0.93:
        path.write_bytes(spoilt_text(text, rng))
        return name, "text"
    change_file = FILES[rng.integers(1, len(FILES))]
    change_file(path)
    return name, change_file.__name__


def run(world: World, seed: int) -> tuple[str, Outcome, Path]:
    """Spoil an experiment and use it; return how, what came of it, and the experiment."""
    rng = np.random.default_rng(seed)
    experiment = world.experiment()
    name, how = spoil(experiment, rng)
    argv = [
        ["evaluate", str(experiment), "--max_batches", "1", "--hdf5_file", str(world.data)],
        ["evaluate", str(experiment), "--max_batches", "1"],
        ["track", str(experiment), "sub-d", str(experiment.parent / "o.trk"), "--hdf5_file", str(world.data)]
        + ["--tracking_mask", "wm_mask", "--seeding_mask", "wm_mask", "--nb_seeds", "3"],
        ["show_loss", str(experiment), "sub-d", str(experiment.parent / "loss")],
        ["resume", str(experiment), "-q"],
        ["visualize_logs", str(experiment), "--save"],
    ][rng.integers(6)]
    outcome = run_watched(lambda: main(argv), watched=[world.path], outputs=[experiment.parent], cwd=experiment)
    return f"{argv[0]}: {name}: {how}", outcome, experiment


if __name__ == "__main__":
    main_program(run)
