"""Whether synthetic images tell which layer needs which bits: beside real test images.

Networks come from a JSON file, as for bench_networks.py; images are those of its runs under --runs
(``<name>-w<bits>-hast-seed<seed>``). With --made they come from one as for bench_calibration_sets.py, and images
are made now, as for a calibration set. Per network, kind and width: the rank correlation (Spearman) of the
layers' order on synthetic images with that on as many real ones; "second order" is the estimate by gradients on
synthetic images beside weights measured on real ones. Then, for widths chosen by either within an average of
bits, what they lose on --count further real images, weights alone quantized, without training.

    python bench/bench_sensitivity.py networks.json --runs runs/networks --count 128
    python bench/bench_sensitivity.py bench/calibration_networks.json --made --only "*, CIFAR*" --count 32
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import bench_calibration_sets
import torch
from bench_networks import Network, rank_correlation
from provenance import device_label, provenance
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.analysis import LayerSensitivity
from hast_cuda.analysis.sensitivity import WIDTHS
from hast_cuda.calibration.make import default_config
from hast_cuda.cli.network import find
from hast_cuda.finetune import agreement
from hast_cuda.reconstruction.rounding import search_weight_ranges
from hast_cuda.run.settings import image_store
from hast_cuda.synthesis import synthesize
from hast_cuda.teachers import input_spec

SCHEMA = 1
KINDS = {"weights": "weights", "activations": "activations", "second order": "weights"}  # on synthetic images, on real
AVERAGES = (2.5, 3.0, 4.0)
Found = Mapping[str, LayerSensitivity]


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    name: str
    teacher: nn.Module
    synthetic: Tensor
    real: Iterator[tuple[Tensor, Tensor]]
    """Batches of test images."""
    placement: str


def of_run(network: Network, run: Path, count: int) -> Subject:
    """A network with the images of a run."""
    spec = input_spec(
        network.model, normalization=network.normalization, image_size=network.size, num_classes=network.classes
    )
    teacher = hc.load_teacher(network.model, weights=network.weights)
    real = hc.load_images(network.data, spec=spec).batches(count)
    return Subject(network.name, teacher, image_store(run).load_all().images[:count], real, network.placement)


def with_made(network: bench_calibration_sets.Network, count: int, seed: int, device: torch.device) -> Subject:
    """A network with images that are made now."""
    teacher, spec = network.teacher(), network.spec()
    config = replace(default_config(spec, count), iterations=network.iterations)
    made = synthesize(teacher, spec, config, seed=seed, device=device).images
    return Subject(network.name, teacher, made, hc.load_images(find(network.data), spec=spec).batches(count), "auto")


def measure(subject: Subject, widths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Correlations by kind and width, and what the choices cost on other real images."""
    teacher = subject.teacher.to(device)
    images = {"synthetic": subject.synthetic, "real": next(subject.real)[0]}
    how: dict[str, Any] = {"placement": subject.placement, "device": device, "bits": widths}
    found = {n: hc.sensitivity(teacher, x, **how) for n, x in images.items()}
    unseen = next(subject.real)[0].to(device)
    return {
        "network": subject.name,
        "images": {name: len(x) for name, x in images.items()},
        "correlation": {kind: correlations(found["synthetic"], found["real"], kind) for kind in KINDS},
        "chosen": [choices(teacher, found, average, unseen) for average in AVERAGES],
    }


def correlations(synthetic: Found, real: Found, kind: str) -> dict[int, float]:
    """By width, over the layers."""
    own = kind.replace(" ", "_")
    names = [name for name in synthetic if getattr(synthetic[name], own)]
    widths = sorted(getattr(synthetic[names[0]], own))

    def losses(found: Found, field: str, width: int) -> list[float]:
        return [getattr(found[name], field)[width] for name in names]

    return {w: rank_correlation(losses(synthetic, own, w), losses(real, KINDS[kind], w)) for w in widths}


def choices(teacher: nn.Module, found: Mapping[str, Found], average: float, unseen: Tensor) -> dict[str, Any]:
    """Divergence of the network with chosen weights from the original on ``unseen``, without any training."""
    row: dict[str, Any] = {"average_bits": average}
    overrides = {n: hc.allocate_bits(f, average_bits=average, act_bits=None) for n, f in found.items()}
    if average.is_integer():
        overrides["uniform"] = {}
    for name, chosen in overrides.items():
        student = hc.quantize(teacher, int(average), None, overrides=chosen).eval()
        search_weight_ranges(student)
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
    """Measure, print both tables, write ``<out>/<stem>-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs/networks"))
    parser.add_argument("--made", action="store_true", help="images are made now")
    parser.add_argument("--only", default="*", help="pattern of the networks' names")
    parser.add_argument("--seed", type=int, default=0, help="of the runs that made the images, or of those made now")
    parser.add_argument("--count", type=int, default=128, help="images of each kind")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--stem", default="sensitivity", help="of the file of results")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    lines = [line for path in flags.networks for line in json.loads(path.read_text(encoding="utf-8"))]
    device, rows = torch.device(flags.device), []
    for line in lines:
        if not fnmatch(line["name"], flags.only):
            continue
        if flags.made:
            subject = with_made(bench_calibration_sets.Network(**line), flags.count, flags.seed, device)
        else:
            network = Network(**line)
            run = flags.runs / f"{network.name}-w{network.bits[0]}-hast-seed{flags.seed}"
            subject = of_run(network, run, flags.count)
        rows.append(measure(subject, flags.widths, device))
        print(subject.name, flush=True)
    for line in tables(rows):
        print(line)
    document = {"schema": SCHEMA, "stem": flags.stem, "seed": flags.seed, **provenance(device), "rows": rows}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"{flags.stem}-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
