"""Options of the command line that derive from parameters of the library."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dwiml.arguments import shown
from dwiml.cli.options.declarations import Parameter, Required
from dwiml.files.json_files import parse_json
from dwiml.files.reasons import reason_of


def _finite(text: str) -> float:
    """Return a finite number; a whole number written without a point stays an int, as in a script."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        return number


_EXAMPLE = """give one in quotes, such as '{"name": 0.5}'"""
_NUMBERS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "int": (int, "a whole number", "N"),
    "float": (_finite, "a number", "X"),
}
# The booleans of YAML 1.1.
ON, OFF = ("yes", "true", "on"), ("no", "false", "off")


@dataclass(frozen=True)
class Reader:
    """Converts the text of an option to its value.

    Attributes
    ----------
    kind
        ``"int"``, ``"float"``, ``"bool"``, ``"str"`` or ``"json"`` (an object).
    none
        The text that means None; None if the option cannot be None.
    alone
        Whether an option of several values also takes a single value outside a list.
    """

    kind: str
    none: str | None
    alone: bool = False

    def __call__(self, text: str) -> Any:
        """Return the value.

        Raises
        ------
        argparse.ArgumentTypeError
            If the text is not of this kind.
        """
        if self.none is not None and text.lower() in (self.none, "none"):
            return None
        if self.kind == "str":
            return text
        if self.kind == "json":
            return json_object(text)
        if self.kind == "bool":
            if text.lower() in (*ON, *OFF):
                return text.lower() in ON
            also = f"yes, no or {self.none}" if self.none is not None else "yes or no"
            raise argparse.ArgumentTypeError(f"{also} expected, got {shown(text)}")
        read, expected, _ = _NUMBERS[self.kind]
        try:
            return read(text)
        except ValueError:
            also = f" or '{self.none}'" if self.none is not None else ""
            hint = "; separate values by spaces" if "," in text else ""
            raise argparse.ArgumentTypeError(f"{expected}{also} expected, got {shown(text)}{hint}") from None

    @property
    def metavar(self) -> str:
        """The placeholder of the value in the help."""
        name = {"str": "TEXT", "json": "JSON", "bool": "yes|no"}.get(self.kind) or _NUMBERS[self.kind][2]
        return name if self.none is None else f"{name}|{self.none}"


class Flag(argparse.Action):
    """An option without a value; some of its spellings turn it on, the others off."""

    def __init__(self, option_strings: list[str], dest: str, *, off: Iterable[str], **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)
        self.off = frozenset(off)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Set the value of the spelling that was used."""
        setattr(namespace, self.dest, option_string not in self.off)


class FixedByClass(argparse.Action):
    """An option that a command would have, if a class of the user did not set it: it may not be given."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, sentence: str) -> None:
        super().__init__(option_strings, dest, nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.sentence = sentence

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """End the process with one sentence."""
        parser.error(f"{self.sentence}: leave out --{self.dest}")


class OneOrMore(argparse.Action):
    """An option of one or more values; its value is a list only if there are several."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Set the value, or the list of values."""
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def add_option(
    group: argparse._ActionsContainer,
    parameter: Parameter,
    *,
    name: str | None = None,
    absent: bool = False,
    shown: str | None = None,
    about: str | None = None,
    none: str | None = None,
    off: tuple[str, ...] = (),
) -> None:
    """Add the option of a parameter, unless its values cannot be given as text.

    Parameters
    ----------
    group
        Parser or group to which the option is added.
    parameter
        Parameter with the type, default and help of the option.
    name
        Name of the option, without dashes; None for the name of the parameter.
    absent
        Set no attribute if the option is not given, instead of the parameter's default.
    shown
        Default shown in the help. An option whose parameter has no default is then optional, and None if not given.
    about
        Help text; None for the sentence of the docstring.
    none
        Text that means None; None for "auto" if the option takes yes or no, and "none" otherwise.
    off
        Additional spellings that turn a flag off.
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
        group.add_argument(f"--{name}", *negations, action=Flag, off=negations, **options)
        return
    several = any(each.startswith("Sequence[") for each in parameter.types)
    reader = Reader(kinds[0], none if "None" in parameter.types else None, alone=kinds[0] in parameter.types)
    options |= {"nargs": "+"} if several else {}
    metavar = "FILE" if name.endswith("_file") else reader.metavar
    group.add_argument(f"--{name}", type=reader, metavar=metavar, **options)


def has_option(parameter: Parameter) -> bool:
    """Return whether :func:`add_option` adds an option for a parameter: whether its values can be given as text."""
    return any(_kind(each) is not None for each in parameter.types)


def json_object(text: str) -> dict[str, Any]:
    """Return the dictionary of a JSON object.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is not a JSON object.
    """
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({reason_of(error)}); {_EXAMPLE}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"a JSON object expected, got {shown(text)}; {_EXAMPLE}")
    return value


def _kind(annotation: str) -> str | None:
    """Return the :class:`Reader` kind of a type; None if a value of the type cannot be given as text."""
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
    """Return a docstring's sentence for the help: with the word for None, and percent signs escaped for argparse."""
    text = re.sub(r"\bNone\b", none, about).replace("%", "%%")
    # As in argparse's own sentences; names such as L2 keep their capital.
    return text[:1].lower() + text[1:] if re.match("[A-Z][a-z ]", text) else text
