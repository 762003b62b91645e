"""Fences and counters under load, on a GPU: thousands of graph replays on two streams, then threads.

Every graph compares its outputs with those of a plain call, on the device, and counts the bits that
differ. Grids of many sizes, from one block to thousands, overlap in ever other ways. In the end
the counters must be zero. The results grow in OUT/stress.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from gpu_cases import CUDA, OP_CASES, Inputs, OpCase, copies, counters_left
from torch import Tensor

import hast_cuda as hc
from hast_cuda.files.whole import write_json

# Channels-last and planes; blocks per channel from 1 to over a hundred.
MAPS = [(2, 3, 5, 7), (256, 16, 32, 32), (64, 128, 8, 8), (1, 512, 7, 7), (16, 64, 56, 56), (32, 256, 14, 14)]
REDUCTIONS = {"batch_norm_match+match_loss", "batch_norm_activation", "attention", "losses", "soft_round_weights"}
CHUNK = 500  # replays between two looks at the result


def sums_of(shape: tuple[int, ...], channels_last: bool) -> OpCase:
    """BatchNorm's statistics, forward and backward, of one map."""

    def make(device: torch.device) -> Inputs:
        x = torch.randn(shape, device=device)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        channels = shape[1]
        parameters = [torch.randn(channels, device=device), torch.rand(channels, device=device) + 0.5]
        return [x.requires_grad_(), *parameters, torch.ones(channels, device=device).requires_grad_()]

    def run(inputs: Inputs) -> list[Tensor]:
        x, mean, var, weight = inputs
        outputs = hc.batch_norm_match(x, mean, var, weight, activation="relu")
        grads = torch.autograd.grad([o.sum() for o in outputs], [x, weight])
        return [*(o.detach() for o in outputs), *grads]

    return OpCase(f"sums {shape}{' channels_last' if channels_last else ''}", make, run)


def differing(case: OpCase, inputs: Inputs, expected: Inputs, wrong: Tensor) -> None:
    """Count what is not as before."""
    for a, b in zip(case.run(inputs), expected, strict=True):
        wrong.add_((a != b).sum())


def graph_of(case: OpCase, stream: torch.cuda.Stream, wrong: Tensor) -> torch.cuda.CUDAGraph:
    """One call that compares itself with a plain one."""
    inputs = case.make(CUDA)
    with torch.cuda.stream(stream):
        expected = case.run(copies(inputs))
        differing(case, inputs, expected, wrong)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        differing(case, inputs, expected, wrong)
    return graph


def in_threads(cases: list[OpCase], calls: int) -> int:
    """Plain calls of two threads, each on a stream of its own; how many values differed."""

    def work(number: int) -> int:
        wrong = torch.zeros((), dtype=torch.int64, device=CUDA)
        draw = random.Random(number)
        with torch.cuda.stream(torch.cuda.Stream(CUDA)):
            known: dict[str, tuple[Inputs, Inputs]] = {}
            for _ in range(calls):
                case = draw.choice(cases)
                if case.name not in known:
                    inputs = case.make(CUDA)
                    known[case.name] = inputs, case.run(copies(inputs))
                differing(case, *known[case.name], wrong)
            torch.cuda.current_stream(CUDA).synchronize()
            return int(wrong)

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(work, range(2)))


def main() -> int:
    """Replays, then threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--replays", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=500, help="of each thread")
    parser.add_argument("--small", action="store_true", help="small maps alone")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    draw = random.Random(0)
    cases = [case for case in OP_CASES if case.name in REDUCTIONS]
    cases += [sums_of(shape, last) for shape in (MAPS[:1] if flags.small else MAPS) for last in (False, True)]
    streams = [torch.cuda.Stream(CUDA) for _ in range(2)]
    wrong = [torch.zeros((), dtype=torch.int64, device=CUDA) for _ in streams]
    graphs = [[graph_of(case, s, w) for case in cases] for s, w in zip(streams, wrong, strict=True)]
    report = {"seed": 0, "graphs": len(cases), "replays": 0, "differing": 0, "counters_left": 0, "threads": 0}

    def write() -> None:
        report["differing"] = sum(int(w) for w in wrong)
        report["counters_left"] = counters_left()
        write_json(flags.out / "stress.json", report)

    while report["replays"] < flags.replays:
        for _ in range(min(CHUNK, flags.replays - report["replays"])):
            turn = report["replays"] % 2
            with torch.cuda.stream(streams[turn]):
                draw.choice(graphs[turn]).replay()
            report["replays"] += 1
        torch.cuda.synchronize()
        write()
    report["threads"] = in_threads(cases, flags.calls)
    write()
    print(json.dumps(report))
    return int(any(report[name] for name in ("differing", "counters_left", "threads")))


if __name__ == "__main__":
    sys.exit(main())
