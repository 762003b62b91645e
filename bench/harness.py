"""Times several implementations of one op against each other and writes JSON with its provenance.

All candidates run in turn within every round, so that a machine whose speed drifts treats them
alike; the 20th, 50th and 80th percentile over the rounds are kept. CUDA is timed with events after
flushing the L2 cache, the CPU with the wall clock (small calls are repeated in one measurement).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import hast_cuda

Candidate = Callable[[], object]
SHORTEST = 2e-3  # seconds per measurement on the CPU
L2_FLUSH = 128 * 2**20  # bytes, more than any L2 cache


@dataclass(frozen=True)
class Row:
    """One implementation on one input: milliseconds and the fewest bytes the op can move."""

    op: str
    case: str
    implementation: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    bytes_moved: int
    gigabytes_per_second: float
    speedup_over_eager: float


def arguments(description: str | None) -> argparse.Namespace:
    """The flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed


def _cuda_seconds(candidate: Candidate, flush: torch.Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    candidate()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _cpu_seconds(candidate: Candidate, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        candidate()
    return (time.perf_counter() - start) / repeats


def measure(
    op: str, case: str, candidates: dict[str, Candidate], bytes_moved: int, *, device: str,
    rounds: int,
) -> list[Row]:  # fmt: skip
    """Time ``candidates`` ("eager" is the baseline) in interleaved rounds."""
    on_gpu = device.startswith("cuda")
    flush = torch.empty(L2_FLUSH if on_gpu else 0, dtype=torch.int8, device=device)
    repeats = {}
    for name, candidate in candidates.items():
        for _ in range(3):
            candidate()  # warm-up: allocator, compilation, thread pool
        repeats[name] = max(1, int(SHORTEST / max(_cpu_seconds(candidate, 1), 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            seconds[name].append(
                _cuda_seconds(candidate, flush)
                if on_gpu
                else _cpu_seconds(candidate, repeats[name])
            )
    ranks = {
        n: [sorted(s)[int(q * (rounds - 1))] for q in (0.2, 0.5, 0.8)] for n, s in seconds.items()
    }
    eager = ranks["eager"][1]
    rows = [
        Row(
            op, case, name, *(round(1e3 * t, 5) for t in times), bytes_moved,
            round(bytes_moved / times[1] / 1e9, 2), round(eager / times[1], 2),
        )
        for name, times in ranks.items()
    ]  # fmt: skip
    for row in rows:
        print(
            f"{row.op:22s} {row.case:28s} {row.implementation:10s} {row.p50_ms:9.4f} ms "
            f"{row.gigabytes_per_second:8.1f} GB/s  {row.speedup_over_eager:6.2f} x eager"
        )
    return rows


def provenance(device: str) -> dict[str, object]:
    """Device, versions and commit of a measurement."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hast_cuda": hast_cuda.__version__,
        "build": hast_cuda.build_info(),
        "python": platform.python_version(),
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def save(stem: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Write ``<out>/<stem>-<device type>.json``."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{stem}-{options.device.partition(':')[0]}.json"
    document = {**provenance(options.device), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")
