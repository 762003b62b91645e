"""Devices, dtypes and shapes that the whole suite shares."""

from __future__ import annotations

import fcntl
import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from emulated.build import compile_module, compiler, load
from emulated.device import emulate
from gates import cannot_run
from hypothesis import settings

from hast_cuda.cli import main

settings.register_profile("no clock", deadline=None)  # a busy machine is no failure
settings.load_profile("no clock")

Cli = Callable[..., str]

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
# Aligned, ragged, batch 1, one channel, 1x1 maps, odd everything, more channels than a tile has.
SHAPES = [(4, 16, 8, 8), (2, 3, 5, 7), (1, 5, 1, 1), (3, 1, 9, 4), (7, 33, 3, 3), (2, 64, 17, 1), (2, 132, 3, 2)]
# Tests of the ops also run on the CUDA sources compiled for the CPU ("emulated"), and on the CPU
# kernels without AVX2 ("baseline"), which no test would reach on a machine that has it.
OP_TESTS = {
    "test_fake_quantize",
    "test_fake_quantize_weights",
    "test_quantize_activation",
    "test_batch_norm_match",
    "test_batch_norm_activation",
    "test_batch_norm_backward",
    "test_channel_attention",
    "test_distillation_loss",
    "test_hard_sample_loss",
    "test_plateau",
    "test_schedule",
    "test_soft_round_weights",
    "test_emulated",
    "test_fuzz_quantizers",
    "test_fuzz_batch_norm",
    "test_fuzz_losses",
    "test_numerics_quantizers",
    "test_numerics_batch_norm",
    "test_numerics_losses",
}
# About ten seconds of a core and more, the longest first.
LONGEST = (
    "test_sanitized",
    "test_ranks",
    "test_engine_sanitized",
    "test_cli",
    "test_fuzz_public",
    "test_export_litert",
    "test_examples",
    "test_bench_gpu_suite",
    "test_export_int8",
    "test_engine_file_content",
    "test_docstrings",
    "test_engine_plan",
    "test_budget_runs",
    "test_allocation",
    "test_cli_network",
    "test_launch_counts",
    "test_build",
    "test_run_faults",
    "test_export_onnx",
    "test_integer_students",
    "test_sass",
)
LAST = "test_gpu_failed_capture"  # leaves a process in which torch may not free memory any more

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the workers share the cores
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    torch.set_num_threads(max(1, torch.get_num_threads() // count))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no worker has one of them left at the end."""
    order = {name: place for place, name in enumerate(LONGEST)} | {LAST: len(LONGEST) + 1}
    items.sort(key=lambda item: order.get(Path(item.path).stem, len(order)))


def pytest_collection_finish() -> None:
    """Leave what has been imported out of every later look for garbage, which it made ten times as long."""
    gc.collect()
    gc.freeze()


def devices() -> list[str]:
    """The devices of this machine."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def leave_out_slow(markers: Iterable[pytest.Mark]) -> None:
    """Make no items of the thousands of slow cases, of which pytest would deselect each."""
    for cases in (marker.args[1] for marker in markers):
        if isinstance(cases, list):
            cases[:] = [case for case in cases if "slow" not in {mark.name for mark in getattr(case, "marks", ())}]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a device on every one; op tests on the emulated module's too."""
    markers = list(metafunc.definition.iter_markers("parametrize"))
    if "not slow" in metafunc.config.option.markexpr:
        leave_out_slow(markers)
    given = any(marker.args[0] == "device" for marker in markers)
    if "device" in metafunc.fixturenames and not given:
        built_here = ["emulated", "baseline"] if metafunc.module.__name__ in OP_TESTS else []
        metafunc.parametrize("device", [*devices(), *built_here], indirect=True)


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Of this run alone: the folder in which every worker has its own, or the one of the only process."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def objects(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled parts of the emulated modules, kept between runs; ``--cache-clear`` removes them.

    Without pytest's cache they are kept for this run alone, by all workers.
    """
    cache = getattr(pytestconfig, "cache", None)
    if cache is not None:
        found: Path = cache.mkdir("emulated")
        return found
    folder = run_folder(tmp_path_factory) / "emulated-objects"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def reader(objects: Path) -> Path:
    """The engine's reader of student.hast as a program of its own, sanitized."""
    from engine.reading import sanitized_reader

    return sanitized_reader(objects)


@pytest.fixture(scope="session")
def emulated_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA sources compiled for the CPU, or the module that HAST_EMULATED_MODULE names."""
    if given := os.environ.get("HAST_EMULATED_MODULE"):
        return Path(given)
    if compiler() is None:
        cannot_run("there is no C++ compiler: the CUDA sources cannot be emulated")
    objects = request.getfixturevalue("objects")
    shared = run_folder(tmp_path_factory) / "emulated"
    shared.mkdir(exist_ok=True)
    # Whoever of the workers comes first compiles for all.
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = shared / "path"
        if not found.exists():
            found.write_text(str(compile_module(shared, objects=objects)), encoding="utf-8")
        return Path(found.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def emulated_module(emulated_path: Path) -> ModuleType:
    """The module with emulated CUDA kernels."""
    return load(emulated_path)


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Every device in turn; outputs start as NaN on those built here, so unwritten ones show."""
    if request.param not in ("emulated", "baseline"):
        yield torch.device(request.param)
        return
    index = 0 if request.param == "emulated" else -1
    emulate(monkeypatch, request.getfixturevalue("emulated_module"), index)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new tensors with NaN
    yield torch.device("cpu")
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of equal inputs give equal bits, on CUDA too."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1234)


@pytest.fixture(autouse=True)
def _one_registry() -> None:
    """torch.onnx collects its translations anew in every export, a third of a small one's time: here once."""
    module = sys.modules.get("torch.onnx._internal.exporter._registration")  # there after the first export
    if module is not None and inspect.ismethod(module.ONNXRegistry.from_torchlib):
        module.ONNXRegistry.from_torchlib = staticmethod(cache(module.ONNXRegistry.from_torchlib))


@pytest.fixture
def hast(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line that must succeed; returns what it printed."""

    def run(*arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command line that must fail with status 1; returns the one line that says why."""
    monkeypatch.delenv("HAST_CUDA_DEBUG", raising=False)

    def run(*arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("hast-cuda: error: ")]
        assert len(errors) == 1, lines
        assert lines[lines.index(errors[0]) + 1 :] == ["(HAST_CUDA_DEBUG=1 shows the traceback)"]
        return errors[0]

    return run
