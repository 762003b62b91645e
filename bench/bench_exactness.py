"""Classes and logits of the engine, and of the student in float32 and float64, on test images.

What differs between float32 and float64 is PyTorch's own rounding: codes on a border that fall on either
side. The engine should differ from float64 on fewer images than that.

    python bench/bench_exactness.py runs/r20w4 --model resnet20_cifar10 --weights w.safetensors \\
        --normalization cifar10 --data cifar10_test.npz
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import device_label, provenance

import hast_cuda as hc
from hast_cuda.deploy import load
from hast_cuda.deploy.engine import require_engine
from hast_cuda.exports.to_engine import save_engine
from hast_cuda.teachers import input_spec

SCHEMA = 1
SMALL = 1e-3  # of logits: below it is rounding of the last layer


def main() -> None:
    """Compare, print, write ``<out>/exactness-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of one network")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--normalization")
    parser.add_argument("--size", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    spec = input_spec(flags.model, normalization=flags.normalization, image_size=flags.size, num_classes=flags.classes)
    teacher = hc.load_teacher(flags.model, weights=flags.weights)
    images, _ = next(iter(hc.load_images(flags.data, spec=spec).batches(flags.limit)))
    rows = [row for run in flags.runs for row in compare(hc.load(run, teacher), images, run.name, spec.size)]
    device = torch.device("cpu")
    document = {"schema": SCHEMA, "stem": "exactness", **provenance(device), "model": flags.model, "rows": rows}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"exactness-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


@torch.no_grad()
def compare(
    student: torch.nn.Module, images: torch.Tensor, name: str, size: tuple[int, int, int]
) -> list[dict[str, Any]]:
    """A row for every pair."""
    student = student.eval()
    exact = copy.deepcopy(student).double()
    found = {
        "float64": torch.cat([exact(part.double()) for part in images.split(64)]).numpy(),
        "float32": torch.cat([student(part) for part in images.split(64)]).numpy(),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = save_engine(student, Path(folder) / "student.hast", size).file
        for isa in require_engine().instruction_sets():
            found[f"engine, {isa}"] = load(path, isa=isa).run(images.numpy())
    rows = []
    for (one, first), (other, second) in combinations(found.items(), 2):
        row = {
            "run": name,
            "pair": [one, other],
            "images": len(images),
            "other_class": int((first.argmax(1) != second.argmax(1)).sum()),
            "other_logits": int((np.abs(first - second).max(1) > SMALL).sum()),
        }
        rows.append(row)
        print(
            f"{name}: {one} and {other}: {row['other_class']} other classes, {row['other_logits']} other logits "
            f"of {len(images)}"
        )
    return rows


if __name__ == "__main__":
    main()
