"""The package as a whole: stub against core, public names, layers, no eager op in the loops."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import hast_cuda
from hast_cuda.ops._registry import core

PACKAGE = Path(__file__).parents[1] / "hast_cuda"


def tree(path: Path) -> ast.Module:
    """Syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def test_stub_lists_what_the_core_has() -> None:
    stub = {n.name: n for n in tree(PACKAGE / "_core.pyi").body if isinstance(n, ast.FunctionDef)}
    assert set(stub) == {name for name in dir(core) if not name.startswith("_")}
    for name, function in stub.items():
        signature = getattr(core, name).__doc__.splitlines()[0]
        for argument in function.args.args:
            assert f"{argument.arg}:" in signature, f"{name} has no argument {argument.arg}"


def test_core_is_compiled() -> None:
    assert hast_cuda.build_info()["kind"] == "compiled"


@pytest.mark.parametrize("folder", ["synthesis", "finetune"])
def test_loops_use_no_eager_twin(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "hast_cuda.ops.reference", path
                assert "reference" not in [alias.name for alias in node.names], path


def test_no_file_is_over_300_lines() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_root_holds_rooms_and_the_front_door_alone() -> None:
    files = {p.name for p in PACKAGE.iterdir() if p.is_file() and not p.name.startswith("_core.")}
    assert files == {"__init__.py", "__main__.py", "py.typed"}


def test_no_room_takes_private_names_of_another() -> None:
    for path in PACKAGE.glob("*/*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hast_cuda."):
                _, room, *inside = (node.module or "").split(".")
                names = [*inside, *(alias.name for alias in node.names)]
                private = [n for n in names if n.startswith("_") and not n.startswith("__")]
                assert room == path.parent.name or not private, f"{path}: {private} of {room}"


@pytest.mark.parametrize(
    ("module", "name", "home"),
    [
        ("hast_cuda.zoo", "load_teacher", "hast_cuda.teachers"),
        ("hast_cuda.evaluate", "evaluate", "hast_cuda.data"),
        ("hast_cuda.execution", "Execution", "hast_cuda"),
        ("hast_cuda.nn", "FusedBatchNorm2d", "hast_cuda.merged"),
        ("hast_cuda.nn", "batch_norm_ranges", "hast_cuda.moments"),
        ("hast_cuda.synthesis", "GeneratorConfig", "hast_cuda.generator"),
        ("hast_cuda.finetune", "feature_layers", "hast_cuda.networks"),
    ],
)
def test_public_names_that_moved_are_found_with_a_warning(
    module: str, name: str, home: str
) -> None:
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is hast_cuda"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module(module).nothing  # noqa: B018 - it raises


def test_raw_pointers_are_checked_by_the_core() -> None:
    with pytest.raises(ValueError, match="bits"):
        core.fake_quantize(8, 8, 8, 8, 0, 1, 1, 1, 1, False, 0, -1, 0)
    with pytest.raises(ValueError, match="fake_quantize"):
        core.fake_quantize(0, 0, 0, 0, 0, 1, 1, 1, 4, False, 0, -1, 0)
    with pytest.raises(ValueError, match="dtype"):
        core.fake_quantize(8, 8, 8, 8, 9, 1, 1, 1, 4, False, 0, -1, 0)


def test_cuda_device_without_kernels_is_an_error() -> None:
    if hast_cuda.build_info()["cuda"] != "not built":
        pytest.skip("this core has CUDA kernels")
    with pytest.raises(RuntimeError, match=r"hast_cuda.fake_quantize: .*CUDA"):
        core.fake_quantize(8, 8, 8, 8, 0, 1, 1, 1, 4, False, 0, 0, 0)
