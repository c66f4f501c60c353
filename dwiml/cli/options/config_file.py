"""``--config FILE.yaml``: read the options of a command from a file, and write them to one.

A value in the file is read as its text would be on the command line, so that ``max_time: 11:50:00`` is a time and
``experiment_name: 007`` is a name. An untrusted file cannot run code: its YAML nodes are never turned into objects.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from dwiml.arguments import shown
from dwiml.cli.options.derived import ON, FixedByClass, Reader
from dwiml.cli.options.parsing import meant_by, parse_known_options
from dwiml.cli.options.user_classes import CLASS_OPTIONS
from dwiml.files.json_files import parse_json
from dwiml.files.opening import open_regular
from dwiml.params import to_plain

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 2**16
MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp")}
# Options that are not part of a configuration.
_OWN = ("config", "print_config")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--print_config``."""
    group = parser.add_argument_group("configuration")
    group.add_argument("--config", metavar="YAML", help="read options from this file; the command line overrides it")
    group.add_argument("--print_config", action="store_true", help="print the options as a config file, and exit")


def parse_options(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    positional: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
) -> argparse.Namespace:
    """Parse a command line whose parser has the options of :func:`add_config_options`.

    An error in the command line or in the file ends the process with one sentence and exit code 2.

    Parameters
    ----------
    parser
        The command's parser.
    argv
        The arguments; None for those of the process.
    positional
        Options that may also be given without their names, in this order.
    fixed
        Values of the file that the command line has already decided, such as the name of the model: the file may have
        them, and they are printed with the options.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    asked = _asked(parser, words)
    fixed = fixed or {}
    values = {} if asked.config is None else _read(parser, asked.config, ignored=fixed)
    given = {word.partition("=")[0] for word in words}
    for group in parser._mutually_exclusive_groups:
        if any(given & set(action.option_strings) for action in group._group_actions):
            values = {name: value for name, value in values.items() if name not in _names(group._group_actions)}
    parser.set_defaults(**values)
    required = [action for action in parser._actions if action.required and action.option_strings]
    for action in required:
        action.required = False
    arguments = parse_known_options(parser, words, positional=positional)
    missing = [action for action in required if getattr(arguments, action.dest) is None]
    if missing and not asked.print_config:
        names = [str(action.metavar) if action.dest in positional else action.option_strings[0] for action in missing]
        parser.error(f"the following arguments are required: {', '.join(names)}")
    for name in _OWN:
        delattr(arguments, name)
    if asked.print_config:
        print(config_text(parser, vars(arguments), fixed), end="")
        sys.exit(0)
    return arguments


def value_in_file(parser: argparse.ArgumentParser, words: Sequence[str], name: str) -> tuple[str, str | None] | None:
    """Return the file given by ``--config`` and the text of one of its values; None without ``--config``.

    An unreadable file ends the process with one sentence and exit code 2.

    Parameters
    ----------
    parser
        The parser that reports errors.
    words
        The arguments of the command.
    name
        Name of the value; its text is None if the file does not have it.
    """
    asked = _asked(parser, words)
    if asked.config is None:
        return None
    with _reported(parser, asked.config):
        found = [node for key, node in _items(asked.config) if key == name]
        if found and not isinstance(content := _plain(found[0]), (str, int, float)):
            raise ValueError(f"{name}: a single value expected, got {shown(content)}")
    return asked.config, str(found[0].value) if found else None


def config_text(
    parser: argparse.ArgumentParser, values: Mapping[str, Any], fixed: Mapping[str, str] | None = None
) -> str:
    """Return the options in ``values`` as YAML, grouped as in the help of the command, after those in ``fixed``."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Quotes strings that :func:`_plain` would read as numbers, such as 1e-9."""

    Dumper.add_representer(
        str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, "'" if _scalar(text) != text else None)
    )

    def dumped(held: Mapping[str, Any]) -> str:
        return str(yaml.dump(held, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**6))

    parts = [dumped(dict(fixed))] if fixed else []
    for group in parser._action_groups:
        held = {name: to_plain(values[name], name) for name in _names(group._group_actions) if name in values}
        if held:
            title = (group.title or "").partition(" (")[0]
            parts.append(f"# {title}\n{dumped(held)}")
    return "\n".join(parts)


def _names(actions: Sequence[argparse.Action]) -> dict[str, argparse.Action]:
    """Return the options that a file may have (those with a long name), by name."""
    return {
        action.dest: action
        for action in actions
        if any(each.startswith("--") for each in action.option_strings)
        and action.dest not in (*_OWN, *CLASS_OPTIONS, "help")
    }


def _asked(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return the values of the options of :func:`add_config_options`."""
    own = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    add_config_options(own)
    return own.parse_known_args(words)[0]


def _read(parser: argparse.ArgumentParser, path: str, ignored: Collection[str]) -> dict[str, Any]:
    """Return the values of a parser's options in a file, or end the process."""
    known = _names(parser._actions)
    values: dict[str, Any] = {}
    read = set()
    with _reported(parser, path):
        for key, node in _items(path):
            if key not in known and key not in ignored:
                raise ValueError(f"there is no option '{key}'{meant_by(key, list(known))}")
            fixed = known.get(key)
            if isinstance(fixed, FixedByClass):
                raise ValueError(f"{fixed.sentence}: leave out '{key}'")
            if key in read:
                raise ValueError(f"'{key}' appears twice")
            read.add(key)
            if key in ignored:
                continue
            try:
                values[key] = _value(known[key], node)
            except (argparse.ArgumentTypeError, ValueError) as error:
                raise ValueError(f"{key}: {error}") from error
    return values


@contextmanager
def _reported(parser: argparse.ArgumentParser, path: str) -> Iterator[None]:
    """End the process with one sentence if the file cannot be read or is invalid."""
    try:
        yield
    except OSError as error:
        _fail(parser, str(error) if error.strerror is None else f"'{path}': {error.strerror}.")
    except ValueError as error:
        _fail(
            parser,
            f"invalid configuration '{path}': {str(error).removesuffix('?')}{'?' if str(error).endswith('?') else '.'}",
        )


def _fail(parser: argparse.ArgumentParser, sentence: str) -> NoReturn:
    parser.exit(2, f"{parser.prog}: error: {' '.join(sentence.split())}\n")


def _items(path: str) -> list[tuple[str, yaml.Node]]:
    """Return the keys of a file, with the nodes of their values."""
    import yaml

    with open_regular(path, "The configuration") as stream:
        if os.fstat(stream.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 2**10} KiB")
        text = stream.read(MAX_BYTES).decode("utf-8-sig")
    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML ({error})") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("it is not a list of options such as 'max_epochs: 10'")
    return [(_key(key), node) for key, node in root.value]


def _check_events(events: Iterable[yaml.Event]) -> None:
    """Refuse aliases, and deep nesting, of which building the nodes would take minutes."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias (*name), which is not supported")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")


def _key(node: yaml.Node) -> str:
    content = _plain(node)
    return str(content if isinstance(content, (list, dict)) else node.value)


def _plain(node: yaml.Node) -> Any:
    """Return the content of a node as JSON types."""
    import yaml

    if node.tag not in _PLAIN:
        raise ValueError(f"the tag {node.tag} is not supported")
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key, value in node.value:
            name = _key(key)
            if name in content:
                raise ValueError(f"'{name}' appears twice")
            content[name] = _plain(value)
        return content
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each) for each in node.value]
    if node.style is not None:
        return node.value
    if node.tag == f"{_TAG}bool":
        return node.value.lower() in ON
    return None if node.tag == f"{_TAG}null" else _scalar(node.value)


def _scalar(text: str) -> Any:
    """Return the number written in an unquoted scalar, or else its text."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _value(action: argparse.Action, node: yaml.Node) -> Any:
    """Return the value of an option, read from its node."""
    import yaml

    content = _plain(node)
    reader = Reader("bool", None) if action.nargs == 0 else action.type if callable(action.type) else str
    if content is None:
        if isinstance(reader, Reader) and reader.none is None and action.default is not None:
            raise ValueError("a value expected")
        return None
    if action.nargs == "+" and not (isinstance(node, yaml.ScalarNode) and getattr(reader, "alone", False)):
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not nodes or not all(isinstance(each, yaml.ScalarNode) for each in nodes):
            raise ValueError("a list of values expected")
        return [reader(each.value) for each in nodes]
    if isinstance(node, yaml.ScalarNode):
        value = reader(node.value)
    elif isinstance(reader, Reader) and reader.kind == "json":
        value = reader(json.dumps(content))
    else:
        raise ValueError("a single value expected")
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"one of {', '.join(map(str, action.choices))} expected, got '{value}'")
    return value
