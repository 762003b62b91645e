"""The emulator itself: it runs good kernels, in any order, and notices bad ones."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from emulated.build import FLAGS, HERE, compiler

import hast_cuda as hc
from hast_cuda.ops import reference

RANDOM = torch.Generator().manual_seed(0)
GOOD, MISSING, BRANCH, SOME, EXITED = range(5)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels with planted mistakes."""
    if compiler() is None:
        pytest.skip("no C++ compiler")
    target = tmp_path_factory.mktemp("broken") / "broken.so"
    command = [
        str(compiler()), *FLAGS, f"-I{HERE}", "-fvisibility=default", "-shared", "-x", "c++",
        str(HERE / "broken.cu"), "-o", str(target),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(Path(target)))
    loaded.run.restype = ctypes.c_char_p
    return loaded


def run(library: ctypes.CDLL, which: int) -> tuple[str, bool]:
    """(error, whether the 64 values came back reversed)."""
    # new values each time: shared memory keeps those of the run before
    x, y = torch.rand(64, generator=RANDOM), torch.full((64,), -1.0)
    error = library.run(which, ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()))
    return error.decode(), torch.equal(y, x.flip(0))


@pytest.mark.parametrize("order", ["forward", "reverse", "7", "8"])
def test_a_good_kernel_is_right_in_every_order(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv("HAST_EMULATED_ORDER", order)
    assert run(library, GOOD) == ("", True)


@pytest.mark.parametrize("order", ["forward", "reverse", "7"])
def test_a_missing_barrier_gives_wrong_values(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv("HAST_EMULATED_ORDER", order)
    assert not run(library, MISSING)[1]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (BRANCH, "threads of one block wait at different barriers"),
        (SOME, "deadlock|has exited"),
        (EXITED, "has exited|the first thread did not reach"),
    ],
)
def test_divergence_is_an_error(library: ctypes.CDLL, which: int, message: str) -> None:
    error, _ = run(library, which)
    assert any(part in error for part in message.split("|")), error
    assert run(library, GOOD) == ("", True)  # the emulator recovers


@pytest.mark.parametrize("order", ["reverse", "1", "2"])
def test_every_reduction_is_independent_of_the_thread_order(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    x = torch.randn(5, 33, 6, 7, device=device)
    weights = [torch.randn(9, 300, device=device)]
    other = torch.randn_like(x)
    rm, rv = torch.randn(33, device=device), torch.rand(33, device=device) + 0.5

    def everything() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        state = hc.new_range_state(device=device)
        y, mean, var = hc.batch_norm_match(leaf, rm, rv, activation="relu")
        loss = hc.match_loss([mean], [var], [rm], [rv]) + hc.attention_loss([leaf], [other])
        (gradient,) = torch.autograd.grad(loss + (y * other).sum(), leaf)
        q = hc.quantize_activation(x, state, 4, activation="relu", observe=True)
        last = x.contiguous(memory_format=torch.channels_last)
        extra = hc.batch_norm_match(last, rm, rv)
        return [y, mean, var, loss.detach(), gradient, q, state, *extra,
                *hc.fake_quantize_weights(weights, 3)]  # fmt: skip

    monkeypatch.setenv("HAST_EMULATED_ORDER", "forward")
    first = everything()
    monkeypatch.setenv("HAST_EMULATED_ORDER", order)
    assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))


def test_the_emulated_device_really_runs_the_cuda_sources(
    emulated_module: object, device: torch.device
) -> None:
    assert emulated_module.build_info()["cuda"] == "emulated"  # type: ignore[attr-defined]
    x = torch.randn(1000, device=device)
    bounds = torch.tensor([-1.0], device=device), torch.tensor([1.0], device=device)
    expected = reference.fake_quantize(x, *bounds, 4)
    assert torch.equal(hc.fake_quantize(x, *bounds, 4), expected)
