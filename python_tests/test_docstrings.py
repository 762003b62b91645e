"""Every public name has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
import torch

import hast_cuda

# Whose ``__all__`` is public. `report` is left out because it needs matplotlib, which is optional, and
# `reproduce` because what it is for are runs of minutes: their doors are verbs, not calls.
ROOMS = (
    "hast_cuda",
    "hast_cuda.analysis",
    "hast_cuda.calibration",
    "hast_cuda.data",
    "hast_cuda.deploy",
    "hast_cuda.exports",
    "hast_cuda.finetune",
    "hast_cuda.generator",
    "hast_cuda.merged",
    "hast_cuda.methods",
    "hast_cuda.moments",
    "hast_cuda.networks",
    "hast_cuda.nn",
    "hast_cuda.ops",
    "hast_cuda.posttraining",
    "hast_cuda.ranks",
    "hast_cuda.reconstruction",
    "hast_cuda.run",
    "hast_cuda.synthesis",
    "hast_cuda.teachers",
)
CASES = {
    id(thing): f"{room}.{name}"  # what has two names, once: a package's own room comes after the whole package
    for room in ROOMS
    for name in importlib.import_module(room).__all__
    if callable(thing := getattr(importlib.import_module(room), name))
    and not (inspect.isclass(thing) and issubclass(thing, Exception))
}


@pytest.mark.parametrize("path", CASES.values())
def test_example_runs(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, _, name = path.rpartition(".")
    thing = getattr(importlib.import_module(room), name)
    text = inspect.getdoc(thing) or ""
    assert ">>> " in text, f"{path} has no example"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"torch": torch, "hc": hast_cuda, name: thing}
    test = doctest.DocTestParser().get_doctest(text, names, path, None, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(test, out=report.append).failed, "".join(report)
