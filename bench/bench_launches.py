"""Launches and bytes of whole iterations, counted without a GPU, beside those of a staged model.

The model was drawn up before the kernels were written, from the formulas and the shapes alone. It
leaves out max-pooling, and of fine-tuning the crops and the clipping of gradients; the counts have
them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from iterations import ALIGNED, CIFAR, DIRECT, IMAGENET, Call, Iterations, Setting
from launch_counter import LaunchCounter
from provenance import provenance
from torch._subclasses.fake_tensor import FakeTensorMode

from hast_cuda.loops.execution import Execution

SCHEMA = 1
WASTEFUL, EAGER = "eager, as published", "eager"
UNMERGED, MERGED = "hast_cuda, unmerged", "hast_cuda"
CONVOLUTIONS = "convolutions only"
# Launches and GB of the model; it has no stage like the unmerged synthesis.
MODEL: dict[tuple[str, str], dict[str, tuple[int, float]]] = {
    ("synthesis", CIFAR.case): {
        WASTEFUL: (1397, 10.21),
        EAGER: (585, 6.15),
        MERGED: (113, 2.07),
        CONVOLUTIONS: (42, 0.85),
    },
    ("synthesis", IMAGENET.case): {
        WASTEFUL: (600, 5.70),
        EAGER: (558, 5.03),
        MERGED: (109, 1.65),
        CONVOLUTIONS: (40, 0.69),
    },
    ("fine-tuning", CIFAR.case): {
        WASTEFUL: (3381, 28.45),
        EAGER: (3071, 24.88),
        UNMERGED: (944, 16.29),
        MERGED: (436, 9.05),
        CONVOLUTIONS: (208, 4.20),
    },
    ("fine-tuning", IMAGENET.case): {
        WASTEFUL: (3110, 23.32),
        EAGER: (2826, 20.60),
        UNMERGED: (889, 13.65),
        MERGED: (418, 7.74),
        CONVOLUTIONS: (198, 3.31),
    },
}


@dataclass(frozen=True)
class Count:
    """What one iteration launches and moves; None where the model says nothing."""

    loop: str
    case: str
    variant: str
    launches: int
    bytes: int
    pooling_bytes: int  # of them, for max-pooling
    model_launches: int | None
    model_gb: float | None


def count(iteration: Call) -> LaunchCounter:
    """The second call's, on fake tensors: the first makes the state of the optimizer."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        iteration()
        counter = LaunchCounter()
        with counter:
            iteration()
    return counter


def counts(setting: Setting) -> Iterator[Count]:
    """Both loops, all variants, those with the most launches first."""
    made = Iterations(setting, torch.device("cpu"))
    unmerged, merged = (Execution(merge=merge, cuda_graphs="off") for merge in (False, True))
    loops: dict[str, dict[str, Callable[[], Call]]] = {
        "synthesis": {
            WASTEFUL: partial(made.eager_synthesis, wasteful=True),
            EAGER: made.eager_synthesis,
            UNMERGED: partial(made.synthesis, unmerged),
            MERGED: partial(made.synthesis, merged),
        },
        "fine-tuning": {
            WASTEFUL: partial(made.eager_finetune, wasteful=True),
            EAGER: made.eager_finetune,
            UNMERGED: partial(made.finetune, unmerged),
            ALIGNED: partial(made.finetune, merged, DIRECT),
            MERGED: partial(made.finetune, merged),
        },
    }
    for loop, variants in loops.items():
        counter = LaunchCounter()
        for variant, make in variants.items():
            counter = count(make())
            pooling = sum(v for k, v in counter.bytes_by_operator.items() if "max_pool" in k)
            yield _row(loop, setting, variant, counter.launches, counter.bytes, pooling)
        names = [name for name in counter.by_operator if name.startswith("aten::convolution")]
        launches = sum(counter.by_operator[name] for name in names)
        moved = sum(counter.bytes_by_operator[name] for name in names)
        yield _row(loop, setting, CONVOLUTIONS, launches, moved)


def _row(loop: str, setting: Setting, variant: str, launches: int, moved: int, pooling: int = 0) -> Count:
    expected = MODEL.get((loop, setting.case), {}).get(variant, (None, None))
    return Count(loop, setting.case, variant, launches, moved, pooling, *expected)


def main() -> None:
    """Count, print and write ``<out>/launches.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    out: Path = parser.parse_args().out
    rows = [row for setting in (CIFAR, IMAGENET) for row in counts(setting)]
    for row in rows:
        model = f"model {row.model_launches}, {row.model_gb} GB" if row.model_launches else ""
        print(f"{row.loop}, {row.case}, {row.variant}: {row.launches} launches, {row.bytes / 1e9:.2f} GB; {model}")
    out.mkdir(parents=True, exist_ok=True)
    path, given = out / "launches.json", provenance(torch.device("cpu"))
    document = {"schema": SCHEMA, "stem": "launches", **given, "rows": [asdict(r) for r in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
