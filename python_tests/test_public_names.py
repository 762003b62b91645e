"""Every public name says what it is: the site's reference is made of that."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from typing import Any

import pytest

import hast_cuda

PRIVATE = {f"hast_cuda.{name}" for name in ("checks", "cli", "files", "loops", "ops", "reproduce")}
PACKAGES = {m.name for m in pkgutil.iter_modules(hast_cuda.__path__, "hast_cuda.") if m.ispkg}
ROOMS = ["hast_cuda", *sorted(PACKAGES - PRIVATE)]
NAMES = [(room, name) for room in ROOMS for name in importlib.import_module(room).__all__]


def first_line(thing: Any) -> str:
    return (thing.__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize(("room", "name"), NAMES)
def test_public_names_are_documented(room: str, name: str) -> None:
    thing = getattr(importlib.import_module(room), name)
    if inspect.ismodule(thing):
        assert first_line(thing)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return
    assert first_line(thing)
    assert not first_line(thing).startswith(f"{name}("), "made by dataclass"
    if inspect.isfunction(thing):
        args = re.search(r"\n *Args:\n((?:    .*\n|\n)*)", inspect.cleandoc(thing.__doc__) + "\n")
        known = inspect.signature(thing).parameters
        for found in re.findall(r"^    \**(\w+): ", args[1] if args else "", re.MULTILINE):
            assert found in known
        return
    for member, value in vars(thing).items():
        if not member.startswith("_") and (inspect.isfunction(value) or type(value) is property):
            assert first_line(value) or member == "extra_repr", member
    if dataclasses.is_dataclass(thing):
        body = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0].body
        for field, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                said = isinstance(below, ast.Expr) or f"    {field.target.id}: " in thing.__doc__
                assert said, f"{ast.unparse(field)}: no string below it"
