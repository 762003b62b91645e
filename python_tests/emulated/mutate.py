"""Plants one mistake after the other in a copy of csrc/ and runs the op tests on it.

``python python_tests/emulated/mutate.py [WORD]`` prints what caught each (all, or those whose line
has WORD); exit status 1 if one survives. The tests run on the emulated CUDA kernels and on their
CPU twins, both built from the copy; under the sanitizer where a mistake says so. The package must
be importable with its core (an editable install).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from emulated import sanitizer
from emulated.build import CSRC, compile_module, sources
from emulated.mistakes import MISTAKES, Mistake

ROOT = Path(__file__).parents[2]
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
    "emulated",
]
TESTED_WITH = {
    "attention_loss": "channel_attention",
    "batch_norm_gate": "batch_norm_activation",
    "cuda_channel_sums": "batch_norm_match",
    "cuda_extremes": "fake_quantize_weights",
    "cuda_rows": "distillation_loss",
    "lane_sums": "batch_norm_match",
    "match_loss": "batch_norm_match",
    "slabs": "batch_norm_match",
    "update_range": "quantize_activation",
}


def build_with(mistake: Mistake, folder: Path, plain: Path) -> Path:
    """The module of ``csrc`` in ``folder``; objects that the mistake cannot touch come from it."""
    objects = folder / "objects"
    shutil.rmtree(objects, ignore_errors=True)
    shutil.rmtree(folder / "reuse", ignore_errors=True)
    objects.mkdir()
    shutil.copytree(plain, folder / "reuse")
    header = Path(mistake.file).suffix == ".h"
    for source, backend in sources(folder / "csrc"):
        if header or source.name == mistake.file:
            (folder / "reuse" / f"{source.name}.{backend}.o").unlink()
    flags = sanitizer.FLAGS if mistake.sanitized else []
    return compile_module(objects, flags, folder / "csrc", folder / "reuse")


def test_files(mistake: Mistake) -> list[Path]:
    """Tests of the op first; those of the emulator plant mistakes that the sanitizer would find."""
    stem = Path(mistake.file).stem
    own = [name for name in TESTS if TESTED_WITH.get(stem, stem).startswith(name)]
    wanted = TESTS[:-1] if mistake.sanitized else TESTS
    rest = [name for name in wanted if name not in own]
    return [ROOT / "python_tests" / f"test_{name}.py" for name in (*own, *rest)]


def first_failure(module: Path, mistake: Mistake) -> str | None:
    """The test, or what the sanitizer calls it, that ends a run of the op tests."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-q",
            "-s",
            "-x",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-c",
            ROOT / "pyproject.toml",
            "--rootdir",
            ROOT,
            "-k",
            sanitizer.SELECTED if mistake.sanitized else "emulated or baseline",
            *test_files(mistake),
        ],
        cwd=module.parent,
        capture_output=True,
        text=True,
        check=False,
        env={**(sanitizer.environment() if mistake.sanitized else os.environ), "HAST_EMULATED_MODULE": str(module)},
    )
    if done.returncode == 0:
        return None
    if -done.returncode in (signal.SIGTERM, signal.SIGKILL):
        message = f"the tests were killed from outside (signal {-done.returncode})"
        raise RuntimeError(message)  # not by the mistake
    if found := sanitizer.finding(done.stderr):
        return f"sanitizer: {found}"
    failed = re.search(r"(?:FAILED|ERROR) \S+?::(\w+)", done.stdout)
    return failed[1] if failed else f"exit status {done.returncode}"


def main() -> int:
    """Try every mistake; whether any survived decides the exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder, plain = Path(name), Path(name) / "plain"
        plain.mkdir()
        shutil.copytree(CSRC, folder / "csrc")
        module = compile_module(plain, csrc=folder / "csrc")
        if failed := first_failure(module, Mistake("fake_quantize.cu", "", "", "no mistake")):
            print(f"{failed} fails without any mistake")
            return 1
        for mistake in MISTAKES:
            if word not in f"{mistake.file}: {mistake.description}":
                continue
            path = folder / "csrc" / mistake.file
            source = path.read_text(encoding="utf-8")
            caught = "OUTDATED"
            if mistake.old in source:
                changed = source.replace(mistake.old, mistake.new, 1)
                path.write_text(changed, encoding="utf-8")
                module = build_with(mistake, folder, plain)
                caught = first_failure(module, mistake) or "SURVIVED"
                path.write_text(source, encoding="utf-8")
            survivors += caught in ("OUTDATED", "SURVIVED")
            print(f"{caught:60s} {mistake.file}: {mistake.description}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
