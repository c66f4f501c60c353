"""Options that derive from the parameters of the library's classes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dwiml.cli.declarations import Parameter, Required
from dwiml.files.reading import parse_json

_NUMBERS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "int": (int, "a whole number", "N"),
    "float": (float, "a number", "X"),
}


@dataclass(frozen=True)
class Reader:
    """Makes the value of an option of its text.

    Attributes
    ----------
    kind
        ``"int"``, ``"float"``, ``"bool"``, ``"str"`` or ``"json"`` (an object).
    none
        The text that means None; None where the option takes no such value.
    alone
        Of an option that takes several values: a single one need not be a list.
    """

    kind: str
    none: str | None
    alone: bool = False

    def __call__(self, text: str) -> Any:
        """Return the value.

        Raises
        ------
        argparse.ArgumentTypeError
            With what was expected, and what was given.
        """
        if self.none is not None and text.lower() in (self.none, "none"):
            return None
        if self.kind == "str":
            return text
        if self.kind == "json":
            return json_object(text)
        if self.kind == "bool":
            return self._choice(text)
        read, expected, _ = _NUMBERS[self.kind]
        try:
            return read(text)
        except ValueError:
            also = f" or '{self.none}'" if self.none is not None else ""
            hint = "; separate several by spaces" if "," in text else ""
            raise argparse.ArgumentTypeError(f"{expected}{also} expected, got '{text}'{hint}") from None

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        name = {"str": "TEXT", "json": "JSON", "bool": "yes|no"}.get(self.kind) or _NUMBERS[self.kind][2]
        return name if self.none is None else f"{name}|{self.none}"

    def _choice(self, text: str) -> bool:
        value = {"yes": True, "true": True, "no": False, "false": False}.get(text.lower())
        if value is None:
            also = f" or {self.none}" if self.none is not None else ""
            raise argparse.ArgumentTypeError(f"yes, no{also} expected, got '{text}'")
        return value


class Flag(argparse.Action):
    """An option without a value: some of its spellings turn it on, and some off."""

    def __init__(self, option_strings: list[str], dest: str, *, off: Iterable[str], **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)
        self.off = frozenset(off)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Set the value that the spelling means."""
        setattr(namespace, self.dest, option_string not in self.off)


def add_option(
    group: argparse._ActionsContainer,
    parameter: Parameter,
    *,
    name: str | None = None,
    absent: bool = False,
    shown: str | None = None,
    about: str | None = None,
    none: str | None = None,
    on: tuple[str, ...] = (),
    off: tuple[str, ...] = (),
) -> None:
    """Add the option of a parameter; one that takes only what no text can be is left out.

    Parameters
    ----------
    group
        What it is added to.
    parameter
        Gives type, default and help.
    name
        Of the option, without dashes; None: as the parameter.
    absent
        Have no value where the option is not given, in place of the parameter's default.
    shown
        The default as the help has it; of a parameter without one: the option need not be given, and is None.
    about
        The help, in place of the docstring's.
    none
        The text that means None; "none", or "auto" for yes and no, where it is None.
    on, off
        Further spellings of a flag.
    """
    name = name or parameter.name
    kinds = [kind for kind in map(_kind, parameter.types) if kind is not None]
    if not kinds:
        return
    none = none or ("auto" if kinds[0] == "bool" else "none")
    is_flag = parameter.types == ("bool",)
    required = parameter.default is Required and not absent and shown is None
    default = None if parameter.default is Required else parameter.default
    shown = shown or ("required" if required else _shown(default, none, is_flag=is_flag))
    options: dict[str, Any] = {
        "dest": name,
        "help": f"{_as_help(about or parameter.about, none)} [{shown}]",
        "required": required,
    }
    options["default"] = argparse.SUPPRESS if absent else default
    if is_flag:
        negations = (*off, f"--no_{name.removeprefix('use_')}")
        group.add_argument(f"--{name}", *on, *negations, action=Flag, off=negations, **options)
        return
    several = any(each.startswith("Sequence[") for each in parameter.types)
    reader = Reader(kinds[0], none if "None" in parameter.types else None, alone=kinds[0] in parameter.types)
    options |= {"nargs": "+"} if several else {}
    group.add_argument(f"--{name}", type=reader, metavar=reader.metavar, **options)


def json_object(text: str) -> dict[str, Any]:
    """Return what a JSON object holds.

    Raises
    ------
    argparse.ArgumentTypeError
        For anything else.
    """
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"a JSON object expected, got '{text}'")
    return value


def _kind(annotation: str) -> str | None:
    """Return how the text of an option of this type is read; None where it is no text's."""
    annotation = re.sub(r"^Sequence\[(.*)\]$", r"\1", annotation)
    if annotation.startswith("Mapping["):
        return "json"
    return annotation if annotation in ("int", "float", "bool", "str") else None


def _shown(value: Any, none: str, *, is_flag: bool) -> str:
    if is_flag:
        return "on" if value else "off"
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(none if each is None else f"{each:g}" if isinstance(each, float) else str(each) for each in values)


def _as_help(about: str, none: str) -> str:
    """Return a docstring's sentence as the help has it: None is a word, and argparse reads a percent sign."""
    return re.sub(r"\bNone\b", none, about).replace("%", "%%")
