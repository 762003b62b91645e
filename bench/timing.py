"""Times of several candidates on one input, in interleaved rounds, with the copy limit beside them.

All candidates run in turn within every round, so that a machine whose speed drifts treats them
alike. CUDA is timed in graphs, with nothing in the L2 cache (cuda_timing.py); the CPU with the clock
of the one thread that runs, or with the wall clock where several do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from cuda_timing import Candidate, CudaClock
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # public, yet not in its __all__
from torch.profiler import ProfilerActivity, profile

SHORTEST = 2e-3  # seconds per measurement on the CPU; faster calls are repeated within it
FEWEST_ROUNDS = 5
COPY = "copy"


@dataclass(frozen=True)
class Absent:
    """Stands for a candidate that cannot run here, and says why."""

    reason: str


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    device: torch.device
    threads: int = 1
    rounds: int = 30
    seconds: float = 4.0  # per case: rounds are cut to fit, to no fewer than `fewest`
    fewest: int = FEWEST_ROUNDS
    warm_up: int = 3  # calls before any is timed; one more finds how long a call takes
    graphs: bool = True  # CUDA: calls are captured; False for what replays graphs of its own

    @property
    def clock(self) -> str:
        """The clock of a measurement: its name is written beside every figure."""
        if self.device.type == "cuda":
            return "cuda graph" if self.graphs else "cuda events"
        return "thread time" if self.threads == 1 else "wall time"


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call, memory and launches of one candidate."""

    p20_ms: float
    p50_ms: float
    p80_ms: float
    loop_ms: float | None  # per call of many in a row without a flush; CUDA
    eager_ms: float | None  # the same without a graph, where the host may be the limit; CUDA
    copy_percent: float | None  # of the copy limit measured in the same rounds, if it was
    peak_bytes: int  # allocated during a call beyond what was allocated before
    launches: int | None  # kernels, copies and fills; CUDA


def copy_candidate(bytes_moved: int, device: torch.device) -> Candidate:
    """``copy_`` between two buffers that are there: the memory limit for ``bytes_moved``."""
    source, target = (torch.zeros(max(bytes_moved // 8, 1), dtype=torch.float32, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def measure(
    candidates: Mapping[str, Candidate | Absent],
    bytes_moved: int | None,
    settings: Settings,
    required: Collection[str] = (),
) -> tuple[dict[str, Timing | Absent], int]:
    """Time every candidate and, given bytes, the copy; returns timings and number of rounds.

    A candidate that raises is absent with its error, unless it is ``required``.
    """
    results: dict[str, Timing | Absent] = {}
    running: dict[str, Candidate] = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, Absent):
            results[name] = candidate
        elif reason := None if name in required else _failure(candidate):
            results[name] = Absent(reason)
        else:
            running[name] = candidate
    if bytes_moved is not None:
        running[COPY] = copy_candidate(bytes_moved, settings.device)
    clock = CudaClock(settings.device, settings.graphs) if settings.device.type == "cuda" else None
    costs, sample = {}, {}
    for name, candidate in running.items():
        for _ in range(settings.warm_up):
            candidate()  # warm-up: allocator, compilation, thread pool
        sample[name], costs[name] = _on_cuda(clock, candidate) if clock else _on_cpu(settings, candidate)
    affordable = int(settings.seconds / sum(costs.values()))
    rounds = max(settings.fewest, min(settings.rounds, affordable))
    samples: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name in running:
            samples[name].append(sample[name]())
    limit = _rank(samples[COPY], 0.5) if COPY in samples else None
    for name, candidate in running.items():
        p20, p50, p80 = (_rank(samples[name], q) for q in (0.2, 0.5, 0.8))
        results[name] = Timing(
            p20_ms=round(1e3 * p20, 5),
            p50_ms=round(1e3 * p50, 5),
            p80_ms=round(1e3 * p80, 5),
            loop_ms=round(1e3 * clock.in_a_row(candidate), 5) if clock else None,
            eager_ms=round(1e3 * clock.eager(candidate), 5) if clock else None,
            copy_percent=None if limit is None else round(100 * limit / p50, 1),
            peak_bytes=peak_bytes(candidate, settings.device),
            launches=_launches(candidate) if settings.device.type == "cuda" else None,
        )
    order = [*candidates, COPY]
    return {name: results[name] for name in order if name in results}, rounds


def _failure(candidate: Candidate) -> str | None:
    try:
        candidate()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return None


def _rank(samples: list[float], quantile: float) -> float:
    return sorted(samples)[int(quantile * (len(samples) - 1))]


def _on_cuda(clock: CudaClock, candidate: Candidate) -> tuple[Callable[[], float], float]:
    """What gives a sample, and the seconds that it takes."""
    sample = clock.cold(candidate)
    torch.cuda.synchronize()
    start = time.perf_counter()
    sample()
    return sample, max(SHORTEST, time.perf_counter() - start)


def _on_cpu(settings: Settings, candidate: Candidate) -> tuple[Callable[[], float], float]:
    """What gives a sample of calls repeated within SHORTEST, and the seconds that it takes."""
    # A CPU backward runs in the calling thread, so with one thread its clock misses nothing.
    clock = time.thread_time if settings.threads == 1 else time.perf_counter

    def seconds(repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            candidate()
        return (clock() - start) / repeats

    start = time.perf_counter()
    repeats = max(1, int(SHORTEST / max(seconds(1), 1e-7)))
    return lambda: seconds(repeats), max(SHORTEST, time.perf_counter() - start)


def peak_bytes(candidate: Candidate, device: torch.device) -> int:
    """Memory allocated during a call beyond what was allocated before, at most at one time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        candidate()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        candidate()
    # torch's CPU allocator reports every block it gives out and takes back.
    assert profiler.profiler is not None
    kineto = profiler.profiler.kineto_results
    events = [e for e in kineto.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def _launches(candidate: Candidate) -> int | None:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        candidate()
        torch.cuda.synchronize()
    seen = sum(e.device_type == DeviceType.CUDA for e in profiler.events())
    return seen or None  # nothing seen: the profiler cannot trace this device
