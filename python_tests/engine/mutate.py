"""Plants one mistake after the other in a copy of the engine's sources, and runs networks on it.

``python python_tests/engine/mutate.py [WORD]`` prints a row of a Markdown table for each: file, mistake,
what notices it; exit status 1 if one survives. The sanitized program of test_engine_sanitized.py runs the
networks of test_engine.py, whose logits must be the bits of plain numpy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emulated import sanitizer
from emulated.build import CSRC

from engine.build import HERE, compile_engine
from engine.networks import EXTREMES, extreme_network, random_network, skipping_network
from hast_cuda.deploy import reference
from hast_cuda.deploy.file import read_file

ODD = ["-w"]  # mistakes may look odd


class Mistake(NamedTuple):
    """One change of one file in csrc/engine/, the first time that ``old`` stands there."""

    file: str
    old: str
    new: str
    description: str


MISTAKES = [
    Mistake("pack_dense.cpp", "if (fits(0)) return;", "return;", "16-bit sums never widened"),
    Mistake("pack_dense.cpp", "product_ = pairs_fit() ?", "product_ = true ?", "pairs of 8-bit products in 16 bits"),
    Mistake("pack_dense.cpp", "up : down) += std::abs(w[i])", "up : up) -= -w[i]", "overflow where signs cancel"),
    Mistake("pack_depthwise.cpp", "lane : 12 + lane", "lane : 8 + lane", "depthwise lanes in another order"),
    Mistake("convolution.cpp", "- scale[c] * zero * sum", "", "zero point of the input left out"),
    Mistake("ending.cpp", "(bias[c] - residual_zero)", "(bias[c])", "zero point of the residual left out"),
    Mistake(
        "ending.cpp", "finish_.low = clips ? code(finish_.low) : 0.0f;", "finish_.low = 0.0f;", "lower end of a clip"
    ),
    Mistake("prepared.h", "(bytes + 191) / 64 * 64", "bytes", "no room behind the last map"),
    Mistake(
        "layout.cpp",
        "needed = std::max(needed, value.channels - last + up(last, kBlock));",
        "",
        "last part of a concatenation beyond its pixel",
    ),
    Mistake("layout.cpp", "(step.groups - 1) * own + up(own, kBlock)", "value.channels", "last group beyond its pixel"),
    Mistake("layout.cpp", "? value.grid.zero_point : 0", "? 0 : 0", "borders of another number than zero"),
    Mistake("layout.cpp", "if (begin == 0) fill(offset, first);", "", "rows above a map not filled again"),
    Mistake("executor.cpp", "fill_border(network.steps[i].output);", "", "borders not filled again"),
    Mistake("layout.cpp", "if (reader) return 0;", "", "images written as codes for one of several readers"),
    Mistake("lives.cpp", ".last = moment;", ".last = moment - 1;", "lives too short by one moment"),
    Mistake("lives.cpp", "if (step.residual >= 0) read(step.residual);", "", "lives without what residuals read"),
    Mistake("lives.cpp", ".last < lives[i].first", ".last <= lives[i].first", "an output where an input lies"),
    Mistake("lives.cpp", "gap >= room(i)", "gap >= 0", "a map in a gap that is too small"),
    Mistake("image.h", "if (pixels < 16)", "if (false)", "an image read beyond its end"),
    Mistake("image.h", "c < d.channels;", "c < kTogether;", "channels of an image behind the fourth"),
    Mistake("executor.cpp", "std::min<int64_t>(rank, count % ranks)", "0", "rows that no thread computes"),
    Mistake(
        "dense.h", "left -= steps;", "left -= D::kWidens ? steps + 1 : steps;", "a step left out where sums are widened"
    ),
    Mistake("depthwise.h", "4 * q + i < kK", "4 * q + i <= kK", "a row more than the window has"),
    Mistake("elementwise.h", "if (from + (kernel - 1) * dilation >= size)", "if (false)", "rows below a map in a pool"),
]


def networks(folder: Path) -> Iterator[tuple[str, Path, np.ndarray]]:  # type: ignore[type-arg]
    """Name, file and images of each: the second one meets what the first one left."""
    made = [("random network", random_network, 60), ("skipping network", skipping_network, 12)]
    for kind, make, count in made:
        for seed in range(count):
            path = make(seed, folder / "n.hast")
            images = np.random.default_rng(seed).integers(-16, 17, (2, *read_file(path).input_shape)) / 8
            yield f"{kind} {seed}", path, images.astype(np.float32)
    for extreme in EXTREMES:
        for sign in (1, -1, 0):
            path = extreme_network(*extreme, sign, folder / "n.hast")
            yield f"largest sums {extreme}", path, np.full((1, *read_file(path).input_shape), 1000, np.float32)


def first_failure(program: Path, isa: str, folder: Path) -> str | None:
    """The network, or what the sanitizer calls it, that shows the mistake."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    for name, path, images in networks(folder):
        for threads in ("1", "3"):
            command = [str(program), str(path), isa, threads, str(len(images))]
            done = subprocess.run(command, input=images.tobytes(), capture_output=True, check=False, env=environment)
            if done.returncode:
                text = done.stderr.decode(errors="replace")
                return f"sanitizer: {sanitizer.finding(text) or text.strip()[:80]}"
            if not np.array_equal(
                np.frombuffer(done.stdout, np.float32), reference.run(read_file(path), images).ravel()
            ):
                return f"{name}, {threads} thread{'s' if threads != '1' else ''}"
    return None


def main() -> int:
    """Try every mistake; whether any survived decides the exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder, isa = Path(name), "avx2"
        shutil.copytree(CSRC, folder / "csrc")
        whole = compile_engine(HERE / "run_file.cpp", isa, folder, folder / "csrc", ODD)
        if failed := first_failure(whole, isa, folder):
            print(f"{failed} fails without any mistake")
            return 1
        print("| file | mistake | noticed by |\n|---|---|---|")
        for mistake in MISTAKES:
            if word not in f"{mistake.file}: {mistake.description}":
                continue
            path = folder / "csrc" / "engine" / mistake.file
            source = path.read_text(encoding="utf-8")
            if mistake.old not in source:
                caught = "OUTDATED"
            else:
                path.write_text(source.replace(mistake.old, mistake.new, 1), encoding="utf-8")
                program = compile_engine(HERE / "run_file.cpp", isa, folder, folder / "csrc", ODD)
                caught = first_failure(program, isa, folder) or "SURVIVED"
                path.write_text(source, encoding="utf-8")
            survivors += caught in ("OUTDATED", "SURVIVED")
            print(f"| `{mistake.file}` | {mistake.description} | {caught} |", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
