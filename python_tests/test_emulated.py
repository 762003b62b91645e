"""The emulator itself: it runs good kernels, in any order, and notices bad ones."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from emulated.broken import build_broken
from emulated.build import compiler
from emulated.shared_memory import register_shared_memory
from gates import cannot_run
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import _workspace, reference

RANDOM = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels with planted mistakes."""
    if compiler() is None:
        cannot_run("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("broken")
    path = build_broken(folder / "broken.so", ["-shared"])
    loaded = ctypes.CDLL(str(path))
    loaded.run.restype = ctypes.c_char_p
    assert register_shared_memory(path) == 7  # as many as stand in the file and what it uses
    return loaded


def run(library: ctypes.CDLL, kernel: str) -> tuple[str, Tensor, Tensor]:
    """(error, input, output) of 64 values."""
    x, y = torch.rand(64, generator=RANDOM), torch.full((64,), float("nan"))
    error = library.run(kernel.encode(), *(ctypes.c_void_p(t.data_ptr()) for t in (x, y)))
    return error.decode(), x, y


@pytest.mark.parametrize("kernel", ["with_barrier", "missing_barrier"])
@pytest.mark.parametrize("order", ["forward", "reverse", "7"])
def test_a_missing_barrier_gives_wrong_values(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, order: str, kernel: str
) -> None:
    monkeypatch.setenv("HAST_EMULATED_ORDER", order)
    error, x, y = run(library, kernel)
    assert error == ""
    assert torch.equal(y, x.flip(0)) == (kernel == "with_barrier")


def right_sums(library: ctypes.CDLL, kernel: str) -> list[bool]:
    """Of sixteen launches, those that give the sum of x."""
    library.hast_emulated_restart()
    launches = [run(library, kernel) for _ in range(16)]
    assert all(error == "" for error, _, _ in launches)
    return [bool(torch.isclose(y[0], x.sum())) for _, x, y in launches]


@pytest.mark.parametrize("order", ["forward", "reverse", "0", "7"])
def test_a_sum_over_blocks_is_right_in_every_order(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv("HAST_EMULATED_ORDER", order)
    assert all(right_sums(library, "sum_over_blocks"))


@pytest.mark.parametrize("kernel", ["highest_block_is_last", "block_0_is_first", "counted_before_written"])
def test_blocks_that_trust_in_their_order_give_wrong_values(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    assert not all(right_sums(library, kernel))
    monkeypatch.setenv("HAST_EMULATED_ORDER", "forward")
    assert all(right_sums(library, kernel))


@pytest.mark.parametrize("kernel", ["waits_for_another_block", "all_blocks_wait"])
def test_a_wait_for_another_block_is_an_error(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.setenv("HAST_EMULATED_PATIENCE", "1")
    assert "waits for what never comes" in run(library, kernel)[0]
    assert all(right_sums(library, "sum_over_blocks"))  # the emulator recovers


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("barrier_in_a_branch", "threads of one block wait at different barriers, lines"),
        ("barrier_for_some", "has exited|deadlock"),
        ("shuffle_after_exit", "the first thread did not reach"),
        ("shuffle_names_exited_lane", "a shuffle names a lane that has exited"),
    ],
)
def test_divergence_is_an_error(library: ctypes.CDLL, kernel: str, message: str) -> None:
    error, _, _ = run(library, kernel)
    assert any(part in error for part in message.split("|")), error
    assert run(library, "with_barrier")[0] == ""  # the emulator recovers


def test_shared_memory_is_of_one_block(library: ctypes.CDLL) -> None:
    error, _, y = run(library, "shared_memory_of_another_block")
    assert error == ""
    assert bool(y.isnan().all())


@pytest.mark.parametrize("kernel", ["one_element_unwritten", "shared_memory_unwritten"])
def test_what_no_thread_writes_is_nan(library: ctypes.CDLL, kernel: str) -> None:
    assert run(library, "with_barrier")[0] == ""  # its values must not be left in shared memory
    error, x, y = run(library, kernel)
    assert error == ""
    assert torch.equal(y[:-1], x[:-1])
    assert bool(y[-1].isnan())


@pytest.mark.parametrize("device", ["emulated", "baseline"], indirect=True)
def test_outputs_and_scratch_of_ops_start_as_nan(device: torch.device) -> None:
    assert bool(torch.empty(1000, device=device).isnan().all())
    assert bool(_workspace.scratch(torch.empty(1), 1000, torch.float64).isnan().all())


@pytest.mark.parametrize("order", ["reverse", "1", "2"])
def test_every_reduction_is_independent_of_the_order(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    x = torch.randn(5, 33, 6, 7, device=device)
    weights = [torch.randn(9, 300, device=device)]
    grids = [torch.randn(2, 9, device=device).sort(0).values]
    other = torch.randn_like(x)
    rm, rv = torch.randn(33, device=device), torch.rand(33, device=device) + 0.5

    def everything() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        state = hc.new_range_state(device=device)
        y, mean, var = hc.batch_norm_match(leaf, rm, rv, activation="relu")
        loss = hc.match_loss([mean], [var], [rm], [rv]) + hc.attention_loss([leaf], [other])
        (gradient,) = torch.autograd.grad(loss + (y * other).sum(), leaf)
        q = hc.quantize_activation(x, state, 4, activation="relu", observe=True)
        losses = []
        for rows in (x.flatten(2)[:, :, 0], x.flatten(1)):  # a warp per row, a block per row
            logits = rows.clone().requires_grad_()
            labels = torch.arange(5, device=device)
            hard, difficulty = hc.hard_sample_loss(logits, labels, 2.0)
            total = hard + hc.distillation_loss(rows.flip(1), logits, 3.0)
            losses += [difficulty, total.detach(), torch.autograd.grad(total, logits)[0]]
        last = x.contiguous(memory_format=torch.channels_last)
        extra = hc.batch_norm_match(last, rm, rv)
        return [
            y,
            mean,
            var,
            loss.detach(),
            gradient,
            q,
            state,
            *losses,
            *extra,
            *hc.fake_quantize_weights(weights, 3),
            *hc.fake_quantize_weights(weights, 3, ranges=grids),
        ]

    monkeypatch.setenv("HAST_EMULATED_ORDER", "forward")
    first = everything()
    monkeypatch.setenv("HAST_EMULATED_ORDER", order)
    assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))


def counts(module: Path) -> tuple[int, int]:
    """Fences that threads came to, and blocks, since the test began."""
    fences, blocks = ctypes.c_ulong(), ctypes.c_ulong()
    ctypes.CDLL(str(module)).hast_emulated_counts(ctypes.byref(fences), ctypes.byref(blocks))
    return fences.value, blocks.value


@pytest.mark.parametrize("device", ["emulated"], indirect=True)
def test_one_thread_of_a_block_waits_for_memory(device: torch.device, emulated_path: Path) -> None:
    x = torch.randn(8, 40, 16, 16, device=device)
    rm, rv = torch.randn(40, device=device), torch.rand(40, device=device) + 0.5
    hc.quantize_activation(x, hc.new_range_state(device=device), 4, observe=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        hc.batch_norm_match(x.contiguous(memory_format=layout), rm, rv)
    fences, blocks = counts(emulated_path)
    assert 0 < fences <= 2 * blocks  # a fence takes about as long as a trip to memory


@pytest.mark.parametrize("device", ["emulated"], indirect=True)
@pytest.mark.parametrize("size", [7, 14, 28])
def test_threads_of_an_activation_have_several_vectors(device: torch.device, emulated_path: Path, size: int) -> None:
    x, rm, rv = torch.randn(128, 16, size, size, device=device), torch.zeros(16), torch.ones(16)
    hc.ops.batch_norm_activation(x, rm, rv, activation="relu", state=torch.tensor([0.0, 2.0, 0, 0, 0]))
    blocks = counts(emulated_path)[1]
    assert x.numel() / (256 * blocks) >= 8  # the constants of a channel cost as much as that many elements


def test_shared_memory_of_the_kernels_is_found(emulated_path: Path) -> None:
    assert register_shared_memory(emulated_path) >= 20


def test_the_emulated_device_really_runs_the_cuda_sources(emulated_module: object, device: torch.device) -> None:
    assert emulated_module.build_info()["cuda"] == "emulated"  # type: ignore[attr-defined]
    x = torch.randn(1000, device=device)
    bounds = torch.tensor([-1.0], device=device), torch.tensor([1.0], device=device)
    expected = reference.fake_quantize(x, *bounds, 4)
    assert torch.equal(hc.fake_quantize(x, *bounds, 4), expected)
