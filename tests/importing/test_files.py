"""The files of an experiment of dwi_ml: which are read, and that damaged or untrusted ones do no harm."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dwi_ml_models import L2T, Learn2Track, learn2track, save_experiment, transformer

from dwiml.importing.experiment import IMPORTED, import_dwi_ml
from dwiml.importing.logs import read_logs
from dwiml.training.reporting.loggers.local import read_metrics

LOGS: dict[str, Any] = {
    "train_loss_monitor_per_epoch.npy": [-0.5, -0.6, -0.7],
    "valid_local_loss_monitor_per_epoch.npy": [-0.4, np.nan, -0.6],
    "unclipped_grad_norm_monitor_per_epoch.npy": np.float32([3, 2, 1]),
    "grad_norm_monitor_per_epoch.npy": [1.0, 1.0, 1.0],
    "training_time_monitor_duration.npy": [2.0, 1.5, 1.0],
    "validation_time_monitor_duration.npy": [0.5, 0.5, 0.5],
    "tracking_mean_final_distance_monitor_per_epoch.npy": [100.0, 12.0],
    "own_monitor_per_epoch.npy": [np.inf, 5.0],
}

TRAINING = {"Patience": float("inf"), "Trainer params": {"tracking_phase_frequency": 2}}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return save_experiment(tmp_path / "theirs", learn2track(), logs=LOGS, training=TRAINING)


def test_the_experiment_has_model_parameters_and_logs(theirs: Path, tmp_path: Path) -> None:
    imported = import_dwi_ml(theirs, tmp_path / "new" / "ours")
    assert imported.nb_epochs == 3
    assert imported.source == theirs / "best_model"
    recorded = json.loads((imported.folder / "parameters.json").read_text())
    assert recorded["model"]["class"] == "Learn2TrackModel"
    assert recorded[IMPORTED]["parameters"] == L2T
    assert recorded[IMPORTED]["training"] == {**TRAINING, "Patience": "inf"}
    assert recorded["loader"]["input_group_name"] == "input"
    assumed = "assumed: input_group_name 'input' and streamline_group_name 'streamlines'."
    assert any(assumed in note for note in imported.notes)
    first, second, third = read_metrics(imported.folder)
    assert first == {
        "epoch": 0,
        "train_loss": -0.5,
        "valid_loss": -0.4,
        "grad_norm": 3.0,
        "grad_norm_clipped": 1.0,
        "train_duration_s": 120.0,
        "valid_duration_s": 30.0,
    }
    assert "valid_loss" not in second
    assert second["valid_tracking_mean_final_distance"] == 12.0
    assert second["valid_own"] == 5.0
    assert "valid_tracking_mean_final_distance" not in third


def test_the_best_model_the_latest_or_one_folder(theirs: Path, tmp_path: Path) -> None:
    other = learn2track(rnn_layer_sizes=[4])
    save_experiment(theirs, other, place="checkpoint/model")
    assert import_dwi_ml(theirs, tmp_path / "best").model.params["rnn_layer_sizes"] == [9, 7]
    assert import_dwi_ml(theirs, tmp_path / "latest", weights="latest").model.params["rnn_layer_sizes"] == [4]
    with pytest.raises(ValueError, match="weights must be one of 'best', 'latest', got 'last'"):
        import_dwi_ml(theirs, tmp_path / "last", weights="last")
    with pytest.raises(TypeError, match="has no parameter 'latest'; it was renamed to 'weights'"):
        import_dwi_ml(theirs, tmp_path / "last", latest=True)
    assert import_dwi_ml(theirs / "checkpoint" / "model", tmp_path / "one").nb_epochs == 0
    shutil.rmtree(theirs / "best_model")
    assert import_dwi_ml(theirs, tmp_path / "only").model.params["rnn_layer_sizes"] == [4]


def test_an_imported_experiment_is_replaced_on_demand_only(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    import_dwi_ml(theirs, out)
    with pytest.raises(FileExistsError, match="exists; replace the results with overwrite=True"):
        import_dwi_ml(theirs, out)
    shutil.rmtree(theirs / "logs")
    assert import_dwi_ml(theirs, out, overwrite=True).nb_epochs == 0
    assert not (out / "logs" / "metrics.jsonl").exists()
    recorded = json.loads((out / "parameters.json").read_text())
    del recorded[IMPORTED]
    (out / "parameters.json").write_text(json.dumps(recorded))
    with pytest.raises(FileExistsError, match="is an experiment that was not imported: it is not replaced"):
        import_dwi_ml(theirs, out, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_into_the_experiment_of_dwi_ml(theirs: Path, tmp_path: Path, overwrite: bool) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    for out in (theirs, theirs / "best_model", theirs / "new", tmp_path):
        with pytest.raises((ValueError, FileExistsError)):
            import_dwi_ml(theirs, out, overwrite=overwrite)
    assert sorted(path for path in tmp_path.rglob("*")) == before


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("how", ["plain pickle", "torch", "torch in a tensor's place", "npy"])
def test_no_code_of_a_file_runs(theirs: Path, tmp_path: Path, how: str) -> None:
    mark, weights = tmp_path / "mark", theirs / "best_model" / "model_state.pkl"
    if how == "plain pickle":
        weights.write_bytes(pickle.dumps(Evil(mark)))
    elif how == "torch":
        torch.save(Evil(mark), weights)
    elif how == "npy":
        evil = np.empty(2, dtype=object)
        evil[:] = [Evil(mark), 1.0]
        np.save(theirs / "logs" / "evil_per_epoch.npy", evil, allow_pickle=True)
    else:
        torch.save({**torch.load(weights, weights_only=True), "rnn_model.rnn_0.bias_hh_l0": Evil(mark)}, weights)
    with pytest.raises(ValueError, match="was not loaded|is damaged|does not hold weights|should hold one number"):
        import_dwi_ml(theirs, tmp_path / "ours")
    assert not mark.exists()
    assert not (tmp_path / "ours").exists()
    # It would have run.
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()


def change(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "best_model" / "parameters.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def change_weights(function: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "best_model" / "model_state.pkl"
        state = torch.load(path, weights_only=True)
        torch.save(function(state), path)

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def truncate(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return apply


def npy(shape: tuple[int, ...], content: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (remove("best_model/model_state.pkl"), "it has no 'best_model/model_state.pkl' and no 'checkpoint/model/"),
    (remove("best_model/parameters.json"), "parameters.json' was not found"),
    (remove("best_model/model_type.txt"), "it was not written by dwi_ml 1.0"),
    (write("best_model/model_type.txt", b"a/b"), "should hold the name of a class"),
    (write("best_model/model_type.txt", b"x" * 1000), "should hold the name of a class"),
    (
        write("best_model/model_type.txt", b"Mine"),
        "holds a model of class Mine; models of dwi_ml that can be imported: 'Learn2Track",
    ),
    (write("best_model/parameters.json", b"[1]"), "is not an object"),
    (write("best_model/parameters.json", b"{" * 10), "is not valid JSON"),
    (write("best_model/parameters.json", b"[" * 100_000), "is not valid JSON"),
    (write("best_model/model_state.pkl", b""), "it is empty"),
    (write("best_model/model_state.pkl", b"PK\x03\x04" + bytes(100)), "was not written by torch.save"),
    (
        write("best_model/model_state.pkl", pickle.dumps({"a": 1})),
        "is damaged or incomplete, or is not in the zip format",
    ),
    (
        truncate("best_model/model_state.pkl"),
        "is damaged or incomplete, or is not in the zip format of torch.save; copy",
    ),
    (write("best_model/parameters.json", b"x"), "The file of the model's parameters '.*' is not valid JSON"),
    (write("parameters_latest.json", b"x"), "The file of the training's parameters '.*' is not valid JSON"),
    (write("parameters_latest.json", b"3"), "is not an object"),
    (write("logs/a_per_epoch.npy", b"no"), "is not an array of numpy"),
    (write("logs/a_per_epoch.npy", npy((10**12,), b"")), "should hold one number for each epoch"),
    (write("logs/a_per_epoch.npy", npy((2, 2), bytes(32))), r"got an array of shape \(2, 2\)"),
    (write("logs/a_per_epoch.npy", npy((3,), bytes(8))), "with 8 bytes"),
    (change(dg_key="fisher-von-mises"), "the direction getter 'fisher-von-mises' of dwi_ml cannot be imported"),
    (change(start_from_copy_prev=True), "start_from_copy_prev, which adds the previous direction"),
    (change(rnn_layer_sizes="9"), "'rnn_layer_sizes' should be a list of whole numbers, got '9'"),
    (change(rnn_layer_sizes=[]), "'rnn_layer_sizes' should be a list of whole numbers"),
    (change(rnn_layer_sizes=[10**9, 7]), "does not describe a model"),
    (change(rnn_layer_sizes=[9, 7, 7]), "do not fit the model Learn2TrackModel"),
    (change(rnn_key="rnn"), "rnn_key must be one of"),
    (change(nb_features=10**15), "does not describe a model"),
    (change(nb_features=None), "'nb_features' should be a whole number, got None"),
    (change(nb_features=6), "do not fit the model Learn2TrackModel"),
    (change(neighborhood_type="axes", neighborhood_radius=10**9), "must be at most 1000"),
    (change(neighborhood_type="axes"), "needs a radius"),
    (change(use_skip_connection="yes"), "'use_skip_connection' should be true or false, got 'yes'"),
    (change(dg_args=[1]), "'dg_args' should be an object"),
    (change(dg_args={"mystery": 2}), "has parameters in 'dg_args' that dwi_ml 1.0 does not have"),
    (change(mystery=2), r"has parameters that dwi_ml 1.0 does not have for this model \('mystery'\)"),
    (change(input_embedding_key="other"), "input_embedding_key must be one of"),
    (change(dg_args={"add_eos": True, "normalize_outputs": 1.0}), "normalize_outputs with add_eos cannot be imported"),
    (change(dg_key="gaussian", dg_args={}), "lack 'direction_getter.layers_mean.0.weight'"),
    (change(dg_key="sphere-classification", dg_args={"eos_weight": 2}), "eos_weight 2 cannot be imported"),
    (change(dg_key="gaussian", dg_args={"normalize_targets": 2}), "a Gaussian of steps of length 2"),
    (change_weights(lambda state: list(state)), "does not hold weights by name"),
    (change_weights(lambda state: {**state, "more": torch.ones(2)}), r"have parts .* \('more'\)"),
    (change_weights(lambda state: {name: value * torch.nan for name, value in state.items()}), "are NaN or infinite"),
    (change_weights(lambda state: {name: value[:1] for name, value in state.items()}), "do not fit the model"),
    (change_weights(lambda state: {name: value.sum() for name, value in state.items()}), "do not fit the model"),
    (change_weights(lambda state: {}), "do not fit the model"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES, ids=[sentence for _, sentence in DAMAGES])
def test_damaged_files(theirs: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(theirs)
    with pytest.raises((ValueError, OSError), match=sentence) as raised:
        import_dwi_ml(theirs, tmp_path / "ours")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", [*L2T, "dg_args.dropout", "dg_args.normalize_targets", "dg_args.sphere"])
def test_any_value_of_a_parameter(theirs: Path, tmp_path: Path, name: str) -> None:
    """It is imported, or refused with one sentence."""
    sentences = []
    for value in (-1, 10**30, "x", [1]):
        change(**({"dg_args": {name[8:]: value}} if "." in name else {name: value}))(theirs)
        try:
            import_dwi_ml(theirs, tmp_path / "ours")
        except ValueError as error:
            sentences.append(str(error))
        shutil.rmtree(tmp_path / "ours", ignore_errors=True)
    assert all("\n" not in sentence and len(sentence) < 600 for sentence in sentences)
    assert sentences or name == "experiment_name"


@pytest.mark.parametrize("name", ["layers_mean.0.bias", "layers_sigmas.0.bias", "layers_mean.1.bias"])
@pytest.mark.parametrize("shape", [(), (1, 4), (3,)])
def test_weights_of_a_gaussian_of_other_shapes(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    source = save_experiment(tmp_path / "theirs", learn2track(dg_key="gaussian", dg_args={"add_eos": True}))
    change_weights(lambda state: {**state, f"direction_getter.{name}": torch.ones(shape)})(source)
    with pytest.raises(ValueError, match="are not those of a direction getter 'gaussian'"):
        import_dwi_ml(source, tmp_path / "ours")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target_embedding_key": "no_embedding"}, "target_embedding_key 'no_embedding' of dwi_ml cannot be imported"),
        ({"start_from_copy_prev": True}, "start_from_copy_prev, which"),
        ({"positional_encoding_key": "relational"}, "positional_encoding must be one of"),
        ({"nheads": 5}, "does not describe a model"),
        ({"sos_token_type": "ball"}, "sos must be 'label' or"),
    ],
)
def test_transformers_that_dwiml_does_not_have(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    source = save_experiment(tmp_path / "theirs", transformer("OriginalTransformerModel"))
    change(**options)(source)
    with pytest.raises(ValueError, match=sentence):
        import_dwi_ml(source, tmp_path / "ours")


def test_another_positional_encoding(tmp_path: Path) -> None:
    source = save_experiment(tmp_path / "theirs", transformer("TransformerSrcOnlyModel"))
    name = "position_encoding_layer.pos_emb"
    change_weights(lambda state: {**state, name: state[name] + 0.01})(source)
    with pytest.raises(ValueError, match="another positional encoding than the sinusoidal one"):
        import_dwi_ml(source, tmp_path / "ours")


def test_other_programs_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        import_dwi_ml(tmp_path / "nowhere", tmp_path / "ours")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file, not an experiment folder"):
        import_dwi_ml(tmp_path / "file", tmp_path / "ours")
    import_dwi_ml(save_experiment(tmp_path / "theirs", learn2track()), tmp_path / "ours")
    with pytest.raises(ValueError, match="is an experiment of dwiml already"):
        import_dwi_ml(tmp_path / "ours", tmp_path / "again")


def test_what_differs_is_told(tmp_path: Path) -> None:
    def notes(**options: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        source = save_experiment(folder / "theirs", Learn2Track(L2T | options))
        return " ".join(import_dwi_ml(source, folder / "ours").notes)

    assert "No HDF5 file is recorded" in notes()
    l2 = "l2-regression"
    assert "targets" not in notes(dg_key=l2, dg_args={"normalize_targets": 1.0})
    assert "Targets had length 2 and outputs 0" in notes(dg_key=l2, dg_args={"normalize_targets": 2.0})
    assert "not scaled to length 1" in notes(dg_args={"normalize_outputs": 1.0})
    assert "dwiml does not have 'compress_loss', which were used" in notes(dg_args={"compress_loss": True})
    assert "differ by about 0.001" in notes(dg_key="gaussian", dg_args={})
    assert "entropy_weight of a Gaussian" in notes(dg_key="gaussian", dg_args={"entropy_weight": 0.5})
    assert "includes a direction at the end" in notes(dg_args={"add_eos": True})


def test_tracking_results_of_unknown_epochs_are_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "tracking_connectivity_score_monitor_per_epoch.npy", [1.0, 1.0, 0.5])
    assert read_logs(tmp_path) == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}]
    assert read_logs(tmp_path, tracking_frequency=3)[2] == {"epoch": 2, "valid_tracking_connectivity_score": 0.5}


def test_no_logs(tmp_path: Path) -> None:
    assert read_logs(tmp_path / "none") == []
    (tmp_path / "other.txt").touch()
    assert read_logs(tmp_path) == []


def test_two_logs_of_one_name_are_both_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "a-b.npy", [1.0])
    np.save(tmp_path / "a_b.npy", [2.0])
    np.save(tmp_path / "a_b_per_epoch.npy", [3.0])
    # dwi_ml's own monitor keeps its name, whatever the order of the files.
    np.save(tmp_path / "train_loss.npy", [4.0])
    np.save(tmp_path / "train_loss_monitor_per_epoch.npy", [5.0])
    assert read_logs(tmp_path) == [
        {"epoch": 0, "valid_a_b": 1.0, "valid_a_b_2": 2.0, "valid_a_b_3": 3.0, "train_loss": 5.0, "train_loss_2": 4.0}
    ]


def header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


FIELDS = b"{'descr': '<f8', 'fortran_order': False, 'shape': "


@pytest.mark.parametrize(
    "text",
    [
        FIELDS + b"(",
        FIELDS + b"(1,), '\\N{x}': 1}",
        FIELDS + b"(True,)}",
        FIELDS + b"(1L,)}",
        FIELDS + b"(" * 3000,
        FIELDS + b"((" + b"-" * 8000 + b"1,),)}",
        b"{'descr': [], 'fortran_order': False, 'shape': (1,)}",
        b"{'descr': '<f8', 'fortran_order': False, [1]: (1,)}",
        b"{'descr': ('<f8', (-1,)), 'fortran_order': False, 'shape': (1,)}",
        b"x" * 20_000,
    ],
    ids=range(10),
)
def test_any_header_is_a_sentence(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(header(text) + bytes(8))
    with pytest.raises(ValueError, match="The log '.*' (is not an array of numpy|should hold one number)") as raised:
        read_logs(tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_numbers_beyond_double_are_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "valid_a.npy", np.array(["1", "1e4000"], dtype=np.longdouble))
    assert read_logs(tmp_path)[0] == {"epoch": 0, "valid_a": 1.0}


def test_many_numbers_in_a_small_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros(100_001, dtype=np.uint8))
    with pytest.raises(ValueError, match="has 100001 epochs; at most 100000 are read"):
        read_logs(tmp_path)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros(6, dtype=np.uint8))
    monkeypatch.setattr("dwiml.importing.logs._MOST_NUMBERS", 11)
    with pytest.raises(ValueError, match="hold more than 11 numbers"):
        read_logs(tmp_path)
