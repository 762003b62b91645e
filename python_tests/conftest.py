"""Devices, dtypes and shapes that the whole suite shares."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from emulated.build import build, compiler
from emulated.device import emulate

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
# Aligned, ragged, batch 1, one channel, 1x1 maps, odd everything.
SHAPES = [(4, 16, 8, 8), (2, 3, 5, 7), (1, 5, 1, 1), (3, 1, 9, 4), (7, 33, 3, 3), (2, 64, 17, 1)]
# Tests of the ops also run on the CUDA sources compiled for the CPU.
OP_TESTS = {
    "test_fake_quant", "test_channel_range", "test_batch_stats", "test_batch_norm_activation",
    "test_channel_attention", "test_distillation_loss", "test_hard_sample_loss", "test_plateau",
    "test_schedule", "test_emulated",
}  # fmt: skip


def devices() -> list[str]:
    """The devices of this machine."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a device on every one; op tests on the emulated one too."""
    if "device" in metafunc.fixturenames:
        emulated = metafunc.module.__name__ in OP_TESTS
        names = [*devices(), *(["emulated"] if emulated else [])]
        metafunc.parametrize("device", names, indirect=True)


@pytest.fixture(scope="session")
def emulated_module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The CUDA sources compiled for the CPU, once per session."""
    if compiler() is None:
        pytest.skip("no C++ compiler: the CUDA sources cannot be emulated")
    return build(tmp_path_factory.mktemp("emulated"))


@pytest.fixture
def device(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.device]:
    """Every device in turn; outputs start as NaN on the emulated one, so unwritten ones show."""
    if request.param != "emulated":
        yield torch.device(request.param)
        return
    emulate(monkeypatch, request.getfixturevalue("emulated_module"))
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new tensors with NaN
    yield torch.device("cpu")
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1234)
