"""Synthesis and fine-tuning over several processes, beside what one process predicts.

Every count of processes is started with torchrun, one thread each on a CPU. A step's time is that
of a long call minus that of a short one, so that starting up does not count. Beside the wall clock
stands rank 0's processor time, which other work on the machine disturbs less. The network has
random weights: that changes nothing in the times.

The prediction knows only one process: a step takes as long as one process needs for a rank's part
of the batch, and then the sum of the gradients; images take as many turns as a rank has batches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from provenance import ROOT, device_label, keep_freed_memory, provenance
from torch import nn

import hast_cuda as hc
from hast_cuda.finetune import finetune
from hast_cuda.methods import hast
from hast_cuda.methods.recipe import change
from hast_cuda.ranks import World, join
from hast_cuda.run import infer_shape
from hast_cuda.synthesis import synthesize

SCHEMA = 1
ITERATIONS = 1000  # of an image, where a rate is in images
SHORT = 2  # iterations of the call that is subtracted


@dataclass(frozen=True)
class Seconds:
    """What a launch measured: by the wall clock, then of rank 0's processor."""

    synthesis_iteration: tuple[float, float]
    """One iteration of all batches."""
    finetune_step: tuple[float, float]
    sum: tuple[float, float]
    """Of all gradients over the ranks."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--network", default="resnet20_cifar10", help="of pytorchcv")
    parser.add_argument("--size", type=int, default=32, help="height and width of its input")
    parser.add_argument("--batch", type=int, default=64, help="images per step, of all ranks")
    parser.add_argument("--batches", type=int, default=2, help="of images to make")
    parser.add_argument("--iterations", type=int, default=5, help="timed, of either loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


def per_iteration(call: Callable[[int], None], flags: argparse.Namespace, world: World) -> tuple[float, float]:
    """Median seconds of one iteration of ``call(iterations)``, wall clock and processor."""

    def seconds(iterations: int) -> tuple[float, float]:
        world.wait()
        start = time.perf_counter(), time.process_time()
        call(iterations)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        world.wait()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    found = []
    for _ in range(flags.rounds):
        short, long = seconds(SHORT), seconds(SHORT + flags.iterations)
        found.append([(b - a) / flags.iterations for a, b in zip(short, long, strict=True)])
    wall, processor = (statistics.median(values) for values in zip(*found, strict=True))
    return wall, processor


def measure(flags: argparse.Namespace, world: World) -> Seconds:
    """The times of this world."""
    from pytorchcv.model_provider import get_model  # noqa: PLC0415 - slow, for workers alone

    torch.manual_seed(0)
    teacher = get_model(flags.network, pretrained=False).eval()
    shape = infer_shape(teacher, (3, flags.size, flags.size))
    recipe = hast.recipe("default", "cifar10")
    images = torch.randn(flags.batch, 3, flags.size, flags.size)
    student = hc.quantize(teacher, 4, 4, ste=recipe.finetune.ste).to(world.device)
    hc.calibrate(student, [images[:8].to(world.device)])

    def make(iterations: int) -> None:
        config = change(
            recipe,
            {
                "synthesis.num_images": flags.batch * flags.batches,
                "synthesis.batch_size": flags.batch,
                "synthesis.iterations": iterations,
            },
        ).synthesis
        synthesize(teacher, shape, config, device=world.device, world=world)

    def train(iterations: int) -> None:
        config = change(
            recipe, {"finetune.iterations": iterations, "finetune.batch_size": flags.batch, "finetune.evaluations": 1}
        ).finetune
        finetune(teacher, student, images, config, device=world.device, world=world)

    gradients = torch.ones(parameters(student), device=world.device)

    def add(times: int) -> None:
        for _ in range(times):
            world.sum_(gradients)

    return Seconds(*(per_iteration(call, flags, world) for call in (make, train, add)))


def parameters(network: nn.Module) -> int:
    """Numbers that are summed in a step, but for the losses."""
    return sum(p.numel() for p in network.parameters())


def launch(flags: argparse.Namespace, ranks: int, batch: int) -> Seconds:
    """Measure with ``ranks`` processes on batches of ``batch``."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "seconds.json"
        given = {**vars(flags), "batch": batch, "worker": found}
        options = [
            part
            for name in ("device", "network", "size", "batch", "batches", "iterations", "rounds", "worker")
            for part in (f"--{name}", str(given[name]))
        ]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        threads = {"OMP_NUM_THREADS": "1"} if flags.device == "cpu" else {}
        subprocess.run(
            [sys.executable, *torchrun, str(Path(__file__).resolve()), *options],
            check=True,
            env={**os.environ, **threads},
            cwd=ROOT,
        )
        return Seconds(**json.loads(found.read_text(encoding="utf-8")))


def row(flags: argparse.Namespace, ranks: int, whole: Seconds) -> dict[str, object]:
    """One count of processes: measured, and predicted from one process."""
    if flags.device != "cpu" and ranks > torch.cuda.device_count():
        return {"ranks": ranks, "absent": f"{torch.cuda.device_count()} GPUs"}
    largest = -(-flags.batch // ranks)  # part of a batch
    turns = -(-flags.batches // ranks)
    found = whole if ranks == 1 else launch(flags, ranks, flags.batch)
    part = whole if ranks == 1 else launch(flags, 1, largest)
    images = flags.batch * flags.batches
    made = found.synthesis_iteration[0] * ITERATIONS
    predicted = whole.synthesis_iteration[0] * turns / flags.batches * ITERATIONS
    return {
        "ranks": ranks,
        "seconds": asdict(found),
        "images_per_second": images / made,
        "steps_per_second": 1 / found.finetune_step[0],
        "predicted_images_per_second": images / predicted,
        "predicted_steps_per_second": 1 / (part.finetune_step[0] + found.sum[0]),
    }


def main() -> None:
    """Measure every count of processes and write ``<out>/ranks-<device>.json``."""
    flags = _parser().parse_args()
    if flags.worker is not None:
        world = join(flags.device)
        found = measure(flags, world)
        if world.first:
            flags.worker.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return
    device = torch.device(flags.device)
    if device.type == "cpu":
        keep_freed_memory()
    from pytorchcv.model_provider import get_model  # noqa: PLC0415

    whole = launch(flags, 1, flags.batch)
    rows = [row(flags, ranks, whole) for ranks in flags.ranks]
    for line in rows:
        print(json.dumps(line))
    budget = {k: v for k, v in vars(flags).items() if k not in ("device", "out", "worker")}
    document = {
        "schema": SCHEMA,
        "stem": "ranks",
        **provenance(device),
        "budget": budget,
        "threads": 1 if device.type == "cpu" else torch.get_num_threads(),
        "iterations": ITERATIONS,
        "load": os.getloadavg()[0],
        "bytes_summed": 4 * parameters(get_model(flags.network, pretrained=False)),
        "rows": rows,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"ranks-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
