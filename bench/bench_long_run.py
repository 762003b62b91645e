"""Memory, open files, size of the log and time per iteration of both loops over many iterations.

Two convolutions, 8 images of 3 x 8 x 8 at a time, every loop in a process of its own. Times are
those of the thread, so that they say something beside other work; one thread only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from long_run import CPU, LOOPS, plain, run_loop
from provenance import device_label, provenance
from torch import nn

from hast_cuda.data import InputSpec

SCHEMA = 1
SHAPE = InputSpec(3, 8, 8, 10)


def small_network() -> nn.Module:
    """Small, so that the time is that of the loops and not of convolutions."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()


def measured(loop: str, iterations: int) -> dict[str, Any]:
    """One loop, in a process of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return plain(run_loop(loop, small_network(), SHAPE, Path(folder), iterations))


def main() -> None:
    """Measure, print, and write ``<out>/long-run-cpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--loops", nargs="*", choices=LOOPS, default=LOOPS)
    parser.add_argument("--beside", default="", help="what else the machine did meanwhile")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    rows = []
    for loop in flags.loops:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            row = process.submit(measured, loop, flags.iterations).result()
        rows.append(row)
        megabytes = (row["resident_end"] - row["resident_start"]) / 1e6
        print(
            f"{loop}: resident {megabytes:+.2f} MB, files {row['files_start']} to "
            f"{row['files_end']}, {row['log_lines']} lines, {row['first_quarter_ms']:.2f} to "
            f"{row['last_quarter_ms']:.2f} ms per iteration",
            flush=True,
        )
    document = {
        "schema": SCHEMA,
        "stem": "long-run",
        **provenance(CPU),
        "malloc": None,
        "threads": 1,
        "beside": flags.beside,
        "case": "two convolutions, 8 images of 3x8x8",
        "rows": rows,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"long-run-{device_label(CPU)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
