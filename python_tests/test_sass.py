"""The machine code of every kernel: no spills, vector accesses, few registers, small.

Reads the compiled core that is installed, so it judges what ships.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from gates import cannot_run
from sass import Kernel, architectures, cuobjdump, kernels

import hast_cuda
from hast_cuda.ops._registry import core


class Family(NamedTuple):
    """What the instantiations of one template may need and must do."""

    registers: int  # at most, per thread
    loads: int = 0  # of a whole vector, at least, where the instantiation works on vectors
    stores: int = 0
    halves: bool = True  # where it works on vectors, on those of half types too


# A little above what nvcc 13.0 needs. An SM has registers for four blocks of 256 threads with 64
# each, for three with 80. A new kernel needs a line here.
FAMILIES = {
    "map_planes/Forward": Family(registers=56, loads=2, stores=2),  # two vectors in flight
    "map_planes/Backward": Family(registers=80, loads=4, stores=2),
    "map_rows/Forward": Family(registers=80, loads=1, stores=1),
    "map_rows/Backward": Family(registers=64, loads=2, stores=1),
    "track_range": Family(registers=40, loads=4),
    "quantize_weights": Family(registers=64, loads=5, stores=1),  # the range: four in flight
    "soft_round": Family(registers=64, loads=2, stores=1, halves=False),
    "soft_round_backward": Family(registers=72, loads=3, stores=1, halves=False),
    "sum_planes/ForwardBody": Family(registers=64, loads=2, stores=1),
    "sum_planes/ActivateBody/false": Family(registers=64, loads=3, stores=2),
    "sum_planes/ActivateBody/true": Family(registers=80, loads=3, stores=2),
    "sum_planes/BackwardBody/false": Family(registers=72, loads=5, stores=2),
    "sum_planes/BackwardBody/true": Family(registers=80, loads=7, stores=3),
    "sum_rows/ForwardBody": Family(registers=64, loads=2, stores=1),
    "sum_rows/ActivateBody/false": Family(registers=64, loads=3, stores=2),
    "sum_rows/ActivateBody/true": Family(registers=88, loads=3, stores=2),
    "sum_rows/BackwardBody/false": Family(registers=80, loads=5, stores=2),
    "sum_rows/BackwardBody/true": Family(registers=104, loads=7, stores=3),  # 4 channels' state
    "activate_planes/ActivateBody/false": Family(registers=56, loads=6, stores=4),
    "activate_planes/ActivateBody/true": Family(registers=72, loads=6, stores=4),
    "energies": Family(registers=48, loads=12),  # three shapes of map, four in flight
    "gradients": Family(registers=56, loads=9, stores=9),
    "match_layers": Family(registers=64),
    "distill_rows/RowThreads": Family(registers=104),
    "hard_rows/RowThreads": Family(registers=88),
    "plateau": Family(registers=24),
    "attention_losses": Family(registers=72),
}
ARCHITECTURES = ["sm_80", "sm_90"]
AT_ONCE = 4  # splits, of two sums each
INSTRUCTIONS = 230_000  # of all kernels of one architecture; 218,112 with nvcc 13.0 for sm_90
MODULE_BYTES = 13_000_000  # all architectures of the toolkit, CPU kernels and bindings; 12,937,632 with nvcc 13.0


@pytest.fixture(scope="session")
def module() -> Path:
    """The installed core."""
    if hast_cuda.build_info()["kind"] != "compiled" or hast_cuda.build_info()["cuda"] == "not built":
        cannot_run("the installed core has no CUDA kernels")
    return Path(core.__file__)


@pytest.fixture(scope="session", params=ARCHITECTURES)
def compiled(request: pytest.FixtureRequest, module: Path) -> list[Kernel]:
    """Every kernel of the installed core for one architecture."""
    tool = cuobjdump()
    if tool is None:
        cannot_run("there is no cuobjdump, neither in PATH nor in triton")
    if request.param not in architectures(tool, module):
        cannot_run(f"the installed core has no machine code for {request.param}")
    return kernels(tool, module, request.param)


def test_every_kernel_is_in_the_table(compiled: list[Kernel]) -> None:
    assert {kernel.family for kernel in compiled} == set(FAMILIES)


def test_nothing_is_spilled(compiled: list[Kernel]) -> None:
    bad = {kernel.name: (kernel.stack, kernel.local, kernel.count("LDL"), kernel.count("STL")) for kernel in compiled}
    assert {name: counts for name, counts in bad.items() if any(counts)} == {}


def test_global_memory_is_accessed_as_such(compiled: list[Kernel]) -> None:
    generic = {kernel.name: kernel.count("LD") + kernel.count("ST") for kernel in compiled}
    assert {name: count for name, count in generic.items() if count} == {}


def test_vectors_are_loaded_and_stored_whole(compiled: list[Kernel]) -> None:
    scalar = {}
    for kernel in compiled:
        if not kernel.is_vectorised:
            continue
        limits = FAMILIES[kernel.family]
        found = kernel.vectors("LDG"), kernel.vectors("STG")
        if found[0] < limits.loads or found[1] < limits.stores:
            scalar[kernel.name] = f"{found} of {kernel.vector_bits} bits, not {limits.loads, limits.stores}"
    assert scalar == {}


def test_last_blocks_load_several_partial_sums_at_once(compiled: list[Kernel]) -> None:
    # One at a time, hundreds of splits are as many trips to L2 in a row: longer than the kernel itself.
    few = {kernel.name: kernel.partials for kernel in compiled if kernel.family.startswith("sum_")}
    assert few
    assert {name: count for name, count in few.items() if count < 2 * AT_ONCE} == {}


def test_registers_stay_under_the_ceiling(compiled: list[Kernel]) -> None:
    above = {
        kernel.name: kernel.registers for kernel in compiled if kernel.registers > FAMILIES[kernel.family].registers
    }
    assert above == {}


def test_there_is_an_instantiation_for_every_dtype_and_a_vectorised_one(compiled: list[Kernel]) -> None:
    for family, limits in FAMILIES.items():
        own = [kernel for kernel in compiled if kernel.family == family]
        elements = {kernel.element for kernel in own if kernel.is_vectorised}
        halves = {"Half", "BFloat16"} if limits.loads and limits.halves else set()
        assert elements >= {"float", "double"} | halves, family


def test_planes_of_half_types_have_half_vectors(compiled: list[Kernel]) -> None:
    # 14 x 14 of them are a multiple of 8 bytes and not of 16: element by element, most of the time is instructions.
    for family in {kernel.family for kernel in compiled if kernel.family.startswith("sum_planes")}:
        for element in ("Half", "BFloat16"):
            own = {kernel.vector_bits for kernel in compiled if (kernel.family, kernel.element) == (family, element)}
            assert own == {16, 64, 128}, family


def test_the_code_is_small(compiled: list[Kernel], module: Path) -> None:
    assert sum(kernel.code.total() for kernel in compiled) < INSTRUCTIONS
    assert module.stat().st_size < MODULE_BYTES
