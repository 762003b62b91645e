"""Plants one mistake after the other in a copy of csrc/ and runs the op tests on it.

``python python_tests/emulated/mutate.py [WORD]`` prints a row of a Markdown table for each (all, or
those whose line has WORD): file, mistake, the first test that fails; exit status 1 if one survives.
The tests run on the emulated CUDA kernels and on their CPU twins, whichever the mistake is in;
under the sanitizer where it says so. The package must be importable with its core (an editable
install).
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from emulated import sanitizer
from emulated.build import CSRC, compile_module
from emulated.mistakes import MISTAKES, Mistake
from emulated.op_tests import run_op_tests

TESTS = [
    "fake_quantize",
    "fake_quantize_weights",
    "quantize_activation",
    "batch_norm_match",
    "batch_norm_activation",
    "batch_norm_backward",
    "channel_attention",
    "distillation_loss",
    "hard_sample_loss",
    "plateau",
    "soft_round_weights",
    "emulated",
]
TESTED_WITH = {
    "attention_loss": "channel_attention",
    "batch_norm_gate": "batch_norm_activation",
    "cuda_channel_sums": "batch_norm_match",
    "cuda_extremes": "fake_quantize_weights",
    "cuda_reduce": "batch_norm_match",
    "cuda_rows": "distillation_loss",
    "lane_sums": "batch_norm_match",
    "match_loss": "batch_norm_match",
    "slabs": "batch_norm_match",
    "update_range": "quantize_activation",
}


def devices(mistake: Mistake) -> str:
    """Where the mistake is, as pytest selects it."""
    name = Path(mistake.file).name
    if name.endswith(".cu") or name.startswith("cuda_"):
        return "emulated"
    return "baseline" if name.endswith(".cpp") else "(emulated or baseline)"


def first_failure(module: Path, mistake: Mistake, tests: list[str]) -> str | None:
    """The test, or what the sanitizer calls it, that ends a run of ``tests``."""
    names = [f"test_{name}" for name in tests]
    selected = devices(mistake)
    if mistake.sanitized:
        selected += f" and {sanitizer.SELECTED}"
    done = run_op_tests(module, selected, names, sanitized=mistake.sanitized)
    if done.returncode in (0, 5):  # all passed, none selected
        return None
    if -done.returncode in (signal.SIGTERM, signal.SIGKILL):
        message = f"the tests were killed from outside (signal {-done.returncode})"
        raise RuntimeError(message)  # not by the mistake
    if found := sanitizer.finding(done.stderr):
        return f"sanitizer: {found}"
    if failed := re.search(r"(?:FAILED|ERROR) \S+?::(\w+)", done.stdout):
        return f"`{failed[1]}`"
    return f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"


def caught_by(mistake: Mistake, folder: Path) -> str | None:
    """What fails with the mistake in ``folder``'s copy of the sources: tests of the op first."""
    path = folder / "csrc" / mistake.file
    source = path.read_text(encoding="utf-8")
    if mistake.old not in source:
        return "OUTDATED"
    path.write_text(source.replace(mistake.old, mistake.new, 1), encoding="utf-8")
    flags = ["-w", *(sanitizer.FLAGS if mistake.sanitized else [])]  # mistakes may look odd
    module = compile_module(folder, flags, folder / "csrc")
    path.write_text(source, encoding="utf-8")
    stem = Path(mistake.file).stem
    own = [name for name in TESTS if TESTED_WITH.get(stem, stem).startswith(name)]
    # Tests of the emulator plant mistakes that the sanitizer would find.
    rest = [name for name in TESTS if name not in own and not (mistake.sanitized and name == "emulated")]
    return (own and first_failure(module, mistake, own)) or first_failure(module, mistake, rest)


def main() -> int:
    """Try every mistake; whether any survived decides the exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(CSRC, Path(name) / "csrc")
        nothing = Mistake("common/portability.h", "", "", "no mistake")
        if failed := caught_by(nothing, Path(name)):
            print(f"{failed} fails without any mistake")
            return 1
        print("| file | mistake | caught by |\n|---|---|---|")
        for mistake in MISTAKES:
            if word not in f"{mistake.file}: {mistake.description}":
                continue
            caught = caught_by(mistake, Path(name)) or "SURVIVED"
            survivors += caught in ("OUTDATED", "SURVIVED")
            print(f"| `{mistake.file}` | {mistake.description} | {caught} |", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
