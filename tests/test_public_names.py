"""The public names: one sorted list, the same everywhere it is written, each there when asked for."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import dwiml


def _type_checking_names() -> dict[str, str]:
    """Return {name: module} as type checkers see them."""
    tree = ast.parse(Path(dwiml.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname in (None, alias.name)
            names[alias.name] = str(node.module)
    return names


def test_all_is_sorted_without_repeats() -> None:
    assert dwiml.__all__ == sorted(set(dwiml.__all__))


def test_the_three_lists_agree() -> None:
    assert dwiml.__all__ == list(dwiml._MODULE_OF)
    assert _type_checking_names() == dwiml._MODULE_OF


@pytest.mark.parametrize("name", dwiml.__all__)
def test_name_is_importable_and_defined_where_it_says(name: str) -> None:
    value = getattr(dwiml, name)
    module = importlib.import_module(dwiml._MODULE_OF[name])
    assert value is getattr(module, name)
    assert value.__module__ == module.__name__
    assert value.__name__ == name


@pytest.mark.parametrize("name", dwiml.__all__)
def test_name_is_documented(name: str) -> None:
    assert (getattr(dwiml, name).__doc__ or "").strip()
    api = Path(__file__).parents[1] / "docs" / "api.rst"
    assert f":: dwiml.{name}\n" in api.read_text(encoding="utf-8")


def test_dir_lists_the_public_names() -> None:
    assert set(dwiml.__all__) <= set(dir(dwiml))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DWIMLTrainerTwoInputs'"):
        _ = dwiml.DWIMLTrainerTwoInputs
