"""Out of GPU memory: the error says how much, which batch fits, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import same_state, snapshot
from test_run import RECIPE, run

from hast_cuda.finetune import step as replay
from hast_cuda.loops import memory
from hast_cuda.loops.memory import MemoryFigures, explained_memory, fitting_batch
from hast_cuda.run import work
from hast_cuda.synthesis import ImageStore, step

GIB = 2**30
TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
FIGURES = MemoryFigures(6 * GIB, 7 * GIB)


@pytest.mark.parametrize(
    ("batch", "needed", "available", "fits"),
    [(256, 8, 7, 128), (256, 16, 4, 57), (256, 10**6, 1, 1), (2, 8, 7, 1), (1, 8, 7, 0), (256, 0, 1, 128)],
)
def test_the_batch_that_fits(batch: int, needed: int, available: int, fits: int) -> None:
    assert fitting_batch(batch, needed * GIB, available * GIB) == fits


def failing(calls: int, real: Any) -> Any:
    """The step, out of memory at its ``calls``-th call."""
    seen = 0

    def call(self: Any, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == calls:
            raise torch.OutOfMemoryError(TEXT)
        return real(self, *arguments)

    return call


@pytest.mark.parametrize(
    ("phase", "owner", "method", "calls", "kept"),
    [
        ("synthesis", step.SynthesisStep, "__call__", 5, "Finished batches are kept"),
        ("fine-tuning", replay.ReplayedStep, "__call__", 5, "the last checkpoint are kept"),
    ],
)
def test_the_error_says_what_helps_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, owner: Any, method: str, calls: int, kept: str
) -> None:
    whole = run(None)
    monkeypatch.setattr(memory, "device_figures", lambda _: FIGURES)
    with monkeypatch.context() as patched:
        patched.setattr(owner, method, failing(calls, getattr(owner, method)))
        with pytest.raises(torch.OutOfMemoryError) as caught:
            run(tmp_path)
    option = "synthesis.batch_size" if phase == "synthesis" else "finetune.batch_size"
    for part in (
        f"{phase} ran out of memory on cpu with batches of 8",
        "the peak was 6.00 GiB",
        "then 2.00 GiB more were asked for, of 7.00 GiB",
        kept,
        f"set {option} to 4 or less",
    ):
        assert part in str(caught.value)
    assert str(caught.value.__cause__) == TEXT
    assert ImageStore(tmp_path / "images").finished() == ({0} if phase == "synthesis" else {0, 1})
    assert (tmp_path / "checkpoints").exists() == (phase == "fine-tuning")
    assert same_state(run(tmp_path).student, snapshot(whole.student))  # the GPU is free again
    assert RECIPE.finetune.batch_size == 8


def test_the_range_search_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any) -> None:
        raise torch.OutOfMemoryError(TEXT)

    monkeypatch.setattr(memory, "device_figures", lambda _: FIGURES)
    monkeypatch.setattr(work, "shrink_ranges", search)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(None)
    assert "the range search ran out of memory on cpu with batches of 256" in str(caught.value)
    assert "or set finetune.shrink_ranges to false, which leaves it out;" in str(caught.value)


def test_one_image_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_figures", lambda _: FIGURES)
    with (
        pytest.raises(torch.OutOfMemoryError, match=r"not even one image fits"),
        explained_memory("synthesis", 1, "o", "k", torch.device("cpu")),
    ):
        raise torch.OutOfMemoryError("without a figure")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^other$"), explained_memory("synthesis", 8, "o", "k", torch.device("cpu")):
        raise RuntimeError("other")
