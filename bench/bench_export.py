"""Exported networks beside the quantized ones: size, agreement, time in onnxruntime.

The demo's network, and those of $HAST_CUDA_DATA where it has them; each quantized by SQuant (no
images, nothing is random) and exported in every form. Images are the real test images.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from provenance import device_label, provenance

from hast_cuda import quantization_table
from hast_cuda.data import load_images
from hast_cuda.exports import KINDS, export_network, measure
from hast_cuda.exports.verify import plain_onnx
from hast_cuda.methods import recipe
from hast_cuda.posttraining import prepare
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.teachers import input_spec, load_teacher

SCHEMA = 1
DATA = Path(os.environ.get("HAST_CUDA_DATA", ""))
# name, weights, images, normalization
NETWORKS = (
    ("digits", None, "digits", None),
    ("resnet20_cifar10", "weights/resnet20_cifar10.safetensors", "cifar10_test.npz", "cifar10"),
    ("resnet20_cifar100", "weights/resnet20_cifar100.safetensors", "cifar100_test.npz", "cifar100"),
)
BITS = (3, 4)


def measure_network(
    name: str,
    weights: str | None,
    images: str,
    normalization: str | None,
    bits: int,
    kinds: Sequence[str],
    threads: Sequence[int],
    folder: Path,
) -> list[dict[str, object]]:
    """One row per form."""
    spec = input_spec(name, normalization=normalization)
    teacher = load_teacher(name, weights=None if weights is None else DATA / weights)
    test = load_images(images if weights is None else str(DATA / images), spec=spec)
    shape, chosen = (spec.channels, spec.height, spec.width), recipe("squant")
    student = zero_shot_quantize(teacher, shape, Bits(bits, bits), recipe=chosen).student
    plain = plain_onnx(teacher, folder / "plain.onnx", shape)
    rows = []
    for kind in kinds:
        done = export_network(student, folder, kind, shape, network=prepare(teacher, chosen.posttraining), images=test)
        layers = quantization_table(student).quantized_weights
        row = {"network": name, "bits": bits, "layers": layers, **done.record()}
        if kind.startswith("onnx"):
            row["latency"] = [
                asdict(measure(done.file, plain, shape, batch=batch, threads=n)) for n in threads for batch in (1, 32)
            ]
        rows.append(row)
        assert done.checks is not None
        print(
            f"{name} W{bits}A{bits} {kind}: {done.bytes:,} bytes, agreement "
            f"{done.checks.top1_agreement:.2f} %, cosine {done.checks.cosine:.6f} {row['latency']}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure, print, and write ``<out>/export-cpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    names = [name for name, *_ in NETWORKS]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    flags = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, weights, images, normalization in NETWORKS:
            if name not in flags.networks:
                continue
            if weights is not None and not (DATA / weights).exists():
                print(f"{name}: HAST_CUDA_DATA does not name a folder with {weights}")
                continue
            for bits in BITS:
                rows += measure_network(
                    name, weights, images, normalization, bits, flags.kinds, flags.threads, Path(folder)
                )
    device = torch.device("cpu")
    document = {
        "schema": SCHEMA,
        "stem": "export",
        **provenance(device),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "rows": rows,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"export-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
