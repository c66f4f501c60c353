"""The classes that are recorded in an experiment: dwiml's own are known by name, another of the same name is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dwiml
from dwiml.training.catalog import CLASSES
from dwiml.training.recorded_classes import dwiml_class

NAMES = [(section, name) for section, paths in CLASSES.items() for name in paths]


@pytest.mark.parametrize(("section", "name"), NAMES)
def test_a_recorded_class_of_dwiml_is_the_public_one(section: str, name: str) -> None:
    found = dwiml_class(section, name)
    assert found is getattr(dwiml, name)
    assert dwiml_class(section, name, f"{found.__module__}:{name}") is found
    assert dwiml_class(section, name, f"/home/me/my_model.py:{name}") is None


def test_another_name_is_not_a_class_of_dwiml() -> None:
    assert dwiml_class("model", "MyModel") is None
    assert dwiml_class("trainer", "Learn2TrackModel") is None


@pytest.mark.slow
def test_only_the_model_that_is_needed_is_imported() -> None:
    code = "import sys; from dwiml.training.recorded_classes import dwiml_class; "
    code += "dwiml_class('model', 'Learn2TrackModel'); "
    code += "print([name for name in ('learn2track', 'autoencoder') if f'dwiml.models.{name}' in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['learn2track']\n"
