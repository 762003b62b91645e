"""Many iterations cost what few do: memory, open files, checkpoints and the log stay bounded."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import pytest
import torch
from long_run import LOOPS, Outcome, open_files, resident_bytes, run_loop
from networks import CHANNELS, CLASSES, SIZE, tiny

from hast_cuda.data import InputSpec
from hast_cuda.finetune.loop import LOG_EVERY
from hast_cuda.loops.progress import MOST_LINES, log_interval, look_interval
from hast_cuda.run import TensorBoardLog
from hast_cuda.synthesis import SynthesisConfig, synthesize

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
QUICK = ("synthesis", "fine-tuning", "superposed generator")
# A tensor that an iteration leaves behind takes over 400 bytes, its graph some thousand.
HEAP_PER_ITERATION = 200
HEAP_PER_BATCH = 16_000  # 8 finished images of 768 bytes, and the batch's event file
RESIDENT = 8_000_000  # freed memory that malloc keeps


def check(found: Outcome, iterations: int) -> None:
    """Flat over the second half."""
    assert found.iterations == iterations
    synthesis = found.loop.startswith("synthesis")
    batches, evaluations = (4, 0) if synthesis else (1, 4)
    grown = found.resident_end - found.resident_start
    assert grown <= RESIDENT, f"resident memory grew by {grown} bytes"
    if found.heap_start is not None and found.heap_end is not None:
        heap = found.heap_end - found.heap_start - batches // 2 * HEAP_PER_BATCH
        per_iteration = heap / (iterations / 2)
        assert per_iteration <= HEAP_PER_ITERATION, f"{per_iteration:.0f} bytes per iteration"
    assert found.files_end <= found.files_start
    looks = 0 if synthesis else 2 * evaluations + 1  # on images held out from the start on, on test images
    lines = iterations // look_interval(iterations // batches, LOG_EVERY)
    assert found.log_lines <= lines + 2 * batches + looks
    assert found.log_bytes <= 400 * found.log_lines
    assert found.checkpoint_files == (0 if synthesis else 1)
    assert found.event_files <= batches


@pytest.mark.parametrize("loop", QUICK)
def test_nothing_grows(loop: str, tmp_path: Path) -> None:
    found = run_loop(loop, tiny(), SHAPE, tmp_path / "run", 200)
    check(found, 200)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_grows_over_2000_iterations(loop: str, tmp_path: Path) -> None:
    found = run_loop(loop, tiny(), SHAPE, tmp_path / "run", 2000)
    check(found, 2000)


def test_a_leak_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test: one small tensor kept per iteration is too much."""
    kept: list[torch.Tensor] = []
    update = torch.optim.AdamW.step

    def leaking(self: torch.optim.AdamW, *args: object) -> None:
        kept.append(torch.zeros(8))
        update(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", leaking)
    found = run_loop("fine-tuning", tiny(), SHAPE, tmp_path / "run", 100)
    if found.heap_start is None:
        pytest.skip("the C library does not say how much memory is in use")
    with pytest.raises(AssertionError, match="bytes per iteration"):
        check(found, 100)


def test_only_memory_of_its_own_counts(tmp_path: Path) -> None:
    """Pages of files come and go with the load of the machine."""
    size = 4 * RESIDENT
    (tmp_path / "file").write_bytes(bytes(size))
    before = resident_bytes()
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[:: mmap.PAGESIZE])
        assert resident_bytes() - before < RESIDENT
    # not from the allocator, which may give pages that were freed and are still counted
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
        for page in range(0, size, mmap.PAGESIZE):
            own[page] = 1
        assert resident_bytes() - before > size - RESIDENT


@pytest.mark.parametrize(("iterations", "interval"), [(0, 1), (10, 1), (60, 3), (150, 7), (1000, 50), (10**6, 50)])
def test_short_phases_are_looked_at_more_often(iterations: int, interval: int) -> None:
    assert look_interval(iterations, LOG_EVERY) == interval


@pytest.mark.parametrize(
    ("total", "interval"),
    [(0, 50), (1, 50), (20_000, 50), (100_000, 50), (100_001, 100), (10**6, 500), (10**9, 500_000)],
)
def test_the_interval_of_the_log(total: int, interval: int) -> None:
    assert log_interval(total, LOG_EVERY) == interval
    assert total / interval <= MOST_LINES


def test_long_phases_log_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hast_cuda.loops.progress.MOST_LINES", 3)
    monkeypatch.setattr("hast_cuda.finetune.loop.LOG_EVERY", 2)
    monkeypatch.setattr("hast_cuda.synthesis.loop.LOG_EVERY", 2)
    run_loop("fine-tuning", tiny(), SHAPE, tmp_path, 40)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in lines if r["phase"] == "finetune"] == [0, 14, 28, 39]
    seen: list[tuple[int, int]] = []
    config = SynthesisConfig(num_images=3, batch_size=2, iterations=40)  # 80 in all: every 28th
    synthesize(tiny(), SHAPE, config, log=lambda r: seen.append((int(r["batch"]), int(r["iteration"]))))
    assert seen == [(batch, iteration) for batch in (0, 1) for iteration in (0, 28, 39)]


def test_what_is_not_logged_is_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite ends the run at the next look at the device, logged or not."""
    monkeypatch.setattr("hast_cuda.loops.progress.MOST_LINES", 1)
    monkeypatch.setattr("hast_cuda.synthesis.loop.LOG_EVERY", 2)
    network = tiny()
    network.output.bias.data[0] = torch.nan
    logged: list[int] = []
    with pytest.raises(FloatingPointError, match="not finite from iteration 0 on"):
        synthesize(
            network,
            SHAPE,
            SynthesisConfig(num_images=2, batch_size=2, iterations=100),
            log=lambda r: logged.append(int(r["iteration"])),
        )
    assert logged == []


def test_event_files_of_many_batches_are_closed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path) as log:
        counts = []
        for batch in range(30):
            log({"phase": "synthesis", "batch": batch, "iteration": 0, "loss": 1.0})
            counts.append(open_files())
    assert counts[-1] == counts[1]
    assert len(list(tmp_path.rglob("events.*"))) == 30
