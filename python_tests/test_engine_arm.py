"""The engine's kernels for ARM, compiled by a cross compiler and run by an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulated.build import CSRC
from engine.build import EXECUTOR, HERE, READER
from engine.networks import EXTREMES, extreme_network, random_network, skipping_network
from gates import cannot_run

from hast_cuda.deploy import load

pytestmark = pytest.mark.gate

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
FLAGS = ["-std=c++17", "-O0", "-static", "-w", f"-I{CSRC}"]
SETS = {"portable": [], "neon_dot": ["-march=armv8.2-a+dotprod"]}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run_file for ARM, statically linked: no library of that processor is needed to run it."""
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if missing:
        cannot_run(f"{' and '.join(missing)} are missing (Debian: g++-aarch64-linux-gnu qemu-user)")
    folder = tmp_path_factory.mktemp("arm")
    engine = CSRC / "engine"
    for isa, more in SETS.items():
        unit = [*FLAGS, *more, f"-DHAST_ENGINE_ISA={isa}", "-c", engine / "kernels.cpp", "-o", folder / f"{isa}.o"]
        subprocess.run([COMPILER, *unit], check=True)
    sources = [HERE / "run_file.cpp", *(engine / f"{name}.cpp" for name in (*READER, *EXECUTOR))]
    objects = [folder / f"{isa}.o" for isa in SETS]
    made = folder / "run_file"
    subprocess.run([COMPILER, *FLAGS, "-DHAST_ENGINE_NEON_DOT", *sources, *objects, "-o", made], check=True)
    return made


def assert_same_logits(program: Path, path: Path, image: np.ndarray) -> None:  # type: ignore[type-arg]
    command = [EMULATOR, "-cpu", "max", str(program), str(path), "neon_dot", "1", "1"]
    done = subprocess.run(command, input=image.tobytes(), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), load(path).run(image)[0], err_msg=path.name)


def test_random_networks_give_the_bits_of_other_processors(program: Path, tmp_path: Path) -> None:
    for seed in range(24):
        path = (random_network if seed % 3 else skipping_network)(seed, tmp_path / f"{seed}.hast")
        shape = load(path).input_shape
        image = np.random.default_rng(seed).integers(-16, 17, (1, *shape)) / 8
        assert_same_logits(program, path, image.astype(np.float32))


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_the_largest_sums_do_not_overflow(extreme: tuple[int, int, int], program: Path, tmp_path: Path) -> None:
    for sign in (1, -1):
        path = extreme_network(*extreme, sign, tmp_path / f"{sign}.hast")
        assert_same_logits(program, path, np.full((1, *load(path).input_shape), 1000, np.float32))
