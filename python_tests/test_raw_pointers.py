"""Raw pointers go to the compiled core from the ops alone, and the core checks what it can."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing.calls import MODULES

from hast_cuda.ops._registry import core

PACKAGE = Path(__file__).parents[1] / "hast_cuda"
STUB = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
ENTRIES = {n.name: n for n in STUB.body if isinstance(n, ast.FunctionDef) and n.args.kwonlyargs}
# Take no address.
HARMLESS = {"capture_number", "new_counters"}
DOOR = PACKAGE / "ops" / "_registry.py"
SIZES = "outer channels inner rows classes size images spatial batch batches columns"
GOOD: dict[str, Any] = {"dtype": 0, "bits": 4, "device": -1} | dict.fromkeys(SIZES.split(), 1)
GOOD |= {"eps": 1e-5, "beta": 0.9, "temperature": 1.0, "exponent": 1.0}
GOOD |= {"patience": 1.0, "factor": 0.1, "threshold": 0.1, "minimum": 0.1}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_only_the_ops_call_the_core() -> None:
    callers = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in ENTRIES:
                continue
            if isinstance(node.value, ast.Name) and node.value.id in ("core", "_core"):
                callers.add(path.parent.name)
    assert callers == {"ops"}  # and this finds them


def test_only_one_file_imports_the_core() -> None:
    importers = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
            if any(m.endswith("._core") for m in modules):
                importers.add(path)
        if '"hast_cuda._core"' in path.read_text(encoding="utf-8"):
            importers.add(path)
    assert importers == {DOOR}


def test_the_core_gets_addresses_of_tensors_that_have_a_name() -> None:
    # What has none is freed before the core is called.
    given = [
        ast.unparse(node.args[0])
        for path in (PACKAGE / "ops").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pointer"
    ]
    assert len(given) > 50
    assert [text for text in given if not text.isidentifier()] == []


def test_no_public_name_is_the_core_or_takes_an_address() -> None:
    for path in MODULES:
        module = importlib.import_module(path)
        for name in module.__all__:
            thing = getattr(module, name)
            assert thing is not core, f"{path}.{name}"
            assert not (inspect.isbuiltin(thing) and name in ENTRIES), f"{path}.{name}"


def arguments(name: str, **changed: Any) -> dict[str, Any]:
    """Sizes of one element, valid codes, and null pointers."""
    found: dict[str, Any] = {}
    for argument in ENTRIES[name].args.kwonlyargs:
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        usual = {} if kind == "Pointer" else GOOD  # beta is a number of one op and a tensor of another
        value = usual.get(argument.arg, False if kind == "bool" else 0)
        found[argument.arg] = [value] if "Sequence" in kind else value
        if argument.arg in changed:
            new = changed[argument.arg]
            found[argument.arg] = [new] if "Sequence" in kind else new
    return found


def entry(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(core, name)
    return function


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - HARMLESS))
def test_null_pointers_are_refused(name: str) -> None:
    if name.endswith("_scratch"):
        assert entry(name)(**arguments(name)) >= 0
        return
    with pytest.raises(ValueError, match=rf"hast_cuda\.{name}: .* is a null pointer"):
        entry(name)(**arguments(name))


WRONG = {
    "dtype": [-1, 4],
    "activation": [-1, 3],
    "bits": [1, 9],
    "gate": [-1, 3],
    "device": [-2],
    "outer": [-1, 2**62],
    "channels": [-1],
    "inner": [-1],
    "rows": [-1, 2**62],
    "size": [-1, 2**62],
    "classes": [0],
    "batch": [0],
    "columns": [2**62],
}
NO_POINTERS = {"stream", "activation", "gate", "dtype", "channels_last"}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        (name, argument.arg, value)
        for name, function in sorted(ENTRIES.items())
        for argument in function.args.kwonlyargs
        for value in WRONG.get(argument.arg, [])
    ],
)
def test_codes_and_sizes_are_checked(name: str, argument: str, value: int) -> None:
    # Addresses that nobody may follow: what is wrong must be noticed before.
    pointers = {a: 8 for a, v in arguments(name).items() if v in (0, [0]) and v is not False}
    changed = {a: p for a, p in pointers.items() if a not in NO_POINTERS} | {argument: value}
    with pytest.raises(ValueError, match=rf"hast_cuda\.{name}: (?!.*null pointer)"):
        entry(name)(**arguments(name, **changed))


def test_lists_of_different_lengths_are_refused() -> None:
    found = arguments("fake_quantize_weights", bits=4)
    with pytest.raises(ValueError, match=r"outputs has 0 entries, expected 1"):
        core.fake_quantize_weights(**{**found, "outputs": []})
