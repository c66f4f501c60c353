"""One seed makes a script give the same bits each time; what was seeded is recorded."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import interrupt, logs, small_trainer

import dwiml
from dwiml.cli import train as train_command
from dwiml.seeding import choose_seed, global_seed

README = Path(__file__).parents[1] / "README.md"


def readme_script() -> str:
    """Return the README's script: the block of code that trains."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (script,) = [block for block in blocks if "train_and_validate()" in block]
    return script


@pytest.mark.slow
def test_the_readmes_script_gives_the_same_bits_twice(tiny_hdf5: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        names = {
            "hdf5_file": str(tiny_hdf5),
            "input_group_name": "input",
            "streamline_group_name": "streamlines",
            "experiments_path": str(folder),
            "experiment_name": "exp",
        }
        script = "".join(f"{key} = {value!r}\n" for key, value in names.items()) + readme_script()
        (folder / "script.py").write_text(script)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, folder / "script.py"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Seed" not in done.stderr
        weights = torch.load(folder / "exp/best_model/model_state.pt", weights_only=True)
        content = b"".join(tensor.numpy().tobytes() for tensor in weights.values())
        digests.append(hashlib.sha256(content).hexdigest())
    assert digests[0] == digests[1]
    assert logs(tmp_path / "first" / "exp") == logs(tmp_path / "second" / "exp")


def draws() -> tuple[float, float, float]:
    # The global generators are what is tested.
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def test_all_generators_are_seeded() -> None:
    assert dwiml.seed_everything(3) == 3
    first = draws()
    dwiml.seed_everything(3)
    assert draws() == first
    dwiml.seed_everything(2**63 - 1)
    assert draws() != first
    assert global_seed() == 2**63 - 1


@pytest.mark.parametrize("seed", [None, -1, 0.5, "1", True, 2**63])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed.* integer from 0 to"):
        dwiml.seed_everything(seed)
    assert global_seed() is None


def test_a_missing_seed_is_not_zero(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    for each in (trainer, trainer.batch_sampler, trainer.batch_loader):
        with pytest.raises(ValueError, match=r"^set_seed needs a seed, an integer from 0 to 2\*\*63 - 1; got None\.$"):
            each.set_seed(None)  # type: ignore[arg-type]


def test_a_seed_of_its_own_comes_first() -> None:
    assert choose_seed(None).source == "drawn"
    dwiml.seed_everything(5)
    assert choose_seed(None) == (5, "seed_everything")
    assert choose_seed(4) == (4, "given")


def seeds_of(experiment: Path) -> dict[str, Any]:
    seeds: dict[str, Any] = json.loads((experiment / "parameters.json").read_text())["seeds"]
    return seeds


def test_what_was_seeded_is_recorded_and_stays(tiny_hdf5: Path, tmp_path: Path) -> None:
    dwiml.seed_everything(5)
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=2, data_seed=None), 2)
    everything = {"seed": 5, "from": "seed_everything"}
    expected = {"everything": 5, **dict.fromkeys(("weights", "trainer", "sampler", "loader"), everything)}
    assert seeds_of(tmp_path / "exp") == expected
    # The script has another seed now: the training goes on with its own.
    dwiml.seed_everything(6)
    resumed = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, data_seed=None, resume="auto")
    assert (resumed.seed, resumed.batch_sampler.seed, resumed.batch_loader.seed) == (5, 5, 5)
    resumed.train_and_validate()
    assert seeds_of(tmp_path / "exp") == expected
    dwiml.seed_everything(5)
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2, data_seed=None).train_and_validate()
    assert logs(tmp_path / "exp") == logs(tmp_path / "whole")


@pytest.mark.parametrize("too_late", [False, True])
def test_weights_that_are_not_seeded_are_told(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], too_late: bool
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, verbose=True)
    if too_late:
        dwiml.seed_everything(4)
    trainer.train_and_validate()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Seed ")]
    assert "not used for the weights: dwiml.seed_everything was not called before the model was created" in line
    seeds = seeds_of(tmp_path / "exp")
    assert seeds["weights"] == {"seed": None, "from": "not seeded"}
    assert seeds["sampler"] == {"seed": 4, "from": "given"}
    # A training that goes on has its weights.
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, verbose=True, resume="must").train_and_validate()
    assert "Seed " not in capsys.readouterr().err


def test_seeds_that_are_drawn_are_told_apart(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, data_seed=None, verbose=True).train_and_validate()
    assert "Seed " not in capsys.readouterr().err
    seeds = seeds_of(tmp_path / "exp")
    assert seeds["everything"] is None
    assert seeds["trainer"]["from"] == "drawn"
    assert seeds["trainer"]["seed"] != seeds["sampler"]["seed"]


def test_the_command_seeds_everything(tiny_hdf5: Path, tmp_path: Path) -> None:
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--max_epochs", "1", "-q"]
    for name in ("first", "second"):
        command = ["learn2track", str(tiny_hdf5), str(tmp_path), name, *options, "--rnn_layer_sizes", "8"]
        assert train_command.main([*command, "--seed", "7"]) == 0
    assert logs(tmp_path / "first") == logs(tmp_path / "second")
    assert seeds_of(tmp_path / "first")["weights"] == {"seed": 7, "from": "seed_everything"}
