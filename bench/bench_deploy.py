"""The engine beside other runtimes on the CPU: time per image, ratio to onnxruntime's float, memory.

Weights are random, so figures are of time alone. All candidates of a case run in turn in every round;
a ratio is the median over rounds of the ratio to onnxruntime float in the same round. One thread is
measured in processor time of the process, several in wall time.

    python bench/bench_deploy.py --networks resnet20_cifar10 resnet18 --batches 1 32 --threads 1 2
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from provenance import device_label, provenance
from pytorchcv.model_provider import get_model
from runtimes import Files, Run, Shape, runtimes

SCHEMA = 1
NETWORKS: dict[str, Shape] = {
    "resnet20_cifar10": (3, 32, 32),
    "mobilenetv2_wd2": (3, 224, 224),
    "resnet18": (3, 224, 224),
    "mobilenet_w1": (3, 224, 224),
    "mobilenetv2b_w1": (3, 224, 224),
}
BASE = "onnxruntime float"
SHORTEST = 0.02  # seconds of a measurement: faster calls are repeated
REST = 0.3  # seconds before each, with several threads: those of the last runtime stop spinning


def network(name: str) -> torch.nn.Module:
    """With random weights, BatchNorm statistics as they come."""
    torch.manual_seed(0)
    found: torch.nn.Module = get_model(name, pretrained=False).eval()
    return found


def interleaved(candidates: dict[str, Run], images: Any, *, rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds per call in every round."""
    clock: Callable[[], float] = time.process_time if threads == 1 else time.perf_counter
    repeats, seconds = {}, {name: list[float]() for name in candidates}
    for name, run in candidates.items():
        for _ in range(2):
            start = time.perf_counter()
            run(images)
            taken = time.perf_counter() - start
        repeats[name] = max(1, round(SHORTEST / max(taken, 1e-6)))
    for _ in range(rounds):
        for name, run in candidates.items():
            time.sleep(REST if threads > 1 else 0)
            run(images)
            start = clock()
            for _ in range(repeats[name]):
                run(images)
            seconds[name].append((clock() - start) / repeats[name])
    return seconds


def case(files: Files, name: str, batch: int, threads: int, flags: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per runtime."""
    images = np.random.default_rng(0).standard_normal((batch, *files.shape)).astype(np.float32)
    made: dict[str, Run] = {}
    for label, make in runtimes(files, threads, batch).items():
        if flags.runtimes is None or label in (*flags.runtimes, BASE):
            made[label] = make()
    seconds = interleaved(made, images, rounds=flags.rounds, threads=threads)
    work, rows = files.multiplications() * batch, []
    for label, taken in seconds.items():
        ratio = median(own / base for own, base in zip(taken, seconds[BASE], strict=True))
        rows.append({
            "network": name, "batch": batch, "threads": threads, "runtime": label, "ratio": round(ratio, 4),
            "milliseconds": round(1e3 * median(taken), 4), "fastest": round(1e3 * min(taken), 4),
            "gmac_per_second": round(work / median(taken) * 1e-9, 2),
        })  # fmt: skip
        print(f"{name}, batch {batch}, {threads} threads: {label:20s} {rows[-1]['milliseconds']:9.3f} ms, "
              f"{ratio:.2f} of {BASE}, {rows[-1]['gmac_per_second']:.1f} GMAC/s", flush=True)  # fmt: skip
    return rows


def _memory(folder: Path, name: str, label: str) -> float:
    """MiB that a process of its own grows by, from the network's files on: its runtime, loaded and run."""
    files = Files(network(name), NETWORKS[name], folder)
    images = np.zeros((1, *files.shape), np.float32)
    before = _resident()
    run = runtimes(files, 1, 1)[label]()
    run(images)
    return (_resident() - before) / 2**20


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def memory(files: Files, name: str, labels: Sequence[str]) -> dict[str, float]:
    """By runtime, batch 1, one thread."""
    found = {}
    for label in labels:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            found[label] = round(alone.submit(_memory, files.folder, name, label).result(), 1)
    return found


def main() -> None:
    """Measure, print, write ``<out>/deploy-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runtimes", nargs="+", help="default: all that are installed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", nargs="*", default=list(NETWORKS), choices=NETWORKS, help="networks")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    rows: list[dict[str, Any]] = []
    grown: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.networks:
            files = Files(network(name), NETWORKS[name], Path(folder) / name)
            large = files.shape[1] > 64
            for threads in flags.threads:
                for batch in flags.batches:
                    if not (large and batch > 8):  # ten seconds a call in the slowest
                        rows += case(files, name, batch, threads, flags)
                        gc.collect()
            if name in flags.memory:
                labels = dict.fromkeys(r["runtime"] for r in rows if r["network"] == name)
                grown[name] = memory(files, name, list(labels))
                print(f"{name}: MiB {grown[name]}", flush=True)
    device = torch.device("cpu")
    document = {
        "schema": SCHEMA,
        "stem": "deploy",
        **provenance(device),
        "peers": {p: _version(p) for p in ("onnxruntime", "openvino", "numpy")},
        "rounds": flags.rounds,
        "processors": os.cpu_count(),
        "memory_mib": grown,
        "rows": rows,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"deploy-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
