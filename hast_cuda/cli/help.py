"""``hast-cuda VERB --help``, read from the source of the verb: torch is not imported, so it is there at once."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_WORDS = {"int": "INT", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}
_COLUMN = 28  # of the explanations
REQUIRED = object()


@dataclass(frozen=True)
class Option:
    """One option, or argument without a name in front of it."""

    name: str
    kind: str
    """What it takes, such as INT or {a,b}; empty for a switch."""
    default: Any
    """REQUIRED, the value, or None where the explanation says what happens."""
    says: str
    positional: bool = False
    repeated: bool = False
    """May be given several times."""

    @property
    def spelling(self) -> str:
        """As it is written in a command."""
        if self.positional:
            return self.name.upper() + (" ..." if self.kind.endswith("...") else "")
        flag = self.name.replace("_", "-")
        return f"--{'no-' if self.default is True else ''}{flag} {self.kind}".rstrip()


@dataclass(frozen=True)
class Group:
    """Options that belong together."""

    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Source:
    """One module, unexecuted."""

    path: Path

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Its statements."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    def find(self, name: str) -> tuple[Source, Any]:
        """The definition of a name, in the module that it is imported from, and that module."""
        for node in self.tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return self, node
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
                return self, node.value
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return source_of(str(node.module)).find(alias.name)
        raise LookupError(f"{self.path} has no {name}")


@functools.cache
def source_of(module: str) -> Source:
    """The source of ``hast_cuda.x.y``."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    return Source(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def options_of(function: str, module: str) -> list[Option]:
    """All that a function takes as a verb."""
    return [option for group in groups(*source_of(module).find(function)) for option in group.options]


def help_of(verb: str, function: str, module: str, shared: tuple[Option, ...] = ()) -> str:
    """All that a verb takes, in groups.

    Args:
        verb: as it is called.
        function: its name.
        module: where it is.
        shared: options that are not the function's own.
    """
    source = source_of(module)
    _, node = source.find(function)
    found = [*groups(source, node), Group("the command itself", shared)]
    options = [option for group in found for option in group.options]
    needed = [o.spelling for o in options if o.default is REQUIRED or (o.positional and o.kind.endswith("..."))]
    doc = ast.get_docstring(node) or ""
    wide = min(100, max(60, shutil.get_terminal_size().columns))
    lines = [f"usage: hast-cuda {' '.join([verb, *needed])} [options]"]
    for paragraph in doc.split("\n\nArgs:")[0].split("\n\n"):
        lines += ["", *textwrap.wrap(paragraph, wide)]
    for group in found:
        lines += ["", f"{group.title}:"]
        for option in group.options:
            lines += _shown(option, wide)
    return "\n".join(lines)


def sub_verbs(module: str) -> dict[str, str]:
    """Name and first line of the functions in VERBS of a module."""
    source = source_of(module)
    names = [element.id for element in source.find("VERBS")[1].elts]
    return {name: (ast.get_docstring(source.find(name)[1]) or "").partition("\n")[0] for name in names}


def groups(source: Source, node: ast.FunctionDef) -> list[Group]:
    """A function's own options, and those of the dataclasses that it takes apart."""
    said = _arguments(ast.get_docstring(node) or "")
    missing = len(node.args.args) - len(node.args.defaults)
    found: list[Group] = []
    own: list[Option] = []
    for index, argument in enumerate(node.args.args):
        assert argument.annotation is not None
        default = node.args.defaults[index - missing] if index >= missing else None
        nested = _flat(argument.annotation)
        if nested is None:
            own.append(_option(source, argument.arg, argument.annotation, default, said.get(argument.arg, "")))
        else:
            found += _fields(*source.find(nested))
    return _merged([Group("options", tuple(own)), *found])


def _fields(source: Source, node: ast.ClassDef) -> list[Group]:
    """Those of a dataclass, whose docstrings are below them; what it holds of other dataclasses behind it."""
    own: list[Option] = []
    found: list[Group] = []
    body = node.body
    for field, below in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        assert isinstance(field.target, ast.Name)
        nested = _flat(field.annotation)
        if nested is not None:
            found += _fields(*source.find(nested))
            continue
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
        own.append(_option(source, field.target.id, field.annotation, field.value, " ".join(str(text).split())))
    title = re.split(r"[.;:]", ast.get_docstring(node) or node.name)[0]
    return [Group(title[0].lower() + title[1:], tuple(own)), *found]


def _merged(found: list[Group]) -> list[Group]:
    """Without empty ones, those of one title as one, what must be given first."""
    by_title: dict[str, list[Option]] = {}
    for group in found:
        by_title.setdefault(group.title, []).extend(group.options)
    return [
        Group(title, tuple(sorted(options, key=lambda o: (not o.positional, o.default is not REQUIRED))))
        for title, options in by_title.items()
        if options
    ]


def _flat(annotation: ast.expr) -> str | None:
    """The dataclass of ``Annotated[X, Flat]``."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        inner = annotation.slice
        if isinstance(inner, ast.Tuple) and ast.unparse(inner.elts[1]) == "Flat":
            return ast.unparse(inner.elts[0])
    return None


def _option(source: Source, name: str, annotation: ast.expr, default: ast.expr | None, says: str) -> Option:
    text = ast.unparse(annotation)
    positional, repeated = "Positional[" in text, "UseAppendAction[" in text
    if positional or repeated:
        assert isinstance(annotation, ast.Subscript)
        annotation = annotation.slice
    kind = _kind(source, annotation)
    value = REQUIRED if default is None else _value(default)
    return Option(name, kind.removesuffix(" ...") if repeated else kind, value, says, positional, repeated)


def _value(default: ast.expr) -> Any:
    if isinstance(default, ast.Call):  # field(default=...), Path(...)
        given = [k.value for k in default.keywords if k.arg == "default"] or default.args
        default = given[0]
    return ast.literal_eval(default)


def _kind(source: Source, annotation: ast.expr) -> str:
    if isinstance(annotation, ast.BinOp):  # X | None
        kinds = [_kind(source, side) for side in (annotation.left, annotation.right)]
        return "|".join(kind for kind in kinds if kind)
    if isinstance(annotation, ast.Constant):
        return ""
    if isinstance(annotation, ast.Name):
        if annotation.id == "bool":
            return ""
        return _WORDS.get(annotation.id) or _kind(*source.find(annotation.id))
    assert isinstance(annotation, ast.Subscript)
    inner = annotation.slice
    if ast.unparse(annotation.value) == "Literal":
        values = [ast.literal_eval(e) for e in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
        return "{" + ",".join(map(str, values)) + "}"
    assert isinstance(inner, ast.Tuple)  # tuple[X, ...], tuple[X, Y]
    if ast.unparse(inner.elts[-1]) == "...":
        return f"{_kind(source, inner.elts[0])} ..."
    return " ".join(_kind(source, part) for part in inner.elts)


def _arguments(doc: str) -> dict[str, str]:
    """The section Args of a docstring."""
    section = re.search(r"Args:\n((?:    .*\n|\n)*)", doc + "\n")
    texts = re.findall(r"^    (\w+): ((?:.*\n(?:     .*\n)*))", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in texts}


def _shown(option: Option, wide: int) -> Iterator[str]:
    says, value = option.says, option.default
    if value is REQUIRED and not option.positional:
        says += " (required)"
    elif isinstance(value, (int, float, str)) and not isinstance(value, bool) and value != "":
        says += f" (default: {value})"
    elif isinstance(value, tuple) and value:
        says += f" (default: {' '.join(map(str, value))})"
    head = f"  {option.spelling}"
    if value is True:
        says += " (on, if it is not given)"
    lines = textwrap.wrap(says, wide - _COLUMN, break_on_hyphens=False) or [""]
    if len(head) > _COLUMN - 2:
        yield from textwrap.wrap(
            option.spelling.replace(",", ", "), wide, initial_indent="  ", subsequent_indent="      "
        )
        head = ""
    yield f"{head:<{_COLUMN}}{lines[0]}"
    for line in lines[1:]:
        yield f"{'':<{_COLUMN}}{line}"
