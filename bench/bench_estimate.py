"""What a run was said to take and what it took, phase by phase.

Networks come from a JSON file, as those of bench_networks.py. Every run is measured, then made in a
directory that goes away; so is the demo with --demo.

    python bench/bench_estimate.py networks.json --budget 2m --demo
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_networks import Network
from provenance import device_label, provenance

from hast_cuda.checks.values import as_device
from hast_cuda.cli.demo import demo_recipe
from hast_cuda.data import load_images
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.run import Bits, estimate, zero_shot_quantize
from hast_cuda.teachers import input_spec, load_teacher

SCHEMA = 1
DEMO = Network("digits demo", "digits", "digits", bits=(3,))


def row(network: Network, budget: str | None, device: torch.device, out: Path) -> dict[str, Any]:
    """One run: seconds per phase, estimated and taken, and how busy the machine was before."""
    spec = input_spec(
        network.model, normalization=network.normalization, image_size=network.size, num_classes=network.classes
    )
    teacher = load_teacher(network.model, weights=network.weights)
    bits = Bits(network.bits[0], network.bits[0], network.placement)
    asked: dict[str, Any] = {"test": load_images(network.data, spec=spec), "device": device}
    if budget is None:
        asked["recipe"] = demo_recipe()
    else:
        asked |= {"budget": budget, "changes": network.changes, "dataset": dataset_like(spec)}
    load = os.getloadavg()[0]
    said = estimate(teacher, spec, bits, **asked)
    done = zero_shot_quantize(teacher, spec, bits, **asked | {"recipe": said.recipe, "budget": None}, out=out)
    return {
        "network": network.name,
        "budget": budget,
        "bits": network.bits[0],
        "load": round(load, 1),
        "estimated": {name: round(taken, 1) for name, taken in said.seconds.items()},
        "taken": {name: round(taken, 1) for name, taken in done.result["seconds"].items()},
        "estimated_gib": round(said.memory / 2**30, 2),
        "num_images": said.images,
        "synthesis_iterations": said.recipe.synthesis.iterations,
        "reconstruction_iterations": said.recipe.reconstruction.iterations,
        "finetune_iterations": said.recipe.finetune.iterations,
        "quantized": done.result["quantized"],
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown, a line per network and phase."""
    lines = ["| network, budget | phase | estimated s | taken s | ratio |", "|---" * 5 + "|"]
    for found in rows:
        said, taken = found["estimated"], found["taken"]
        pairs = [(name, said.get(name, 0.0), taken.get(name, 0.0)) for name in {**said, **taken}]
        pairs.append(("all", sum(said.values()), sum(taken.values())))
        for name, first, second in pairs:
            ratio = f"{first / second:.2f}" if second else "-"
            label = f"{found['network']}, {found['budget'] or 'its own numbers'}"
            lines.append(f"| {label} | {name} | {first:.1f} | {second:.1f} | {ratio} |")
    return lines


def main() -> None:
    """Run all, print the table, write ``<out>/estimate-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, nargs="?")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of this process, for a machine with other work"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    if flags.cpu_time:  # the clocks of the trial and of a run's phases
        time.perf_counter = time.monotonic = time.process_time
    device = as_device(flags.device, auto=True)
    listed = json.loads(flags.networks.read_text(encoding="utf-8")) if flags.networks else []
    jobs = [*([(DEMO, None)] if flags.demo else []), *((Network(**line), flags.budget) for line in listed)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (network, budget) in enumerate(jobs):
            rows.append(row(network, budget, device, Path(folder) / str(number)))
            print(rows[-1], flush=True)
    for line in table(rows):
        print(line)
    document = {"schema": SCHEMA, "stem": "estimate", **provenance(device), "cpu_time": flags.cpu_time, "rows": rows}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"estimate-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
