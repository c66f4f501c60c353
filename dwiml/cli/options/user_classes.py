"""Options that name a class of the user."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from typing import Any

from dwiml.arguments import quoted
from dwiml.cli.options.declarations import Parameter, Required, parameters_of
from dwiml.cli.options.derived import FixedByClass, has_option
from dwiml.cli.options.inspected import constructors, fixed_by, keywords_of
from dwiml.user_classes.finding import is_dwiml_class

MODEL_CLASS = "model_class"
TRAINER_CLASS = "trainer_class"
CLASSIFIER_CLASS = "classifier_class"

CLASS_OPTIONS = (MODEL_CLASS, TRAINER_CLASS, CLASSIFIER_CLASS)
"""These options are never read from a file: its code would run, and the file may come from another person."""


def add_class_options(
    parser: argparse.ArgumentParser, *, model: bool = True, trainer: bool = False, classifier: bool = False
) -> None:
    """Add ``--model_class``, ``--trainer_class`` and ``--classifier_class``.

    Parameters
    ----------
    parser
        The command's parser.
    model, trainer, classifier
        Which of these options to add.
    """
    group = parser.add_argument_group("classes of your own (their code is run)")
    forms = "FILE.py:CLASS or package.module:CLASS"
    if model:
        group.add_argument(
            f"--{MODEL_CLASS}",
            metavar="CLASS",
            help=f"class of the model, if it is not part of dwiml or of an installed package: {forms}",
        )
    if classifier:
        group.add_argument(
            f"--{CLASSIFIER_CLASS}", metavar="CLASS", help=f"class of the model of --classifier, likewise: {forms}"
        )
    if trainer:
        group.add_argument(
            f"--{TRAINER_CLASS}", metavar="CLASS", help=f"class of the trainer, if it is not part of dwiml: {forms}"
        )


def own_parameters(found: type[Any]) -> dict[str, Parameter]:
    """Return the parameters that the user's own classes, not those of dwiml, add to the constructor of a class."""
    owners = [each for each in constructors(found) if not is_dwiml_class(each)]
    names = {name for owner in owners for name in keywords_of(owner)}
    return {name: parameter for name, parameter in parameters_of(found).items() if name in names}


def own_fixed(found: type[Any]) -> set[str]:
    """Return the keywords that the user's own classes, not those of dwiml, give to their superclasses themselves."""
    return {name for owner in constructors(found) if not is_dwiml_class(owner) for name in fixed_by(owner)}


def refuse_fixed(parser: argparse.ArgumentParser, found: type[Any], *, alone: Collection[str] = ()) -> None:
    """Have a parser say that a class of the user sets an option itself, instead of that there is no such option.

    Parameters
    ----------
    parser
        The command's parser, with the options that exist.
    found
        The class.
    alone
        Options of which only one can be given: if the class sets one of them, it is said for the others too.
    """
    known = {action.dest for action in parser._actions}
    fixed = own_fixed(found)
    instead = {name: each for each in alone if each in fixed for name in alone}
    for name in sorted({*fixed, *instead} - known):
        sentence = f"{found.__name__} sets {instead.get(name, name)} itself"
        parser.add_argument(f"--{name}", action=FixedByClass, sentence=sentence)


def check_options(
    owner: type[Any],
    parameters: Mapping[str, Parameter],
    parser: argparse.ArgumentParser,
    others: Collection[str] = (),
    *,
    given: Collection[str],
) -> None:
    """Check that the parameters of a class of the user can be options of a command.

    Parameters
    ----------
    owner
        The class, for the error message.
    parameters
        Its parameters, by name.
    parser
        The command's parser.
    others
        Names of further options that the parser will have.
    given
        Parameters that the command gives.

    Raises
    ------
    ValueError
        If a parameter has the name of another option, or has no default and no type that can be given as text.
    """
    asked = {name: parameter for name, parameter in parameters.items() if name not in given}
    taken = {action.dest for action in parser._actions} | set(others)
    if clash := [name for name in asked if name in taken]:
        raise ValueError(
            f"Parameters of {owner.__name__} have the names of other options of this command ({quoted(clash)}): rename "
            "them."
        )
    missing = [name for name, each in asked.items() if each.default is Required and not has_option(each)]
    if missing:
        raise ValueError(
            f"Parameters of {owner.__name__} cannot be given as text ({quoted(missing)}): give them a default, or an "
            "annotation such as int, float, str or list[int]."
        )
