"""What is read of a class's source is what Python knows of the class."""

from __future__ import annotations

import importlib
import inspect

import pytest

from dwiml.cli import resume, track, train
from dwiml.cli.options.declarations import Required, constant_of, parameters_of, summary_of

# Made by whoever calls a command, not by its options.
OBJECTS = {"dataset", "model", "batch_sampler", "batch_loader", "subject", "rules", "mask", "affine", "dimensions"}
CLASSES = [
    *train.MODELS.values(),
    *(train.DATASET, train.SAMPLER, train.LOADER, train.TRACKING_TRAINER, train.SETTINGS),
    *(train.LOADER_WITHOUT_VOLUME, train.TRAINER_WITHOUT_VOLUME),
    *(track.RULES, track.SEEDS, track.TRACKER, track.WRITER),
]


def constructors(path: str) -> list[inspect.Signature]:
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    chain = [each for each in cls.__mro__ if each.__module__.startswith("dwiml.") and "__init__" in each.__dict__]
    return [inspect.signature(each.__init__) for each in chain]


@pytest.mark.parametrize("path", CLASSES)
def test_names_and_defaults_are_those_of_the_class(path: str) -> None:
    expected: dict[str, object] = {}
    if path == train.TRACKING_TRAINER != train.TRACKING_SETTINGS:
        path = train.TRACKING_SETTINGS
    for signature in constructors(path):
        for parameter in list(signature.parameters.values())[1:]:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                default = Required if parameter.default is parameter.empty else parameter.default
                expected.setdefault(parameter.name, default)
        if not any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
            break
    assert {name: each.default for name, each in parameters_of(path).items()} == expected


@pytest.mark.parametrize("path", [path for path in CLASSES if path != train.TRACKING_TRAINER])
def test_each_parameter_has_a_sentence(path: str) -> None:
    for name, parameter in parameters_of(path).items():
        assert parameter.about or name in OBJECTS, name
        # An option's help stands alone.
        told = parameter.about.startswith(("As in", "As ``", "The same"))
        assert not told or name in {*OBJECTS, *train.PATHS, "streamline_group_name"}, f"{name}: {parameter.about}"
        assert "`" not in parameter.about, name
    assert summary_of(path)


def test_a_constant_is_the_modules() -> None:
    from dwiml.training.experiment.parameters import MAY_CHANGE

    assert resume.MAY_CHANGE == MAY_CHANGE
    with pytest.raises(ValueError, match="defines no constant NOTHING"):
        constant_of("dwiml.training.experiment.parameters.NOTHING")
    with pytest.raises(LookupError, match="There is no class"):
        parameters_of("dwiml.training.trainer.Nothing")
