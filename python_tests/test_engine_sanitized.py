"""The engine under AddressSanitizer and UndefinedBehaviorSanitizer: no load or store leaves its map."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulated import sanitizer
from emulated.build import compiler
from engine.build import HERE, compile_engine
from engine.networks import random_network, skipping_network
from gates import cannot_run

from hast_cuda.deploy import load
from hast_cuda.deploy.engine import require_engine

pytestmark = pytest.mark.gate

# A worker of OpenMP keeps memory of its own until the end.
CHECKS = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def run_networks(isa: str, seeds: range, folder: Path, objects: Path) -> None:
    """The sanitized program gives the bits of the module on random networks."""
    if compiler() is None or sanitizer.preloaded() is None:
        cannot_run("there is no C++ compiler with AddressSanitizer (libasan)")
    if isa not in require_engine().instruction_sets():
        pytest.skip(f"this machine does not run {isa}")
    program = compile_engine(HERE / "run_file.cpp", isa, objects)
    for seed in seeds:
        path = (random_network if seed % 4 else skipping_network)(seed, folder / "n.hast")
        engine = load(path, isa=isa)
        count, threads = 1 + seed % 3, 1 + seed % 2
        images = np.random.default_rng(seed).standard_normal((count, *engine.input_shape)).astype(np.float32)
        command = [str(program), str(path), isa, str(threads), str(count)]
        done = subprocess.run(
            command, input=images.tobytes(), capture_output=True, check=False, env={**os.environ, **CHECKS}, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b""), f"seed {seed}: {done.stderr.decode(errors='replace')}"
        np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), engine.run(images).ravel())


@pytest.mark.parametrize("isa", ["avx2"])
def test_networks_stay_within_memory(isa: str, tmp_path: Path, objects: Path) -> None:
    run_networks(isa, range(20), tmp_path, objects)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512_vnni"])
def test_many_networks_stay_within_memory(isa: str, tmp_path: Path, objects: Path) -> None:
    run_networks(isa, range(20, 340), tmp_path, objects)
