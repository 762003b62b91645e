"""What every benchmark shares: its flags, its cases, and the JSON it writes."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cuda_timing import Candidate
from provenance import device_label, keep_freed_memory, provenance
from timing import COPY, Absent, Settings, Timing, measure

SCHEMA = 1
HAST = "hast_cuda"


@dataclass(frozen=True)
class Case:
    """One input: what runs on it, by name, and the fewest bytes that the op can move.

    Without bytes (None) there is no copy beside it.
    """

    op: str
    case: str
    candidates: Mapping[str, Candidate | Absent]
    bytes_moved: int | None


@dataclass(frozen=True)
class Options:
    """The flags of a benchmark."""

    device: torch.device
    threads: tuple[int, ...]
    rounds: int
    seconds: float
    large: bool
    compile: bool
    only: str
    out: Path


# Builds a case when it is its turn, so that one case's tensors are gone before the next.
CaseMaker = Callable[[], Case]
Cases = Callable[[Options], Iterable[tuple[str, CaseMaker]]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that every timing script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=None,
        help="CPU: one measurement per count; 1 is timed with the thread's clock, more with the "
        "wall clock (default: 1 and all)",
    )
    parser.add_argument("--rounds", type=int, default=30, help="at most")
    parser.add_argument("--seconds", type=float, default=3.0, help="about, per case and threads")
    parser.add_argument(
        "--large",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="ImageNet maps at batch 256 too (default: on CUDA)",
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile as a baseline"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    return parser


def options_of(flags: argparse.Namespace) -> Options:
    """What the flags say, with the defaults of their device."""
    device = torch.device(flags.device)
    cuda = device.type == "cuda"
    everything = {1, torch.get_num_threads()}
    return Options(
        device=device,
        threads=(1,) if cuda else tuple(flags.threads or sorted(everything)),
        rounds=flags.rounds,
        seconds=flags.seconds,
        large=cuda if flags.large is None else flags.large,
        compile=flags.compile,
        only=flags.only,
        out=flags.out,
    )


def run(stem: str, description: str | None, cases: Cases) -> None:
    """Measure all cases and write ``<out>/<stem>-<device>.json`` after every one."""
    options = options_of(parser(description).parse_args())
    if options.device.type == "cpu":
        keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{stem}-{device_label(options.device)}.json"
    document = {"schema": SCHEMA, "stem": stem, **provenance(options.device)}
    rows: list[dict[str, object]] = []
    for name, make in cases(options):
        if options.only not in name:
            continue
        torch._dynamo.reset()  # a compiled baseline is compiled for its own shape
        torch.manual_seed(0)
        case = make()
        for threads in options.threads:
            if options.device.type == "cpu":
                torch.set_num_threads(threads)
            settings = Settings(options.device, threads, options.rounds, options.seconds)
            results, rounds = measure(case.candidates, case.bytes_moved, settings, required=("eager", HAST))
            rows.append(row(case, settings, results, rounds))
            _show(case, settings, results)
        del case
        gc.collect()
        # Written as it grows: a run that is cut off keeps what it measured.
        path.write_text(json.dumps({**document, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def row(case: Case, settings: Settings, results: dict[str, Timing | Absent], rounds: int) -> dict[str, object]:
    """One case of a results file."""
    return {
        "op": case.op,
        "case": case.case,
        "bytes_moved": case.bytes_moved,
        "threads": settings.threads,
        "clock": settings.clock,
        "rounds": rounds,
        "results": {name: {"absent": r.reason} if isinstance(r, Absent) else asdict(r) for name, r in results.items()},
    }


def _show(case: Case, settings: Settings, results: dict[str, Timing | Absent]) -> None:
    ours = results[HAST]
    parts = []
    for name, result in results.items():
        if isinstance(result, Absent):
            continue
        ratio = ""
        if isinstance(ours, Timing) and name not in (HAST, COPY):
            ratio = f" ({result.p50_ms / ours.p50_ms:.1f}x)"
        parts.append(f"{name} {result.p50_ms:.3f}{ratio}")
    share = f"{ours.copy_percent:.0f} % of copy" if isinstance(ours, Timing) and ours.copy_percent else ""
    print(f"{case.op}, {case.case}, {settings.threads} threads: {', '.join(parts)}; {share}", flush=True)
