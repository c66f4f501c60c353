"""The parameters of a class of the user, which is imported: names, types, defaults and descriptions."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

# Annotations of other names, as those that options know.
_SEQUENCES = ("Sequence", "Iterable", "Collection", "list", "List", "tuple", "Tuple")
_MAPPINGS = ("Mapping", "MutableMapping", "dict", "Dict")


def constructors(found: type[Any]) -> Iterator[type[Any]]:
    """Yield the classes whose constructors take the keywords of a class: itself and its superclasses.

    The superclasses of a constructor without ``**kwargs`` receive none.
    """
    for each in found.__mro__:
        if "__init__" not in vars(each) or each is object:
            continue
        yield each
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return


def keywords_of(owner: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of the constructor that a class defines itself, without ``*args`` and ``**kwargs``."""
    parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
    return {each.name: each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}


def fixed_by(owner: type[Any]) -> set[str]:
    """Return the keywords that the constructor of a class itself gives: ``super().__init__(name=..., **kwargs)``."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(vars(owner)["__init__"])))
    except (OSError, TypeError, SyntaxError):
        # Not defined in a file.
        return set()
    calls = (node for node in ast.walk(source) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    return {
        keyword.arg
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"
        for keyword in call.keywords
        if keyword.arg is not None
    }


def types_of(parameter: inspect.Parameter) -> tuple[str, ...]:
    """Return the members of the annotation of a parameter, as options know them; without one, those of its default.

    ``list[int]``, ``Tuple[int, ...]`` and the like become ``"Sequence[int]"``; ``dict`` and the like
    ``"Mapping[str, Any]"``; ``Optional[int]`` becomes ``"int", "None"``; ``Literal["a", "b"]`` becomes ``"str"``.
    """
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return _types_of_value(parameter.default)
    text = annotation.__name__ if isinstance(annotation, type) and not _is_generic(annotation) else str(annotation)
    try:
        node = ast.parse(re.sub(r"\b(typing|collections\.abc|typing_extensions)\.", "", text), mode="eval").body
    except SyntaxError:
        return (text,)
    return tuple(dict.fromkeys(_members(node)))


def _is_generic(annotation: Any) -> bool:
    # On Python 3.10, isinstance(list[int], type) is true.
    return hasattr(annotation, "__origin__")


def _types_of_value(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return ("Mapping[str, Any]",)
    if isinstance(value, (list, tuple)):
        kinds = {type(each).__name__ for each in value}
        return (f"Sequence[{kinds.pop()}]",) if len(kinds) == 1 else ()
    return (type(value).__name__,) if isinstance(value, (bool, int, float, str)) else ()


def _members(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.BinOp):
        yield from _members(node.left)
        yield from _members(node.right)
    elif isinstance(node, ast.Constant):
        # A forward reference in quotes, or None.
        if isinstance(node.value, str):
            yield from _members(ast.parse(node.value, mode="eval").body)
        else:
            yield "None"
    elif isinstance(node, ast.Name):
        yield {"NoneType": "None", **dict.fromkeys(_MAPPINGS, "Mapping[str, Any]")}.get(node.id, node.id)
    elif isinstance(node, ast.Subscript):
        yield from _subscript(ast.unparse(node.value).rpartition(".")[2], node.slice)
    else:
        yield ast.unparse(node)


def _subscript(name: str, inside: ast.expr) -> Iterator[str]:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name in ("Optional", "Union"):
        for part in parts:
            yield from _members(part)
        if name == "Optional":
            yield "None"
    elif name == "Literal":
        values = [part.value for part in parts if isinstance(part, ast.Constant)]
        yield from (type(value).__name__ if value is not None else "None" for value in values)
    elif name in _SEQUENCES:
        elements = {element for part in parts if ast.unparse(part) != "..." for element in _members(part)}
        yield f"Sequence[{elements.pop()}]" if len(elements) == 1 else f"{name}[{', '.join(sorted(elements))}]"
    elif name in _MAPPINGS:
        yield "Mapping[str, Any]"
    else:
        yield f"{name}[...]"
