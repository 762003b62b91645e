"""What the source says about an object: signature, fields and docstrings, as they are written.

Everything is read from the syntax tree and the text, never from reprs, so that the result does not
depend on the version of Python.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH = 88  # of a signature on one line
Function = ast.FunctionDef | ast.AsyncFunctionDef
_FIELD = ("field", "dataclasses.field")
_HIDDEN = ("extra_repr",)  # torch's; says nothing to a caller


@dataclass(frozen=True)
class Field:
    """A field of a dataclass; ``text`` is the string literal below it, or empty."""

    name: str
    annotation: str
    default: str | None
    text: str


@dataclass(frozen=True)
class Member:
    """A method or property: how it is written to be used, and its docstring."""

    signature: str
    docstring: str


@functools.cache
def _module(path: str) -> tuple[str, ast.Module]:
    text = Path(path).read_text(encoding="utf-8")
    return text, ast.parse(text)


def definition(thing: Any) -> tuple[str, ast.ClassDef | Function]:
    """The source file's text and the node that defines a class or function."""
    thing = inspect.unwrap(thing)
    path = inspect.getsourcefile(thing)
    assert path is not None
    text, node = _module(path)
    found: Any = node
    for name in thing.__qualname__.split("."):
        found = next(child for child in found.body if getattr(child, "name", None) == name)
    return text, found


def docstring(thing: Any) -> str:
    """The docstring in the source; empty if there is none. Generated ones do not count."""
    return ast.get_docstring(definition(thing)[1]) or ""


def signature(thing: Any, name: str, *, wrap_at: int = WIDTH) -> str:
    """``name(arguments) -> result`` of a function, or of a class's constructor if it has one."""
    text, node = definition(thing)
    if not isinstance(node, ast.ClassDef):
        return _function(text, node, name, skip=0, wrap_at=wrap_at)
    for child in node.body:
        if isinstance(child, Function) and child.name == "__init__":
            return _function(text, child, name, skip=1, wrap_at=wrap_at).removesuffix(" -> None")
    given = [f"{f.name}: {f.annotation}" + _default(f.default) for f in fields(thing)]
    return _layout(name, given, "", wrap_at) if given else name


def fields(thing: Any) -> list[Field]:
    """The fields of a dataclass in order; none for another class."""
    text, node = definition(thing)
    if not hasattr(thing, "__dataclass_fields__"):
        return []
    found = []
    for child, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            found.append(
                Field(child.target.id, _text(text, child.annotation), _value(text, child.value),
                _literal(below))
            )  # fmt: skip
    return found


def members(thing: Any) -> Iterator[Member]:
    """Public methods and properties that a class defines itself, in order."""
    text, node = definition(thing)
    for child in node.body:
        if not isinstance(child, Function) or child.name.startswith("_") or child.name in _HIDDEN:
            continue
        kinds = {d.id for d in child.decorator_list if isinstance(d, ast.Name)}
        if kinds & {"property", "cached_property"}:
            result = f" -> {_text(text, child.returns)}" if child.returns else ""
            written = child.name + result
        else:
            skip = 0 if "staticmethod" in kinds else 1
            written = _function(text, child, child.name, skip=skip, wrap_at=sys.maxsize)
        yield Member(written, ast.get_docstring(child) or "")


def arguments(thing: Any) -> list[tuple[str, str, str | None]]:
    """(name, annotation, default) of the parameters of a function."""
    text, node = definition(thing)
    assert not isinstance(node, ast.ClassDef)
    return [(a.arg, _text(text, a.annotation), _value(text, d)) for a, d in _pairs(node)]


def _pairs(node: Function) -> list[tuple[ast.arg, ast.expr | None]]:
    """Positional and keyword parameters with their defaults."""
    positional = [*node.args.posonlyargs, *node.args.args]
    none: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    pairs = list(zip(positional, [*none, *node.args.defaults], strict=True))
    return pairs + list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))


def _function(text: str, node: Function, name: str, *, skip: int, wrap_at: int) -> str:
    pairs = [
        argument.arg
        + (f": {_text(text, argument.annotation)}" if argument.annotation else "")
        + _default(_value(text, default))
        for argument, default in _pairs(node)
    ]
    positional = len(node.args.posonlyargs) + len(node.args.args)
    given, keywords = pairs[skip:positional], pairs[positional:]
    if only := len(node.args.posonlyargs):
        given.insert(only - skip, "/")
    if node.args.vararg:
        given.append(f"*{node.args.vararg.arg}: {_text(text, node.args.vararg.annotation)}")
    elif keywords:
        given.append("*")
    given += keywords
    if node.args.kwarg:
        given.append(f"**{node.args.kwarg.arg}: {_text(text, node.args.kwarg.annotation)}")
    result = f" -> {_text(text, node.returns)}" if node.returns else ""
    return _layout(name, given, result, wrap_at)


def _layout(name: str, given: list[str], result: str, wrap_at: int) -> str:
    line = f"{name}({', '.join(given)}){result}"
    if len(line) <= wrap_at or not given:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in given) + f"){result}"


def _text(text: str, node: ast.AST | None) -> str:
    """A node as it is written, on one line."""
    return "" if node is None else " ".join((ast.get_source_segment(text, node) or "").split())


def _value(text: str, node: ast.expr | None) -> str | None:
    """A default as it is written; that of a factory as a call of it."""
    if node is None:
        return None
    if isinstance(node, ast.Call) and _text(text, node.func) in _FIELD:
        for keyword in node.keywords:
            if keyword.arg == "default_factory":
                return f"{_text(text, keyword.value)}()"
            if keyword.arg == "default":
                return _text(text, keyword.value)
        return None
    return _text(text, node)


def _default(value: str | None) -> str:
    return "" if value is None else f" = {value}"


def _literal(node: ast.AST | None) -> str:
    """The text of a string that stands alone."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return ""
