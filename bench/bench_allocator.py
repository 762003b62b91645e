"""Page faults of whole iterations on a CPU: processor time with and without keeping what tensors free.

User and system time of one iteration of either loop, on one thread, in a process of its own for both.

    python bench/bench_allocator.py --out bench/results
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from iterations import DIRECT, SETTINGS, Iterations
from provenance import MALLOC, device_label, provenance

from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.execution import Execution

SCHEMA = 1
ROUNDS = 3


def measured(network: str, *, keep: bool) -> list[dict[str, object]]:
    """User and system milliseconds of an iteration of both loops; peak of the process so far."""
    torch.set_num_threads(1)
    made = Iterations(SETTINGS[network], torch.device("cpu"))
    loops = {"synthesis": made.synthesis(Execution()), "fine-tuning": made.finetune(Execution(), DIRECT)}
    rows: list[dict[str, object]] = []
    with freed_memory_kept() if keep else nullcontext():
        for loop, call in loops.items():
            call()  # allocates
            before = resource.getrusage(resource.RUSAGE_SELF)
            for _ in range(ROUNDS):
                call()
            after = resource.getrusage(resource.RUSAGE_SELF)
            row = {"network": made.setting.case, "loop": loop, "kept": keep, "peak_mb": after.ru_maxrss // 1024}
            for name in ("utime", "stime"):
                row[f"{name}_ms"] = round(
                    1e3 * (getattr(after, f"ru_{name}") - getattr(before, f"ru_{name}")) / ROUNDS, 1
                )
            rows.append(row)
    return rows


def main() -> None:
    """Both ways for every network; writes ``<out>/allocator-cpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=["resnet20", "mobilenetv2"])
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(measured(flags.one[0], keep=flags.one[1] == "keep")))
        return
    plain = {name: value for name, value in os.environ.items() if name not in MALLOC}
    rows: list[dict[str, object]] = []
    for network in flags.networks:
        for way in ("plain", "keep"):
            command = [sys.executable, __file__, "--one", network, way]
            rows += json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=plain).stdout)
    for row in rows:
        print(row)
    device = torch.device("cpu")
    document = {"schema": SCHEMA, "stem": "allocator", **provenance(device), "malloc": None, "rows": rows}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"allocator-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
