"""The machine code of every kernel: no spills, vector accesses, few registers, small.

Reads the compiled core that is installed, so it judges what ships.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
from gates import cannot_run
from sass import LIMITS, Kernel, architectures, cuobjdump, kernels

import hast_cuda
from hast_cuda.ops._registry import core


class Family(NamedTuple):
    """What the instantiations of one template may need and must do, on every architecture."""

    registers: int  # at most, per thread
    blocks: int  # of 256 threads that an SM has room for, at least; those of float64 may be two
    loads: int = 0  # of a whole vector, at least, where the instantiation works on vectors
    stores: int = 0
    ahead: int = 0  # instructions before the first vector is asked for, at most
    halves: bool = True  # where it works on vectors, on those of half types too


# A little above what nvcc 13.0 needs on the architecture that needs most. A new kernel needs a line here.
FAMILIES = {
    "map_planes/Forward": Family(80, blocks=3, loads=2, stores=2, ahead=100),  # two vectors in flight
    "map_planes/Backward": Family(80, blocks=3, loads=4, stores=2, ahead=200),
    "map_rows/Forward": Family(80, blocks=4, loads=1, stores=1, ahead=80),
    "map_rows/Backward": Family(64, blocks=4, loads=2, stores=1, ahead=130),
    "track_range": Family(48, blocks=5, loads=4, ahead=120),
    "quantize_weights": Family(64, blocks=4, loads=5, stores=1, ahead=160),  # the range: four in flight
    "soft_round": Family(64, blocks=4, loads=2, stores=1, ahead=160, halves=False),
    "soft_round_backward": Family(72, blocks=3, loads=3, stores=1, ahead=180, halves=False),
    "sum_planes/ForwardBody": Family(64, blocks=4, loads=2, stores=1, ahead=90),
    "sum_planes/ActivateBody/false": Family(72, blocks=4, loads=3, stores=2, ahead=90),
    "sum_planes/ActivateBody/true": Family(80, blocks=4, loads=3, stores=2, ahead=90),
    "sum_planes/BackwardBody/false": Family(64, blocks=4, loads=5, stores=2, ahead=90),
    "sum_planes/BackwardBody/true": Family(80, blocks=3, loads=7, stores=3, ahead=90),
    "sum_rows/ForwardBody": Family(64, blocks=4, loads=2, stores=1, ahead=160),
    "sum_rows/ActivateBody/false": Family(72, blocks=4, loads=3, stores=2, ahead=160),
    "sum_rows/ActivateBody/true": Family(80, blocks=3, loads=3, stores=2, ahead=160),
    "sum_rows/BackwardBody/false": Family(80, blocks=3, loads=5, stores=2, ahead=160),
    "sum_rows/BackwardBody/true": Family(104, blocks=2, loads=7, stores=3, ahead=160),  # 4 channels' state
    "activate_planes/ActivateBody/false": Family(72, blocks=3, loads=6, stores=4, ahead=50),
    "activate_planes/ActivateBody/true": Family(88, blocks=3, loads=6, stores=4, ahead=50),
    "energies": Family(48, blocks=5, loads=12, ahead=440),  # three shapes of map, four in flight
    "gradients": Family(64, blocks=4, loads=8, stores=8, ahead=240),  # the table of maps is searched first
    "match_layers": Family(64, blocks=4),
    # A row of logits per warp or block: as many rows as there are images, a block for each.
    "distill_rows/RowThreads": Family(128, blocks=2),
    "hard_rows/RowThreads": Family(96, blocks=2),
    "plateau": Family(24, blocks=6),
    "attention_losses": Family(72, blocks=3),
}
# Of all 186 kernels, a twentieth above what nvcc 13.0 makes of them (214,760, 218,696, 255,304 and 321,504): a path
# that is added to a skeleton, which has dozens of instances, does not fit in unseen.
INSTRUCTIONS = {"sm_80": 226_000, "sm_90": 230_000, "sm_100": 269_000, "sm_120": 338_000}
# All six architectures of the toolkit and the newest's PTX, compressed, at 1.7 MB each, and 2.8 MB of CPU kernels and
# bindings: 12.9 MB. It says when compression or the list of architectures has changed; the code is counted above.
MODULE_BYTES = 13_000_000
AT_ONCE = 4  # splits, of two sums each


@pytest.fixture(scope="session")
def module() -> Path:
    """The installed core."""
    if hast_cuda.build_info()["kind"] != "compiled" or hast_cuda.build_info()["cuda"] == "not built":
        cannot_run("the installed core has no CUDA kernels")
    return Path(core.__file__)


@pytest.fixture(scope="session", params=LIMITS)
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


def test_no_loop_over_vectors_stores_single_elements(compiled: list[Kernel]) -> None:
    # A compiler may take a store apart, element by element, where it kept the load whole.
    narrow = {
        kernel.name: dict(Counter(i.opcode for i in loop if i.accesses("STG")))
        for kernel in compiled
        if kernel.is_vectorised
        for loop in kernel.vector_loops
        if any(i.accesses("STG") and i.width < kernel.vector_bits for i in loop)
    }
    assert narrow == {}


def test_loops_over_vectors_load_little_else(compiled: list[Kernel]) -> None:
    # A coefficient per plane, or per channel of the vector; what waits for an address must not grow unseen.
    loads = {
        kernel.name: found
        for kernel in compiled
        if kernel.is_vectorised
        for loop in kernel.vector_loops
        if (found := sum(i.accesses("LDG") and i.width < kernel.vector_bits for i in loop))
    }
    assert {name: count for name, count in loads.items() if count > 8} == {}
    assert {name.partition("<")[0] for name in loads} <= {"sum_planes", "sum_rows", "map_rows"}


def test_loads_are_together_before_stores(compiled: list[Kernel]) -> None:
    # Of the kernels that do little with what they load: one vector at a time, they would wait for each.
    for family, least in {"map_planes/Forward": 2, "gradients": 4, "energies": 4, "track_range": 4}.items():
        for kernel in compiled:
            if kernel.family == family and kernel.is_vectorised:
                runs = [
                    sum(1 for _ in run)
                    for loop in kernel.vector_loops
                    for opcode, run in groupby(i.opcode[:3] for i in loop if i.accesses("LDG") or i.accesses("STG"))
                    if opcode == "LDG"
                ]
                assert max(runs) >= least, kernel.name


def test_the_first_vector_is_asked_for_early(compiled: list[Kernel]) -> None:
    # Before roots and divisions for the constants, which take as long as the trip to memory.
    late = {
        kernel.name: kernel.ahead
        for kernel in compiled
        if kernel.is_vectorised and FAMILIES[kernel.family].loads and kernel.ahead > FAMILIES[kernel.family].ahead
    }
    assert late == {}


def test_an_sm_has_room_for_several_blocks(compiled: list[Kernel]) -> None:
    # float64 is there to check the others by; consumer GPUs compute it at a 64th of float32's rate, so that
    # such a kernel waits for arithmetic and not for memory.
    few = {
        kernel.name: kernel.blocks
        for kernel in compiled
        if kernel.blocks < (2 if kernel.element == "double" else FAMILIES[kernel.family].blocks)
    }
    assert few == {}


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
    assert sum(len(kernel.instructions) for kernel in compiled) < INSTRUCTIONS[compiled[0].architecture]
    assert module.stat().st_size < MODULE_BYTES
