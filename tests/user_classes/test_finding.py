"""The class that a user names is found, or one sentence says why not; a file is imported once, in any process."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from own_models import install, write_own_model

from dwiml import Learn2TrackModel, ModelWithOneInput
from dwiml.models.catalog import find_model_class
from dwiml.user_classes.finding import class_path, find_class, found_as, is_dwiml_class

BODY = """
    def forward(self, inputs, streamlines):
        return inputs.data

    def compute_loss(self, outputs, targets, average_results=True):
        return outputs.mean(), len(outputs)
"""
SMALL = f"from dwiml import ModelWithOneInput\n\nclass Small(ModelWithOneInput):{BODY}"


@pytest.fixture(autouse=True)
def same_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_class_of_a_file_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_own_model(tmp_path, "once")
    found = find_model_class(name)
    assert found.__name__ == "OwnModel"
    assert issubclass(found, ModelWithOneInput)
    (tmp_path / "link.py").symlink_to(tmp_path / "once.py")
    monkeypatch.chdir(tmp_path)
    assert find_model_class("once.py:OwnModel") is find_model_class("link.py:OwnModel") is found
    assert class_path(found) == found_as(found) == name
    assert not is_dwiml_class(found)


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(f"{SMALL}\n    place = '{folder}'\n")
    found = [find_model_class(f"{tmp_path / folder / 'model.py'}:Small") for folder in ("a", "b")]
    assert [each.place for each in found] == ["a", "b"]  # type: ignore[attr-defined]


def _write_with_helper(folder: Path, helper: str, place: str) -> str:
    folder.mkdir(parents=True)
    (folder / f"{helper}.py").write_text(f"place = '{place}'\n")
    (folder / "model.py").write_text(f"import {helper}\n{SMALL}\n    place = {helper}.place\n")
    return f"{folder / 'model.py'}:Small"


@pytest.mark.parametrize("is_indirect", [False, True])
def test_a_helper_is_never_that_of_another_folder(tmp_path: Path, is_indirect: bool) -> None:
    helper = f"layers_{is_indirect}"
    first, second = (_write_with_helper(tmp_path / each, helper, each) for each in ("a", "b"))
    if is_indirect:
        (tmp_path / "b" / "blocks.py").write_text(f"def f():\n    from {helper} import place\n    return place\n")
        (tmp_path / "b" / "model.py").write_text(f"from blocks import f\n{SMALL}")
    assert find_model_class(first).place == "a"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="^model_class") as caught:
        find_model_class(second)
    importing = tmp_path / "b" / ("blocks.py" if is_indirect else "model.py")
    assert str(caught.value) == (
        f"model_class '{second}' cannot be imported: '{importing}' imports '{helper}', which is already the name of "
        f"another module ({tmp_path / 'a' / helper}.py) than its neighbor '{tmp_path / 'b' / helper}.py': rename the "
        "neighbor, or make a package of the folder and give package.module:CLASS."
    )
    # With a name of its own, it is found.
    (tmp_path / "b" / f"{helper}.py").rename(tmp_path / "b" / f"own_{helper}.py")
    text = importing.read_text(encoding="utf-8").replace(helper, f"own_{helper}")
    importing.write_text(text, encoding="utf-8")
    assert find_model_class(second).__module__ != find_model_class(first).__module__


def test_a_copy_of_a_helper_in_another_folder_is_the_same_helper(tmp_path: Path) -> None:
    first, second = (_write_with_helper(tmp_path / each, "copied_layers", "both") for each in ("a", "b"))
    assert find_model_class(first) is not find_model_class(second)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "copied_layers.py").write_text("place = 'c'\n")
    (tmp_path / "c" / "model.py").write_bytes((tmp_path / "a" / "model.py").read_bytes())
    with pytest.raises(ValueError, match="imports 'copied_layers', which is already the name of another module"):
        find_model_class(f"{tmp_path / 'c' / 'model.py'}:Small")


@pytest.mark.parametrize("helper", ["numpy", "yaml", "colorsys", "math", "sys"])
def test_a_helper_is_never_an_installed_module(tmp_path: Path, helper: str) -> None:
    with pytest.raises(ValueError, match=f"imports '{helper}', which is already the name of another module"):
        find_model_class(_write_with_helper(tmp_path / "own", helper, "own"))


def test_neighbors_that_are_not_imported_may_have_any_name(tmp_path: Path) -> None:
    name = _write_with_helper(tmp_path / "package", "own_helper_of_package", "own")
    for other in ("numpy", "random", "dwiml"):
        (tmp_path / "package" / f"{other}.py").write_text("raise RuntimeError\n")
    assert find_model_class(name).place == "own"  # type: ignore[attr-defined]


def test_in_a_package_a_name_of_the_library_is_that_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "logging.py").write_text("raise RuntimeError\n")
    (tmp_path / "model.py").write_text(f"import logging\n{SMALL}\n    place = logging.INFO\n")
    assert find_model_class(f"{tmp_path / 'model.py'}:Small").place == 20  # type: ignore[attr-defined]


def test_names_modules_and_classes(tmp_path: Path) -> None:
    assert find_model_class("learn2track") is Learn2TrackModel
    assert find_model_class("dwiml.models.learn2track:Learn2TrackModel") is Learn2TrackModel
    assert find_model_class(Learn2TrackModel) is Learn2TrackModel
    assert class_path(Learn2TrackModel) == "dwiml.models.learn2track:Learn2TrackModel"
    assert is_dwiml_class(Learn2TrackModel)
    (tmp_path / "nested_models.py").write_text(f"{SMALL}\nclass Outer:\n    Inner = Small\n")
    sys.path.append(str(tmp_path))
    assert find_model_class("nested_models:Outer.Inner") is find_model_class("nested_models:Small")


UNPICKLE = "import pickle, sys; print(type(pickle.loads(bytes.fromhex(sys.argv[1]))).__name__)"


def test_an_object_of_the_class_reaches_another_process(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("class Plain:\n    pass\n")
    plain = find_class(f"{tmp_path / 'plain.py'}:Plain", object, parameter="plain")()
    command = [sys.executable, "-c", UNPICKLE, pickle.dumps(plain).hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "Plain\n"


@pytest.mark.slow
def test_a_model_reaches_spawned_workers(tmp_path: Path) -> None:
    model = find_model_class(write_own_model(tmp_path, "spawned"))(nb_features=3)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_name_of_pickled, [pickle.dumps(model)] * 2, chunksize=1) == ["OwnModel"] * 2


def _name_of_pickled(pickled: bytes) -> str:
    return type(pickle.loads(pickled)).__name__


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("modle.py:Small", "modle.py' was not found; did you mean 'model.py'?"),
        ("model.py:small", "there is no class 'small'; did you mean 'Small'?"),
        ("model.py:Quite", "there is no class 'Quite'; its classes are 'Small', 'Bare'."),
        ("model.py:Other", "is not a subclass of dwiml's MainModelAbstract."),
        ("model.py:Bare", "does not define compute_loss and forward, which MainModelAbstract requires."),
        ("model.py:value", "is an object of type int, not a class."),
        ("model.py", "names no class: give FILE.py:CLASS; the classes of the file are 'Small', 'Bare', 'Other'."),
        ("model.txt/x:Small", "model.txt/x' was not found."),
    ],
)
def test_a_wrong_name_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    more = "\nclass Bare(ModelWithOneInput):\n    pass\n\nclass Other:\n    pass\n\nvalue = 3\n"
    (tmp_path / "model.py").write_text(SMALL + more)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        find_model_class(str(tmp_path / text))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import torch\nx = {}['a']\n", "KeyError: 'a', in {file}:2."),
        ("def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError: division by zero, in {file}:2."),
        ("x = (\n", "SyntaxError: '(' was never closed, in {file}:1."),
        ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all', in {file}:1."),
        ("from . import layers\n", "relative imports need a package, so give package.module:CLASS, in {file}:1."),
        ("from .layers import x\n", "relative imports need a package, so give package.module:CLASS, in {file}:1."),
        ("import sys\nsys.exit(3)\n", "its module ends the program ({file}:2): put what a script does under 'if"),
    ],
)
def test_an_error_of_the_file_says_where(tmp_path: Path, code: str, sentence: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(code)
    with pytest.raises(ValueError, match="broken.py:Small' cannot be imported") as caught:
        find_model_class(f"{file}:Small")
    assert sentence.format(file=file) in str(caught.value)
    # Once the file is fixed, it is imported.
    file.write_text(SMALL)
    assert find_model_class(f"{file}:Small").__name__ == "Small"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nowhere_at_all:Small", "there is no module 'nowhere_at_all'; for a file, give FILE.py:CLASS."),
        ("local_model:Small", "there is no module 'local_model'; did you mean local_model.py:Small?"),
        ("learn2trak", "got 'learn2trak'; did you mean 'learn2track'?"),
        ("os:path", "is an object of type module, not a class."),
        ("a b:Small", "must be FILE.py:CLASS or package.module:CLASS, got 'a b:Small'."),
        (":Small", "must be FILE.py:CLASS or package.module:CLASS, got ':Small'."),
        ("", "must be FILE.py:CLASS or package.module:CLASS or a known name, got ''; known names are 'learn2track',"),
    ],
)
def test_a_wrong_module_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    (tmp_path / "local_model.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    with pytest.raises(ValueError, match="^model_class") as caught:
        find_model_class(text)
    assert sentence in str(caught.value)


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="model_class must be a class, or text such as FILE.py:CLASS"):
        find_model_class(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model_class is not a subclass of dwiml's MainModelAbstract"):
        find_model_class(int)


def test_the_model_of_an_installed_package(tmp_path: Path) -> None:
    write_own_model(tmp_path, "installed_here")
    install(tmp_path, "my-net", "installed_here:OwnModel")
    sys.path.append(str(tmp_path))
    found = find_model_class("my-net")
    assert (found.__name__, class_path(found), found_as(found)) == ("OwnModel", "installed_here:OwnModel", "my-net")
    with pytest.raises(ValueError, match="did you mean 'my-net'"):
        find_model_class("my_net")


def test_an_installed_package_that_fails_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "failing_package.py").write_text("raise RuntimeError('no license')\n")
    install(tmp_path, "failing", "failing_package:Net", package="failing")
    sys.path.append(str(tmp_path))
    with pytest.raises(ValueError, match="^model_class") as caught:
        find_model_class("failing")
    sentence = (
        "model_class 'failing' (failing_package:Net, of failing) cannot be imported: RuntimeError: no license, in "
    )
    assert str(caught.value) == f"{sentence}{tmp_path / 'failing_package.py'}:1."


def test_two_installed_packages_with_one_name(tmp_path: Path) -> None:
    install(tmp_path, "net", "first:Net", package="first")
    install(tmp_path, "net", "second:Net", package="second")
    sys.path.append(str(tmp_path))
    with pytest.raises(ValueError, match="several installed classes: 'first:Net', 'second:Net'; give one of these"):
        find_model_class("net")


def test_what_is_not_a_file_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    for place, kind in (
        (tmp_path, "a folder"),
        (tmp_path / "folder.py", "a folder"),
        ("/dev/null", "a device or a pipe"),
    ):
        with pytest.raises(ValueError, match=f"^model_class: '{place}' is {kind}, not a Python file"):
            find_model_class(f"{place}:Small")
    with pytest.raises(FileNotFoundError, match="was not found"):
        find_model_class(f"{'x' * 5000}.py:Small")
