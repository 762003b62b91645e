"""Peak memory and time of one ImageNet synthesis iteration, by checkpointed segments and layout.

ResNet-18 on 224 x 224 images. Memory is what one iteration allocates beyond images, optimizer state
and weights, at most at one time; the time is that of one iteration after another one, so a rough
figure.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from iterations import IMAGENET, Iterations
from provenance import device_label, keep_freed_memory, provenance
from timing import peak_bytes

from hast_cuda.loops.execution import Execution

SCHEMA = 1
EXECUTIONS = {
    "unmerged": Execution(merge=False),
    "hast_cuda": Execution(),
    "2 segments": Execution(checkpoint_segments=2),
    "4 segments": Execution(checkpoint_segments=4),
    "8 segments": Execution(checkpoint_segments=8),
    "4 segments, bf16": Execution(checkpoint_segments=4, precision="bf16"),
}
GPU_ONLY = {"4 segments, bf16"}  # a CPU without bf16 units takes minutes for it


def main() -> None:
    """Measure, print, and write ``<out>/memory-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    device = torch.device(flags.device)
    if device.type == "cpu":
        keep_freed_memory()
    made = Iterations(replace(IMAGENET, batch=flags.batch), device)
    rows = []
    for name, execution in EXECUTIONS.items():
        if name in GPU_ONLY and device.type == "cpu":
            continue
        iteration = made.synthesis(execution)
        peak = peak_bytes(iteration, device)
        start = time.perf_counter()
        iteration()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        rows.append({"variant": name, "peak_bytes": peak, "seconds": round(seconds, 3)})
        print(f"{name}: peak {peak / 1e9:.2f} GB, {seconds:.2f} s", flush=True)
        del iteration
        gc.collect()
    document = {
        "schema": SCHEMA,
        "stem": "memory",
        **provenance(device),
        "threads": torch.get_num_threads(),
        "case": made.setting.case,
        "rows": rows,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"memory-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
