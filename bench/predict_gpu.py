"""How long the kernels should take on an H200, from their machine code and the shapes alone.

Read with cuobjdump from the installed core; needs no GPU. For each kernel and map: what memory takes
for the bytes, what issuing the instructions takes, what waiting takes where every load is waited for,
and what the last block adds alone. The longest of the first three is the reason. To be held against
the first measurement; ``python bench/predict_gpu.py`` writes bench/results/predicted-h200.json and the
table of docs/predicted-times.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from provenance import ROOT, provenance

sys.path.insert(0, str(ROOT / "python_tests"))

from iteration_tables import line
from sass import Instruction, Kernel, cuobjdump, kernels
from shapes import Shape, label

from hast_cuda.ops._registry import core

ARCHITECTURE = "sm_90"
# An H200: SMs, clock, what a copy reaches of its 4.8 TB/s, instructions per clock that an SM issues of
# the four that it could, a trip to memory and one to L2, and a launch in a graph. Assumed, not measured.
SMS, HERTZ, COPY, PER_CLOCK = 132, 1.8e9, 4.3e12, 2.6
TRIP, NEAR_TRIP, LAUNCH = 0.6e-6, 0.25e-6, 3e-6
TOGETHER = 4  # partial sums that a thread of a last block loads at once
BLOCK = 256
AFTER = 300  # instructions of a thread whose block adds its sums up and counts itself
# Loads of a vector where a kernel is given all that it can be given: more are several turns in one.
OPERANDS = {
    "sum_planes/ForwardBody": 2,
    "sum_rows/ForwardBody": 2,
    "sum_planes/ActivateBody/true": 3,
    "activate_planes/ActivateBody/true": 3,
    "sum_planes/BackwardBody/false": 5,
    "sum_rows/BackwardBody/false": 5,
    "map_planes/Forward": 1,
    "track_range": 1,
}
START, END = "<!-- predicted: start -->\n", "<!-- predicted: end -->\n"


@dataclass(frozen=True)
class Work:
    """How a launch divides a map."""

    blocks: int
    runs: int  # of a thread, such as its images
    vectors: int  # of a thread, per run
    splits: int = 0  # that a thread of a last block adds up


Divide = Callable[[Shape, int], Work]


@dataclass(frozen=True)
class Prediction:
    """Microseconds of one kernel on one map."""

    kernel: str
    case: str
    bytes: int
    instructions: int  # of a thread
    blocks_per_sm: int
    memory: float
    issue: float
    waiting: float
    last_block: float
    time: float
    why: str


@dataclass(frozen=True)
class Job:
    """One kernel on one map."""

    family: str
    shape: Shape
    dtype: torch.dtype
    divide: Divide
    size: int  # elements of a vector
    passes: int  # over the map: tensors read and written
    layout: str = ""

    @property
    def case(self) -> str:
        """As bench_kernels.py writes it."""
        return f"{label(self.shape)} {str(self.dtype).removeprefix('torch.')}{self.layout}"


def covering(value: int, most: int = BLOCK) -> int:
    """The power of two from ``value`` on, at most ``most``."""
    return min(most, 1 << max(0, value - 1).bit_length())


def planes(shape: Shape, size: int) -> Work:
    """As launch_sum_planes() of csrc/common/cuda_channel_sums.h divides a map."""
    images, channels, inner = shape[0], shape[1], math.prod(shape[2:])
    vectors = inner // size
    x = covering(vectors)
    y = BLOCK // x
    splits = max(1, min(-(-images * inner // 4096), -(-2048 // channels)))
    image_splits = min(-(-images // y), splits)
    plane_splits = max(1, min(-(-vectors // x), splits // image_splits))
    shared = image_splits * plane_splits
    return Work(
        channels * shared, -(-images // (image_splits * y)), -(-vectors // (plane_splits * x)), -(-shared // BLOCK)
    )


def unsummed(shape: Shape, size: int) -> Work:
    """The same where nothing is summed: no energy is wanted."""
    return replace(planes(shape, size), splits=0)


def rows(shape: Shape, size: int) -> Work:
    """As launch_sum_rows() there divides a channels-last map."""
    channels, count = shape[1], shape[0] * math.prod(shape[2:])
    tile = covering(-(-channels // size), 32 // size) * size
    tiles, y = -(-channels // tile), BLOCK // (tile // size)
    splits = max(1, min(-(-count // (4096 // min(channels, 32))), -(-512 // tiles)))
    splits = min(splits, -(-count // y))
    return Work(tiles * splits, 1, -(-count // (splits * y)), -(-splits // min(BLOCK // tile, BLOCK // 32)))


def energies(shape: Shape, size: int) -> Work:
    """As launch_planes() of csrc/batch_norm_activation.cu divides a map."""
    count, inner = shape[0] * shape[1], math.prod(shape[2:])
    x = covering(-(-inner // (8 if size == 1 else 4 * size)))
    return Work(-(-count // (BLOCK // x)), 1, -(-(inner // size) // x))


def flat(shape: Shape, size: int) -> Work:
    """As launch_planes() of csrc/fake_quantize.cu divides a tensor with one range."""
    vectors = math.prod(shape) // size
    blocks = min(4096, -(-vectors // (BLOCK * 4)))
    return Work(blocks, 1, -(-vectors // (blocks * BLOCK)))


def tracked(shape: Shape, size: int) -> Work:
    """As update_range_scratch() of csrc/update_range.cu divides a tensor."""
    blocks = min(1024, -(-math.prod(shape) // 4096))
    return Work(blocks, 1, -(-math.prod(shape) // (size * blocks * BLOCK)), -(-blocks // BLOCK))


RESNET20: list[Shape] = [(256, 16, 32, 32), (256, 32, 16, 16), (256, 64, 8, 8)]
RESNET18: list[Shape] = [(256, 64, 112, 112), *((256, 64 << k, 56 >> k, 56 >> k) for k in range(4))]
LAST = " channels_last"


def jobs() -> Iterable[Job]:
    """Every kernel of the loops on the maps of two networks; then layouts and types that have paths of their own."""
    kinds: list[tuple[str, Divide, int]] = [
        ("sum_planes/ForwardBody", planes, 2),
        ("sum_planes/BackwardBody/false", planes, 3),
        ("sum_planes/ActivateBody/true", unsummed, 2),
        ("activate_planes/ActivateBody/true", energies, 2),
        ("map_planes/Forward", flat, 2),
        ("track_range", tracked, 1),
    ]
    for family, divide, passes in kinds:
        whole = divide in (flat, tracked)  # vectors run over the ends of planes
        for shape in (*RESNET20, *RESNET18):
            size = 4 if whole or math.prod(shape[2:]) % 4 == 0 else 1
            yield Job(family, shape, torch.float32, divide, size, passes)
    for family, divide in (("sum_planes/ForwardBody", planes), ("sum_planes/ActivateBody/true", unsummed)):
        yield Job(family, (256, 256, 14, 14), torch.bfloat16, divide, 4, 2)
    for shape in RESNET18[1:]:
        yield Job("sum_rows/ForwardBody", shape, torch.float32, rows, 4, 2, LAST)
        yield Job("sum_rows/BackwardBody/false", shape, torch.float32, rows, 4, 3, LAST)


def fewest(loop: Sequence[Instruction], bits: int, loads: int, stores: int) -> int:
    """Instructions of one turn that loads and stores so many vectors: nothing optional is on that way.

    Raises:
        ValueError: there is no such way.
    """
    end = loop[-1].address
    found: dict[int, dict[tuple[int, int], int]] = {loop[0].address: {(0, 0): 0}}
    for one, following in pairwise(loop):
        load, store = (one.accesses(opcode) and one.width == bits for opcode in ("LDG", "STG"))
        places = [one.target] if one.address < one.target <= end else []
        if one.sometimes or not one.opcode.startswith(("BRA", "EXIT")):
            places.append(following.address)
        for (loaded, stored), cost in found.get(one.address, {}).items():
            now = min(loaded + load, loads), min(stored + store, stores)
            for place in places:
                best = found.setdefault(place, {})
                best[now] = min(best.get(now, sys.maxsize), cost + 1)
    if (loads, stores) not in found.get(end, {}):
        raise ValueError(f"no turn of the loop loads {loads} and stores {stores} vectors")
    return found[end][loads, stores] + 1


def predict(job: Job, kernel: Kernel) -> Prediction:
    """What the machine code and the shape say about one launch."""
    work, operands = job.divide(job.shape, job.size), OPERANDS[kernel.family]
    loop = max(kernel.vector_loops, key=lambda one: sum(i.accesses("LDG") for i in one))
    before_a_store = next((n for n, i in enumerate(loop) if i.accesses("STG")), len(loop))
    unrolled = max(1, sum(i.accesses("LDG") for i in loop) // operands)
    in_flight = max(1, sum(i.accesses("LDG") for i in loop[:before_a_store]) // operands)
    written = any(i.accesses("STG") for i in loop)
    # the ways of a thread that has fewer vectors than a turn takes are shorter still
    turn = fewest(loop, kernel.vector_bits, (job.passes - written) * unrolled, written * unrolled) / unrolled
    setup = next(n for n, i in enumerate(kernel.instructions) if i.address == loop[0].address)
    instructions = round(setup + work.runs * work.vectors * turn + (AFTER if work.splits else 0))
    moved = math.prod(job.shape) * job.dtype.itemsize * job.passes
    limits = {
        "memory": moved / COPY,
        "instructions": work.blocks * BLOCK / 32 * instructions / (SMS * HERTZ * PER_CLOCK),
        "waiting": -(-work.blocks // (SMS * kernel.blocks)) * (1 + work.runs * -(-work.vectors // in_flight)) * TRIP,
    }
    why = max(limits, key=lambda name: limits[name])
    last = TRIP + (1 + -(-work.splits // TOGETHER)) * NEAR_TRIP if work.splits else 0.0
    memory, issue, waiting = (round(1e6 * seconds, 1) for seconds in limits.values())
    return Prediction(
        kernel.name,
        job.case,
        moved,
        instructions,
        kernel.blocks,
        memory,
        issue,
        waiting,
        last_block=round(1e6 * last, 1),
        time=round(1e6 * (LAUNCH + limits[why] + last), 1),
        why=why,
    )


def instantiation(found: Sequence[Kernel], job: Job) -> Kernel:
    """The kernel that runs a job."""
    element = {torch.float32: "float", torch.bfloat16: "BFloat16"}[job.dtype]
    bits = 8 * job.dtype.itemsize * job.size
    return next(k for k in found if (k.family, k.element, k.vector_bits) == (job.family, element, bits))


MEASURED = {
    "sum_planes/ForwardBody": "match",
    "sum_rows/ForwardBody": "match",
    "sum_planes/ActivateBody/true": "activation",
}


def measured(folder: Path) -> dict[tuple[str, str], float]:
    """Microseconds by op and case, as far as bench_kernels.py has run on an H200."""
    return {
        (row["op"], row["case"]): 1e3 * row["results"]["hast_cuda"]["p50_ms"]
        for path in folder.glob("kernels-*h200*.json")
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
    }


def table(predictions: Sequence[Prediction], families: Sequence[str], times: dict[tuple[str, str], float]) -> str:
    """All predictions, beside what was measured."""
    head = ["kernel", "map", "MB", "instructions", "blocks per SM", "memory", "issue", "waiting", "last block"]
    head += ["predicted", "why", "measured"]
    lines = [line(head), line(["---"] * len(head))]
    for one, family in zip(predictions, families, strict=True):
        time = times.get((MEASURED.get(family, ""), one.case))
        cells = [f"`{one.kernel}`", one.case, f"{one.bytes / 1e6:.1f}", str(one.instructions), str(one.blocks_per_sm)]
        cells += [f"{value:.1f}" for value in (one.memory, one.issue, one.waiting, one.last_block)]
        lines.append(line([*cells, f"**{one.time:.1f}**", one.why, "" if time is None else f"{time:.1f}"]))
    return "\n".join(lines)


def main() -> None:
    """Predict every job, write the figures and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=Path, default=Path(core.__file__), help="compiled for sm_90")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "predicted-times.md")
    flags = parser.parse_args()
    tool = cuobjdump()
    if tool is None:
        sys.exit("there is no cuobjdump, neither in PATH nor in triton")
    found, all_jobs = kernels(tool, flags.core, ARCHITECTURE), list(jobs())
    predictions = [predict(job, instantiation(found, job)) for job in all_jobs]
    constants = {"sms": SMS, "hertz": HERTZ, "copy": COPY, "per_clock": PER_CLOCK, "trip": TRIP, "launch": LAUNCH}
    origin = provenance(torch.device("cpu"))  # of the figures: no device has run anything
    document = {"schema": 1, "stem": "predicted", "device": "NVIDIA H200, predicted", "architecture": ARCHITECTURE}
    document |= {name: origin[name] for name in ("commit", "date")} | {"assumed": constants}
    document |= {"predictions": [asdict(one) for one in predictions]}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / "predicted-h200.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    before, _, rest = flags.page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    text = table(predictions, [job.family for job in all_jobs], measured(flags.out))
    flags.page.write_text(f"{before}{START}\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
