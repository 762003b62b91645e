"""A process that forks runs, so that each can be killed without importing everything again.

``python killed_runs.py`` reads lines of JSON, ``{"out": directory, "recipe": name}`` with an
optional ``"kill"``: ``["file", n]`` ends the run by SIGKILL when it touches a file of its directory
for the n-th time, ``["write", n]`` in the middle of its n-th line of metrics. It answers twice:
``{"pid": ...}``, and ``{"status": ..., "files": ...}`` when the run has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer of a process imports it: here once for all runs
from networks import CHANNELS, CLASSES, SIZE, tiny

from hast_cuda.data import InputSpec
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.generator import GeneratorConfig
from hast_cuda.methods import Recipe
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.synthesis import SynthesisConfig

_TOUCHING = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}
_STORED = Recipe(
    SynthesisConfig(num_images=44, batch_size=8, iterations=12, learning_rate=0.1, margins=(0.1, 0.9)),
    FinetuneConfig(
        iterations=60,
        batch_size=8,
        calibration_updates=20,
        calibration_batch_size=8,
        shrink_ranges=True,
        evaluations=12,
        learning_rate=1e-3,
        held_out=0.25,
        keep="best",
    ),
    reconstruction=ReconstructionConfig(iterations=5, batch_size=8),
)
RECIPES = {
    "stored": _STORED,
    "generated": replace(
        _STORED,
        images="generated",
        generator=GeneratorConfig(warmup=24, latent_size=8),
        finetune=replace(
            _STORED.finetune, calibration="generator", iterations=24, evaluations=6, held_out=0.0, keep="last"
        ),
        reconstruction=ReconstructionConfig(),
        posttraining=PostTrainingConfig(rounding="squant"),
    ),
}


class Nursery:
    """Runs in processes of their own, started by one that has imported everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, out: Path, recipe: str, kill: tuple[str, int] | None = None) -> int:
        """Begin a run; its process."""
        assert self.process.stdin is not None
        order = {"out": str(out), "recipe": recipe, "kill": kill}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self._answer()["pid"])

    def wait(self) -> dict[str, Any]:
        """How the run has ended: "status" as of ``os.waitstatus_to_exitcode``, and "files"."""
        return self._answer()

    def run(self, out: Path, recipe: str, kill: tuple[str, int] | None = None) -> dict[str, Any]:
        """The same from start to end."""
        self.start(out, recipe, kill)
        return self.wait()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _count_files(out: str, last: int, report: int) -> None:
    """Tell each file that is touched; end the process before the ``last``-th."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _TOUCHING and str(arguments[0]).startswith(out):
            seen += 1
            if seen == last:
                _die()
            os.write(report, b".")

    sys.addaudithook(hook)


def _count_writes(last: int) -> None:
    """End the process with half of a line written."""
    write, seen = os.write, 0

    def half(number: int, data: bytes) -> int:
        nonlocal seen
        seen += data.startswith(b'{"phase"')
        if seen == last:
            write(number, data[: len(data) // 2])
            _die()
        return write(number, data)

    os.write = half  # type: ignore[assignment]


def _work(out: str, recipe: str, kill: list[Any] | None, report: int) -> None:
    kind, last = kill or ("", 0)
    if kind == "write":
        _count_writes(last)
    _count_files(out, last if kind == "file" else 0, report)
    torch.set_num_threads(1)
    zero_shot_quantize(
        tiny(), InputSpec(CHANNELS, SIZE, SIZE, CLASSES), Bits(3, 3), recipe=RECIPES[recipe], out=out, seed=4
    )


def _serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        reader, report = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _work(order["out"], order["recipe"], order["kill"], report)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        os.close(report)
        print(json.dumps({"pid": pid}), flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with os.fdopen(reader, "rb") as file:
            print(json.dumps({"status": status, "files": len(file.read())}), flush=True)


if __name__ == "__main__":
    _serve()
