"""The benchmarks of whole iterations: what they run, count and write. Nothing looks at a time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from bench_launches import EAGER, MERGED, WASTEFUL, Count, count
from bench_step import CONVOLUTIONS, derived
from harness import Case, row
from iteration_tables import TABLES
from iterations import CIFAR, Iterations
from launch_counter import LaunchCounter
from run_all import known
from timing import Absent, Settings, Timing, measure

from hast_cuda.loops.execution import Execution

CPU = torch.device("cpu")
HEAD: dict[str, Any] = {
    "device": "a CPU",
    "cores": 2,
    "driver": None,
    "malloc": None,
    "commit": "0000000",
    "date": "2000-01-01",
    "command": "bench",
    "build": {},
    "versions": {"torch": "2"},
}


@pytest.fixture(scope="module")
def made() -> Iterations:
    """Two images at a time, on which every implementation is quick."""
    return Iterations(replace(CIFAR, batch=2), CPU)


def page(document: dict[str, Any]) -> str:
    render = importlib.import_module("render")
    result: str = render.render("".join(render.markers("results")), render.all_tables({"": {**HEAD, **document}}))
    return result


LOOPS = ["synthesis", pytest.param("finetune", marks=pytest.mark.slow)]


@pytest.mark.parametrize("loop", LOOPS)
def test_counts_fall_from_waste_to_merged_kernels(made: Iterations, loop: str) -> None:
    eager, ours = getattr(made, f"eager_{loop}"), getattr(made, loop)
    counters = [count(call) for call in (eager(wasteful=True), eager(), ours(Execution(cuda_graphs="off")))]
    launches = [c.launches for c in counters]
    assert launches == sorted(set(launches), reverse=True)
    assert launches[2] < launches[1] / 4
    moved = [c.bytes for c in counters]
    assert moved == sorted(set(moved), reverse=True)


@pytest.mark.parametrize("loop", LOOPS)
def test_convolutions_are_those_of_the_iteration(made: Iterations, loop: str) -> None:
    for iteration in (getattr(made, f"eager_{loop}")(), getattr(made, loop)(Execution())):
        with LaunchCounter() as whole:
            iteration()
        replayed = made.convolutions(iteration)
        with LaunchCounter() as alone:
            replayed()
        names = {"aten::convolution", "aten::convolution_backward"}
        assert set(alone.by_operator) == names
        for name in names:
            assert alone.by_operator[name] == whole.by_operator[name]
            assert alone.bytes_by_operator[name] == whole.bytes_by_operator[name]


def test_launch_counter() -> None:
    x = torch.ones(4, 6)
    with LaunchCounter() as counter:
        y = (x + x).view(24)[:12].reshape(3, 4)
        torch.empty_like(y)
        torch._foreach_add_([x] * 101, 1.0)
        (x[:1].expand(4, 6) * 2.0).detach()
    assert counter.by_operator == {"aten::add": 1, "aten::_foreach_add_": 2, "aten::mul": 1}
    assert counter.bytes_by_operator["aten::add"] == 4 * 3 * 24  # both operands and the sum
    assert counter.bytes_by_operator["aten::mul"] == 4 * (6 + 24)  # an expanded row is read once


def test_launches_render() -> None:
    rows = [
        Count("synthesis", "a network", WASTEFUL, 1000, 5 * 10**9, 0, 1100, 5.5),
        Count("synthesis", "a network", EAGER, 500, 3 * 10**9, 0, None, None),
        Count("synthesis", "a network", MERGED, 100, 2 * 10**9, 10**8, 90, 1.75),
    ]
    text = page({"stem": "launches", "rows": [asdict(r) for r in rows]})
    assert "| eager, as published | 1,000 | 1,100 | 5.00 | 5.50 |" in text
    assert "| eager | 500 |  | 3.00 |  |" in text
    assert "0.10 GB of synthesis, a network" in text


def test_steps_render() -> None:
    candidates = {
        "eager": lambda: torch.ones(8),
        "compile": Absent("no compiler"),
        "hast_cuda": lambda: torch.ones(8),
        CONVOLUTIONS: lambda: torch.ones(8),
    }
    settings = Settings(CPU, rounds=1, fewest=1, warm_up=0)
    results, rounds = measure(candidates, None, settings)
    assert list(results) == list(candidates)
    timed = results["eager"]
    assert isinstance(timed, Timing)
    assert timed.copy_percent is None
    for name, ms in (("eager", 6.0), ("hast_cuda", 3.0), (CONVOLUTIONS, 1.0)):
        results[name] = replace(timed, p20_ms=ms, p50_ms=ms, p80_ms=ms)
    ratios = derived(results)
    assert ratios["eager"] == {"non_convolution_ms": 5.0, "over_hast": 2.0, "non_convolution_over_hast": 2.5}
    case = Case("an iteration", "a network", candidates, None)
    line = {**row(case, settings, results, rounds), "derived": ratios}
    text = page({"stem": "step", "rows": [line]})
    assert "| eager | 6.00 ms | 6.00 to 6.00 | 2.00x | 5.00 ms | 2.50x |" in text
    assert f"| {CONVOLUTIONS} | 1.00 ms | 1.00 to 1.00 |  |  |  |" in text
    assert "Absent: compile: no compiler." in text


def test_convolutions_slower_than_the_whole_leave_no_ratio() -> None:
    timing = Timing(1.0, 1.0, 1.0, None, None, None, 0, None)
    ratios = derived({"hast_cuda": timing, CONVOLUTIONS: replace(timing, p50_ms=2.0)})
    assert ratios["hast_cuda"]["non_convolution_ms"] == -1.0
    assert ratios["hast_cuda"]["non_convolution_over_hast"] is None


def test_runs_render() -> None:
    budget = {
        "bits": 4,
        "preset": "default",
        "images": 8,
        "synthesis_iterations": 3,
        "batch": 4,
        "finetune_iterations": 2,
    }
    document = {
        "stem": "run",
        "network": "a network",
        "weights": "random",
        "threads": 1,
        "budget": budget,
        "seconds": {"synthesis": 1.25},
        "rates": {"some_rate": 2.5},
    }
    text = page(document)
    assert "a network (random weights), 4 bits" in text
    assert "| synthesis | 1.2 |" in text
    assert "| some rate | 2.50 |" in text
    assert set(TABLES) == {"launches", "step", "run", "ranks", "memory", "export", "deploy"}


def test_ranks_render() -> None:
    seconds = {"synthesis_iteration": [0.5, 0.25], "finetune_step": [0.75, 0.5], "sum": [0.002, 0]}
    rates = {"images_per_second": 0.5, "steps_per_second": 1.5}
    expected = {f"predicted_{name}": 2 * rate for name, rate in rates.items()}
    document = {
        "budget": {"network": "a network", "batch": 64, "batches": 2, "rounds": 3, "iterations": 5},
        "bytes_summed": 1_090_000,
        "iterations": 1000,
        "threads": 1,
        "cores": 2,
        "load": 1.26,
        "rows": [
            {"ranks": 1, "seconds": seconds, **rates, **expected},
            {"ranks": 2, "seconds": seconds, **rates, **expected},
            {"ranks": 8, "absent": "2 GPUs"},
        ],
    }
    text, *lines = TABLES["ranks"](document)
    assert "a sum is of 1.1 MB. 1.3 other processes wanted the 2 cores" in text
    assert "| 1 | 0.50 | 1.00 | 1.50 | 3.00 | 500 | 250 |  |" in lines
    assert "| 2 | 0.50 | 1.00 | 1.50 | 3.00 | 500 | 250 | 2.0 |" in lines
    assert lines[-2] == "Absent: 8 processes: 2 GPUs."


@pytest.mark.slow
def test_ranks_are_measured(tmp_path: Path) -> None:
    script = Path(harness.__file__).with_name("bench_ranks.py")
    flags = ["--device", "cpu", "--batch", "4", "--iterations", "1", "--rounds", "1", "--out"]
    subprocess.run([sys.executable, str(script), *flags, str(tmp_path)], check=True, capture_output=True)
    document = json.loads((tmp_path / "ranks-cpu.json").read_text(encoding="utf-8"))
    assert [row["ranks"] for row in document["rows"]] == [1, 2]
    assert document["bytes_summed"] == 4 * 272_474
    assert document["rows"][1]["seconds"]["sum"][0] > 0


def test_memory_renders() -> None:
    rows = [{"variant": "2 segments", "peak_bytes": 1_230_000_000, "seconds": 4.56}]
    lines = TABLES["memory"]({"case": "a network", "threads": 2, "rows": rows})
    assert lines[-2] == "| 2 segments | 1.23 | 4.56 |"


def test_run_all_passes_on_what_a_script_knows() -> None:
    flags = ["--device", "cpu", "--rounds", "2", "--out", "results"]
    assert known("bench_fake_quantize.py", flags) == flags
    assert known("bench_launches.py", flags) == ["--out", "results"]
    assert known("bench_run.py", flags) == ["--device", "cpu", "--out", "results"]
    assert known("bench_run.py", []) == []


def test_runtimes_render() -> None:
    row = {"network": "a network", "batch": 1, "threads": 1, "runtime": "engine", "ratio": 0.3333, "milliseconds": 2.5}
    document = {
        "stem": "deploy",
        "rounds": 9,
        "peers": {"onnxruntime": "1.2", "openvino": None},
        "memory_mib": {"a network": {"engine": 22.4}},
        "rows": [{**row, "gmac_per_second": 160.4}],
    }
    text = page(document)
    assert "onnxruntime 1.2." in text
    assert "| runtime | batch 1, 1 thread | GMAC/s | MiB |" in text
    assert "| engine | 2.50 (0.33) | 160 | 22 |" in text
