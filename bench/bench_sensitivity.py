"""Whether synthetic images tell which layer needs which bits: beside real test images.

Networks come from a JSON file, as for bench_networks.py; images are those of its runs under --runs
(``<name>-w<bits>-hast-seed<seed>``). Per network, kind and width: the rank correlation (Spearman) of the
layers' order on synthetic images with that on as many real ones. Then, for widths chosen by either within
an average of bits, what they lose on --count further real images, weights alone quantized, without training.

    python bench/bench_sensitivity.py networks.json --runs runs/networks --count 128
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_networks import Network, rank_correlation
from provenance import device_label, provenance
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.analysis import LayerSensitivity
from hast_cuda.finetune import agreement
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.reconstruction.rounding import search_weight_range
from hast_cuda.run import image_store
from hast_cuda.teachers import input_spec

SCHEMA = 1
KINDS = ("weights", "activations")
AVERAGES = (2.5, 3.0, 4.0)
Found = Mapping[str, LayerSensitivity]


def measure(network: Network, run: Path, count: int, device: torch.device) -> dict[str, Any]:
    """Correlations by kind and width, and what the choices cost on other real images."""
    spec = input_spec(
        network.model, normalization=network.normalization, image_size=network.size, num_classes=network.classes
    )
    teacher = hc.load_teacher(network.model, weights=network.weights).to(device)
    real = hc.load_images(network.data, spec=spec).batches(count)
    images = {"synthetic": image_store(run).load_all().images[:count], "real": next(real)[0]}
    placement = network.placement
    found = {n: hc.sensitivity(teacher, x, placement=placement, device=device) for n, x in images.items()}
    unseen = next(real)[0].to(device)
    return {
        "network": network.name,
        "images": {name: len(x) for name, x in images.items()},
        "correlation": {kind: correlations(found["synthetic"], found["real"], kind) for kind in KINDS},
        "chosen": [choices(teacher, found, average, unseen) for average in AVERAGES],
    }


def correlations(one: Found, other: Found, kind: str) -> dict[int, float]:
    """By width, over the layers."""
    names = [name for name in one if getattr(one[name], kind)]
    widths = sorted(getattr(one[names[0]], kind))
    pairs = {w: [[getattr(found[n], kind)[w] for n in names] for found in (one, other)] for w in widths}
    return {width: rank_correlation(*pair) for width, pair in pairs.items()}


def choices(teacher: nn.Module, found: Mapping[str, Found], average: float, unseen: Tensor) -> dict[str, Any]:
    """Divergence of the network with chosen weights from the original on ``unseen``, without any training."""
    row: dict[str, Any] = {"average_bits": average}
    overrides = {n: hc.allocate_bits(f, average_bits=average, act_bits=None) for n, f in found.items()}
    if average.is_integer():
        overrides["uniform"] = {}
    for name, chosen in overrides.items():
        student = hc.quantize(teacher, int(average), None, overrides=chosen).eval()
        for layer in student.modules():
            if isinstance(layer, QuantizedWeight):
                layer.fix_weight_range(search_weight_range(layer.weight, layer.weight_bits))
        row[name] = agreement(teacher, student, unseen).divergence
    return row


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: correlations, then choices."""
    widths = list(rows[0]["correlation"]["weights"])
    lines = [
        "| network | quantized | " + " | ".join(f"{w} bits" for w in widths) + " |",
        "|---" * (2 + len(widths)) + "|",
    ]
    for row in rows:
        for kind, by_width in row["correlation"].items():
            lines.append(f"| {row['network']} | {kind} | " + " | ".join(f"{v:.2f}" for v in by_width.values()) + " |")
    names = ("uniform", "synthetic", "real")
    lines += ["", "| network | average bits | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        for chosen in row["chosen"]:
            cells = [f"{chosen[name]:.4f}" if name in chosen else "-" for name in names]
            lines.append(f"| {row['network']} | {chosen['average_bits']:g} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print both tables, write ``<out>/sensitivity-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs/networks"))
    parser.add_argument("--seed", type=int, default=0, help="of the runs that made the images")
    parser.add_argument("--count", type=int, default=128, help="images of each kind")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    listed = [Network(**line) for path in flags.networks for line in json.loads(path.read_text(encoding="utf-8"))]
    device, rows = torch.device(flags.device), []
    for network in listed:
        run = flags.runs / f"{network.name}-w{network.bits[0]}-hast-seed{flags.seed}"
        rows.append(measure(network, run, flags.count, device))
        print(network.name, flush=True)
    for line in tables(rows):
        print(line)
    document = {"schema": SCHEMA, "stem": "sensitivity", "seed": flags.seed, **provenance(device), "rows": rows}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"sensitivity-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
