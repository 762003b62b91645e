"""The package as a whole: stub against core, public names, layers, no eager op in the loops."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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
        documented = getattr(core, name).__doc__.split("\n")[0]
        names = re.findall(r"(\w+): ", documented) or documented.split(", ")
        stubbed = [argument.arg for argument in function.args.kwonlyargs]
        assert not stubbed or names == stubbed, name


def test_core_is_compiled() -> None:
    assert hast_cuda.build_info()["kind"] == "compiled"


def test_every_public_name_imports_little_beside_torch() -> None:
    script = (
        "import sys, torch; before = set(sys.modules); import hast_cuda\n"
        "for name in hast_cuda.__all__: getattr(hast_cuda, name)\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    allowed = {"hast_cuda", "filelock", "safetensors", "tqdm", "numpy"}
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) <= allowed  # no torchvision, timm, matplotlib, ...


def test_versions_agree() -> None:
    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "([\d.]+)"$', project, re.MULTILINE)
    assert f"\nversion: {version}\n" in (PACKAGE.parent / "CITATION.cff").read_text(encoding="utf-8")
    changes = (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(version)})\]", changes, re.MULTILINE)


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
        ("hast_cuda.input_spec", "InputSpec", "hast_cuda.data"),
        ("hast_cuda.evaluate", "evaluate", "hast_cuda.data"),
        ("hast_cuda.execution", "Execution", "hast_cuda"),
        ("hast_cuda.nn", "FusedBatchNorm2d", "hast_cuda.merged"),
        ("hast_cuda.nn", "batch_norm_ranges", "hast_cuda.moments"),
        ("hast_cuda.synthesis", "GeneratorConfig", "hast_cuda.generator"),
        ("hast_cuda.finetune", "feature_layers", "hast_cuda.networks"),
    ],
)
def test_public_names_that_moved_are_found_with_a_warning(module: str, name: str, home: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is hast_cuda"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module(module).nothing  # noqa: B018 - it raises


def fake_quantize(**changed: Any) -> None:
    """One element at addresses that nobody may follow."""
    given = dict.fromkeys(("x", "y", "lower", "upper"), 8)
    given |= dict.fromkeys(("outer", "channels", "inner"), 1)
    given |= {"dtype": 0, "bits": 4, "activation": 0, "device": -1, "stream": 0, **changed}
    entry: Any = core.fake_quantize
    entry(real_zero_point=False, **given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"z": 1}, "expected, by keyword: x, y, lower, upper"),
        ({"x": None}, "x has another type"),
        ({"bits": 4.5}, "bits has another type"),
    ],
)
def test_arguments_of_another_name_or_type_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=rf"hast_cuda\.fake_quantize: {message}"):
        fake_quantize(**changed)


def test_arguments_without_a_name_are_refused() -> None:
    entry: Any = core.fake_quantize
    with pytest.raises(TypeError, match=r"hast_cuda\.fake_quantize: expected, by keyword: x, y"):
        entry(8, 8)
    with pytest.raises(TypeError, match=r"hast_cuda\.fake_quantize: x is missing"):
        entry(y=8)


def test_cuda_device_without_kernels_is_an_error() -> None:
    if hast_cuda.build_info()["cuda"] != "not built":
        pytest.skip("this core has CUDA kernels")
    with pytest.raises(RuntimeError, match=r"hast_cuda.fake_quantize: .*CUDA"):
        fake_quantize(device=0)
