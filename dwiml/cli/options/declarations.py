"""The parameters of a class, read from its source: names, types, defaults and descriptions.

The options of the command line derive from them. Reading the source takes milliseconds; importing the class, which
needs torch, takes seconds, too long for a help text or for the error about a mistyped option. Only a class of the user
is imported: its superclasses may be in any module.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from typing import Any

from dwiml.cli.options.inspected import constructors, fixed_by, keywords_of, types_of


class Required:
    """Marks a parameter without a default."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a constructor.

    Attributes
    ----------
    name
        Its name in the signature.
    types
        The members of its annotation, as written: ``("int", "None")``.
    default
        Its default, or :class:`Required`.
    about
        The first sentence of its description in the docstring, without markup.
    """

    name: str
    types: tuple[str, ...]
    default: Any
    about: str


def parameters_of(path: str | type[Any], *, inherited: bool = True) -> dict[str, Parameter]:
    """Return the parameters of a class, by name, in the order of the signature.

    Parameters
    ----------
    path
        Path of a class of dwiml, such as ``"dwiml.models.learn2track.Learn2TrackModel"``; it has a constructor, or is a
        dataclass. Or a class of the user.
    inherited
        Include the parameters that its superclasses receive through ``**kwargs``.

    Raises
    ------
    LookupError
        If there is no such class.
    """
    return _of_source(path, inherited) if isinstance(path, str) else _of_class(path, inherited)


@cache
def _of_source(path: str, inherited: bool) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for module, node in _chain(path) if inherited else [_class(path)]:
        about = _descriptions(ast.get_docstring(node) or "")
        for argument, default in _arguments(node):
            types = tuple(map(ast.unparse, _members(argument.annotation)))
            value = Required if default is None else _value(default, module)
            found.setdefault(argument.arg, Parameter(argument.arg, types, value, about.get(argument.arg, "")))
    return found


def _of_class(found: type[Any], inherited: bool) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    fixed: set[str] = set()
    for owner in constructors(found) if inherited else [found]:
        about = _descriptions_of(owner)
        for name, given in keywords_of(owner).items():
            value = Required if given.default is given.empty else given.default
            if name not in fixed:
                parameters.setdefault(name, Parameter(name, types_of(given), value, about.get(name, "")))
        # Those that a subclass gives itself are not taken from its caller; these are given by commands, not by users.
        fixed |= fixed_by(owner) - {"nb_features", "experiment_name"}
    return parameters


def summary_of(path: str | type[Any]) -> str:
    """Return the first sentence of a class's docstring; for a class of the user without one, its name."""
    if isinstance(path, type):
        return _sentence(path.__doc__ or path.__name__)
    return _sentence(ast.get_docstring(_class(path)[1]) or "")


def constant_of(path: str) -> Any:
    """Return a constant of a module, such as ``"dwiml.tracking.seeds.PLACEMENTS"``.

    Raises
    ------
    ValueError
        If it is neither a literal nor a frozenset of a literal.
    """
    module, _, name = path.rpartition(".")
    return _value(ast.Name(name), module)


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    loader = None if spec is None else spec.loader
    source = loader.get_source(module) if isinstance(loader, InspectLoader) else None
    if source is None:
        raise LookupError(f"The source of {module} was not found.")
    return ast.parse(source)


def _class(path: str) -> tuple[str, ast.ClassDef]:
    """Return the module of a class, and the definition of the class."""
    module, _, name = path.rpartition(".")
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    raise LookupError(f"There is no class {path}.")


def _chain(path: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield a class, and its superclasses in dwiml as long as each passes on its keywords."""
    module, node = _class(path)
    yield module, node
    init = _init(node)
    if init is not None and init.args.kwarg is None:
        return
    imported = {
        alias.asname or alias.name: f"{statement.module}.{alias.name}"
        for statement in _tree(module).body
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("dwiml.")
        for alias in statement.names
    }
    own = {each.name for each in _tree(module).body if isinstance(each, ast.ClassDef)}
    for base in node.bases:
        name = ast.unparse(base)
        if name in own or name in imported:
            yield from _chain(imported.get(name, f"{module}.{name}"))


def _init(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)


def _arguments(node: ast.ClassDef) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Yield the arguments of a class's constructor, each with its default."""
    init = _init(node)
    if init is not None:
        positional = init.args.args[1:]
        without = [None] * (len(positional) - len(init.args.defaults))
        yield from zip(positional, [*without, *init.args.defaults], strict=True)
        yield from zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    elif any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield ast.arg(field.target.id, field.annotation), field.value


def _members(annotation: ast.expr | None) -> Iterator[ast.expr]:
    """Yield the members of a union."""
    if isinstance(annotation, ast.BinOp):
        yield from _members(annotation.left)
        yield from _members(annotation.right)
    elif annotation is not None:
        yield annotation


def _value(node: ast.expr, module: str) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "frozenset":
        return frozenset(ast.literal_eval(node.args[0]))
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    for each in _tree(module).body:
        if isinstance(each, ast.Assign) and node.id in map(ast.unparse, each.targets):
            return _value(each.value, module)
    raise ValueError(f"{module} defines no constant {node.id}.")


def _descriptions(docstring: str) -> dict[str, str]:
    """Return the first sentence about each parameter of a numpydoc docstring."""
    found: dict[str, str] = {}
    for section in ("Parameters", "Attributes"):
        body = re.search(rf"^{section}\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", docstring, re.DOTALL | re.MULTILINE)
        for names, text in re.findall(r"^(\S[^\n]*)\n((?:[ \t]+[^\n]*\n?|\n)*)", body[1] if body else "", re.MULTILINE):
            for name in names.partition(" : ")[0].split(", "):
                found.setdefault(name.lstrip("*"), _sentence(text))
    return found


def _descriptions_of(owner: type[Any]) -> dict[str, str]:
    """Return the first sentence about each parameter of a class, in its docstring or in that of its constructor."""
    documented = (owner, vars(owner)["__init__"])
    return {
        name: about
        for each in documented
        for name, about in _descriptions(inspect.cleandoc(each.__doc__ or "")).items()
    }


def _sentence(text: str) -> str:
    text = " ".join(inspect.cleandoc(text).split())
    text = re.sub(r" \(:\w+:`[^`]*`\)", "", text)
    text = re.sub(r":\w+:`~?(?:[^`<]*[.<])?(\w+)>?`", r"\1", text)
    text = re.sub(r"``\"(.*?)\"``|``(.*?)``|`(.*?)`", lambda found: next(filter(None, found.groups()), ""), text)
    return re.split(r"(?<=[.?!])\s+", text)[0].rstrip(".")
