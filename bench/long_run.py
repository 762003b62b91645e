"""Long runs of both loops in a run directory, and what they cost beside their work.

Memory, open files and thread time are looked at whenever the loops log. What a loop keeps for ever
it has after a few of these looks; growth is counted over the second half.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import importlib.util
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda import methods
from hast_cuda.data import InputSpec
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.generator import GeneratorTrainer
from hast_cuda.methods import Recipe, change
from hast_cuda.run.directory import RunDirectory
from hast_cuda.synthesis import ImageStore, synthesize

CPU = torch.device("cpu")
# Names of loops, and the methods whose configuration they have.
SYNTHESIS = {"synthesis": "hast", "synthesis per image": "dsg_il", "synthesis by class": "intraq"}
FINETUNING = {"fine-tuning": "hast", "fine-tuning on labels": "real_data"}
GENERATORS = {"generator": "gdfq", "superposed generator": "qimera", "inundation": "ait"}
LOOPS = (*SYNTHESIS, *FINETUNING, *GENERATORS)


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def heap_bytes() -> int | None:
    """Bytes that malloc has given out and not got back; None where the C library does not say."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _MallInfo
    info = library.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def resident_bytes() -> int:
    """Memory that this process has to itself, in RAM or swapped out.

    Without pages of files, libraries above all: the system drops them and reads them again as other
    processes need memory.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return sum(1024 * int(sizes[name].split()[0]) for name in ("RssAnon", "VmSwap"))


def open_files() -> int:
    """File handles of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass(frozen=True)
class Look:
    """The process at one moment."""

    iteration: int
    resident: int
    heap: int | None
    files: int
    seconds: float
    """Of this thread on a CPU: waiting for others does not count."""


class Watch:
    """Looks at the process at every line that a loop logs, and passes the line on."""

    def __init__(self, log: Callable[[dict[str, Any]], None], per_batch: int) -> None:
        self.log, self.per_batch = log, per_batch
        self.looks: list[Look] = []

    def __call__(self, record: dict[str, Any]) -> None:
        """Log ``record``, then look."""
        self.log(record)
        if "iteration" not in record:  # a note, of a rate that was too high
            return
        iteration = int(record["iteration"])
        counted = record["phase"] == "test"  # there it is how many were done
        done = int(record.get("batch", 0)) * self.per_batch + iteration + (not counted)
        gc.collect()  # cycles that wait for their turn are no leak
        self.looks.append(Look(done, resident_bytes(), heap_bytes(), open_files(), time.thread_time()))


@dataclass(frozen=True)
class Outcome:
    """One loop. "start" is half of the way, where everything that is kept has been made."""

    loop: str
    method: str
    iterations: int
    resident_start: int
    resident_end: int
    heap_start: int | None
    heap_end: int | None
    files_start: int
    files_end: int
    log_lines: int
    log_bytes: int
    checkpoint_files: int
    event_files: int
    first_quarter_ms: float
    """Thread time of an iteration."""
    last_quarter_ms: float


def outcome(loop: str, method: str, looks: list[Look], run: RunDirectory) -> Outcome:
    """What a finished loop's looks and files say."""
    first, end = looks[0], looks[-1]
    total = end.iteration

    def after(share: float) -> Look:
        return min(looks, key=lambda look: abs(look.iteration - share * total))

    early, start, late = after(0.25), after(0.5), after(0.75)

    def milliseconds(a: Look, b: Look) -> float:
        return 1000 * (b.seconds - a.seconds) / max(b.iteration - a.iteration, 1)

    log = run.metrics.read_bytes()
    return Outcome(
        loop=loop,
        method=method,
        iterations=total,
        resident_start=start.resident,
        resident_end=end.resident,
        heap_start=start.heap,
        heap_end=end.heap,
        files_start=start.files,
        files_end=end.files,
        log_lines=log.count(b"\n"),
        log_bytes=len(log),
        checkpoint_files=len(list(run.checkpoint.parent.glob("*"))),
        event_files=len(list((run.path / "tensorboard").rglob("events.*"))),
        first_quarter_ms=round(milliseconds(first, early), 3),
        last_quarter_ms=round(milliseconds(late, end), 3),
    )


def recipe_of(method: str, iterations: int, batches: int, batch_size: int) -> Recipe:
    """The preset "default" for so many iterations in all; evaluated, and kept, four times."""
    found = methods.recipe(method, "default", "cifar10")
    per_batch = iterations // batches
    return change(
        found,
        {
            "synthesis.num_images": batches * batch_size,
            "synthesis.batch_size": batch_size,
            "synthesis.iterations": per_batch,
            "synthesis.slack_images": 4 * batch_size,
            "finetune.iterations": iterations,
            "finetune.batch_size": batch_size,
            "finetune.evaluations": 4,
            "generator.superpose_classes": 2,
        },
    )


def run_loop(
    loop: str, network: nn.Module, shape: InputSpec, folder: Path, iterations: int, *, batch_size: int = 8
) -> Outcome:
    """One of :data:`LOOPS` on ``network``, alone in the run directory ``folder``."""
    batches = 4
    method = (SYNTHESIS | FINETUNING | GENERATORS)[loop]
    recipe = recipe_of(method, iterations, batches, batch_size)
    events = importlib.util.find_spec("tensorboard") is not None
    with RunDirectory(folder, {"loop": loop}, CPU, tensorboard=events) as run:
        if loop in SYNTHESIS:
            watch = Watch(run.log, recipe.synthesis.iterations)
            synthesize(network, shape, recipe.synthesis, store=ImageStore(run.images), log=watch)
        else:
            watch = Watch(run.log, 0)
            _train(loop, network, shape, recipe, CheckpointFile(run.checkpoint), watch)
        return outcome(loop, method, watch.looks, run)


def _train(loop: str, network: nn.Module, shape: InputSpec, recipe: Recipe, kept: CheckpointFile, watch: Watch) -> None:
    config: FinetuneConfig = recipe.finetune
    size = shape.channels, shape.height, shape.width
    random = torch.Generator().manual_seed(0)
    images = torch.randn(5 * config.batch_size // 2, *size, generator=random)  # a ragged pass
    student = hc.calibrate(hc.quantize(network, 4, 4, ste=config.ste), [images])
    labels: Tensor | None = None
    source: Tensor | GeneratorTrainer = images
    if loop in GENERATORS:
        source = GeneratorTrainer(
            copy.deepcopy(network), size, shape.num_classes, recipe.generator, batch_size=config.batch_size
        )
    elif config.label_weight:
        labels = torch.arange(len(images)) % shape.num_classes
    finetune(network, student, source, config, labels=labels, checkpoint=kept, log=watch, evaluate=lambda _: 0.0)


def plain(found: Outcome) -> dict[str, Any]:
    """For a JSON file."""
    return asdict(found)
