"""Errors of the user's own code: commands say where they were raised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from faulty_models import train_faulty, write_faulty

from dwiml.cli.main import main


@pytest.fixture(autouse=True)
def same_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


FAULTS = {
    "forward": ("def forward(self, inputs, streamlines):\n        return {}['x']", "KeyError: 'x'"),
    "compute_loss": (
        "def compute_loss(self, outputs, targets):\n        a, b = 1, 2, 3",
        "ValueError: too many values",
    ),
    "__init__": (
        "def __init__(self, **kwargs):\n        open('/nowhere/weights.txt')",
        "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/weights.txt'",
    ),
    "embed_inputs": (
        "def embed_inputs(self, inputs):\n        return torch.nn.functional.relu(3)",
        "TypeError: relu(): argument 'input' (position 1) must be Tensor, not int",
    ),
    "eos_probability": (
        "def eos_probability(self, outputs):\n        return len(3)",
        "TypeError: object of type 'int'",
    ),
}


@pytest.mark.parametrize("method", FAULTS)
def test_the_type_and_the_place_of_an_error_of_the_model(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    code, sentence = FAULTS[method]
    file = write_faulty(tmp_path, f"class Faulty(Base):\n    {code}\n")
    line = len(file.read_text().splitlines())
    status = train_faulty(file, tiny_hdf5, model="Faulty")
    if method == "eos_probability":
        assert status == 0
        capsys.readouterr()
        command = ["show_loss", str(tmp_path / "exp"), "sub-d", str(tmp_path / "out")]
        status = main([*command, "--model_class", f"{file}:Faulty"])
    assert status == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {sentence}")
    assert f", in {file}:{line} (" in error
    assert error.endswith(f"{method})")


def test_an_error_of_the_trainer_or_of_a_helper(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "helper_of_faulty.py").write_text("def first(values):\n    return values[0][1]['a']\n")
    code = "class Trainer(DWIMLTrainerOneInput):\n    def run_one_batch(self, targets, ids_per_subj):\n"
    code += "        from helper_of_faulty import first\n        return first([(1, {})])\n"
    file = write_faulty(tmp_path, code)
    assert train_faulty(file, tiny_hdf5, "--trainer_class", f"{file}:Trainer") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: KeyError: 'a', in {tmp_path / 'helper_of_faulty.py'}:2 (first)"


def test_an_error_of_dwiml_that_the_model_causes_keeps_its_sentence(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "class Faulty(Base):\n    def __init__(self, dg_key=None, **kwargs):\n"
    code += "        super().__init__(dg_key='no', **kwargs)\n"
    assert train_faulty(write_faulty(tmp_path, code), tiny_hdf5, model="Faulty") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: dg_key must be one of 'cosine-regression', ")
    assert error.endswith(", got 'no'.\n")


LOSSES = {
    "mean": (
        "outputs, targets, average_results=True",
        "Faulty.compute_loss(average_results=False) must return one loss per point, shape (",
        "; it returned shape ().",
    ),
    "without": ("outputs, targets", "Faulty.compute_loss has no parameter average_results: add ", "their mean."),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_show_loss_needs_one_loss_per_point(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    parameters, start, end = LOSSES[kind]
    code = f"class Faulty(Base):\n    def compute_loss(self, {parameters}):\n"
    code += "        return super().compute_loss(outputs, targets)\n"
    file = write_faulty(tmp_path, code)
    assert train_faulty(file, tiny_hdf5, model="Faulty") == 0
    capsys.readouterr()
    command = [str(tmp_path / "exp"), "--model_class", f"{file}:Faulty"]
    assert main(["evaluate", *command]) == 0
    assert main(["show_loss", command[0], "sub-d", str(tmp_path / "out"), *command[1:]]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {start}")
    assert error.endswith(end)
    assert not (tmp_path / "out" / "loss.trk").exists()


NOT_PASSED = {
    "kwargs": ("**kwargs", "super().__init__(**kwargs, ...)."),
    "named": (
        "*, nb_features, step_size: float | None = None, **kwargs",
        "super().__init__(step_size=step_size, ...).",
    ),
}


@pytest.mark.parametrize("kind", NOT_PASSED)
def test_a_model_that_does_not_pass_the_step_size_on(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    parameters, advice = NOT_PASSED[kind]
    code = f"class Faulty(Base):\n    def __init__(self, {parameters}):\n"
    code += "        super().__init__(nb_features=4)\n"
    assert train_faulty(write_faulty(tmp_path, code), tiny_hdf5, model="Faulty") == 2
    sentence = "error: Faulty received step_size=2, but its base classes did not: pass it on in its __init__, with "
    assert capsys.readouterr().err.replace("=2.0", "=2") == f"{sentence}{advice}\n"
    assert not (tmp_path / "exp").exists()


def test_a_trainer_that_does_not_pass_its_settings_on(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "class Trainer(DWIMLTrainerOneInput):\n    def __init__(self, *args, **kwargs):\n"
    names = ("model", "experiments_path", "experiment_name", "batch_sampler", "batch_loader")
    code += f"        super().__init__(*[kwargs[name] for name in {names}])\n"
    file = write_faulty(tmp_path, code)
    assert train_faulty(file, tiny_hdf5, "--trainer_class", f"{file}:Trainer") == 2
    assert ", but its base classes did not: pass it on in its __init__, with super" in capsys.readouterr().err


WRONG = {
    "size": (
        "def __init__(self, **kwargs):\n        super().__init__(**kwargs)\n"
        "        self.instantiate_direction_getter(9)",
        "The direction getter was built for 9 features (instantiate_direction_getter) and received 8.",
    ),
    "detached": (
        "def forward(self, inputs, streamlines):\n        return super().forward(inputs, streamlines).detach()",
        "The mean loss of the batch does not depend on the weights of the model, so that nothing can be learned: "
        "compute it from the outputs of the model, without detach(), item() or torch.no_grad(), and leave some weights "
        "with requires_grad=True.",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_errors_of_torch_that_have_a_sentence(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    code, sentence = WRONG[kind]
    assert train_faulty(write_faulty(tmp_path, f"class Faulty(Base):\n    {code}\n"), tiny_hdf5, model="Faulty") == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {sentence}"
