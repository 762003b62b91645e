"""What nvcc made of the kernels, read from a compiled module with cuobjdump. Needs no GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

BYTES = {"float": 4, "double": 8, "Half": 2, "BFloat16": 2}  # by the name of a template argument
THREADS = 256  # of a block
FILE = 65_536  # registers of an SM
# Threads that an SM has at once, and bytes of its shared memory; a block takes 1024 beyond its own.
LIMITS = {"sm_80": (2048, 167_936), "sm_90": (2048, 233_472), "sm_100": (2048, 233_472), "sm_120": (1536, 102_400)}
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([A-Z][\w.]*)([^;]*)")
WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}  # bits, by suffix; 32 without one


class Instruction(NamedTuple):
    """One line of machine code."""

    address: int
    opcode: str  # with its suffixes: LDG.E.128
    target: int  # of a branch; beyond every address for anything else
    sometimes: bool  # under a condition

    @property
    def width(self) -> int:
        """Bits of a load or store."""
        return next((WIDTHS[suffix] for suffix in self.opcode.split(".") if suffix in WIDTHS), 32)

    def accesses(self, opcode: str) -> bool:
        """Whether it is that access to global memory; volatile partial sums are another matter."""
        return self.opcode.startswith(f"{opcode}.E") and ".STRONG.SYS" not in self.opcode


@dataclass(frozen=True)
class Kernel:
    """One instantiation for one architecture."""

    name: str  # demangled, without namespaces and arguments: map_rows<Forward<float>, 4>
    registers: int
    stack: int  # bytes per thread
    shared: int  # bytes per block
    local: int  # bytes per thread
    architecture: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def code(self) -> Counter[str]:
        """How often each opcode occurs, with its suffixes."""
        return Counter(instruction.opcode for instruction in self.instructions)

    @property
    def family(self) -> str:
        """Names of the template and of its operation: map_rows/Forward."""
        return "/".join(word for word in re.findall(r"[A-Za-z_]\w*", self.name) if word not in BYTES)

    @property
    def element(self) -> str:
        """Type of the data."""
        words: list[str] = re.findall(r"\w+", self.name)
        return next(word for word in words if word in BYTES)

    @property
    def vector_bits(self) -> int:
        """Width of one access: given by the template's size, 128 bits where it has none."""
        size = re.search(r", (\d+)>$", self.name)
        return 8 * BYTES[self.element] * int(size[1]) if size else 128

    @property
    def is_vectorised(self) -> bool:
        """Whether an access takes more than one element."""
        return self.vector_bits > 8 * BYTES[self.element]

    def count(self, opcode: str) -> int:
        """Instructions of that opcode, whatever their suffixes."""
        return sum(n for name, n in self.code.items() if name.split(".")[0] == opcode)

    @property
    def partials(self) -> int:
        """Loads of what other blocks left, past the L1 cache."""
        return sum(n for name, n in self.code.items() if name.startswith("LDG.E") and ".STRONG.SYS" in name)

    def vectors(self, opcode: str) -> int:
        """Accesses to global memory of a whole vector; volatile partial sums are none."""
        return sum(i.accesses(opcode) and i.width == self.vector_bits for i in self.instructions)

    @property
    def blocks(self) -> int:
        """How many blocks an SM has registers, threads and shared memory for."""
        threads, shared = LIMITS[self.architecture]
        registers = -(-self.registers // 8) * 8  # a warp is given 256 at a time
        return min(FILE // (registers * THREADS), threads // THREADS, shared // (self.shared + 1024))

    @property
    def ahead(self) -> int:
        """Instructions before the first vector is asked for, by a load or by a prefetch."""
        for count, one in enumerate(self.instructions):
            if one.opcode.startswith("CCTL.E.PF") or (one.accesses("LDG") and one.width == self.vector_bits):
                return count
        return len(self.instructions)

    @cached_property
    def loops(self) -> list[tuple[Instruction, ...]]:
        """Those with no other loop inside."""
        found = {(i.target, i.address) for i in self.instructions if i.target <= i.address}
        inner = [
            (start, end)
            for start, end in found
            if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in found)
        ]
        places = {instruction.address: place for place, instruction in enumerate(self.instructions)}
        return [self.instructions[places[start] : places[end] + 1] for start, end in sorted(inner)]

    @cached_property
    def vector_loops(self) -> list[tuple[Instruction, ...]]:
        """The loops that load whole vectors."""
        return [loop for loop in self.loops if any(i.accesses("LDG") and i.width == self.vector_bits for i in loop)]


def cuobjdump() -> str | None:
    """From the CUDA toolkit, or the one that comes with triton."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if found or triton is None or triton.origin is None:
        return found
    packed = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(packed) if packed.exists() else None


def _run(command: list[str], text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def architectures(tool: str, module: Path) -> set[str]:
    """Names like sm_90 of the machine code in ``module``."""
    return set(re.findall(r"\.(sm_\w+)\.cubin", _run([tool, "-lelf", str(module)])))


def _short(demangled: str) -> str:
    without_arguments = re.sub(r"\(.*", "", demangled.replace("(anonymous namespace)::", ""))
    without_arguments = re.sub(r"\(int\)", "", without_arguments)
    return re.sub(r"\w+::", "", without_arguments).removeprefix("void ")


def kernels(tool: str, module: Path, architecture: str) -> list[Kernel]:
    """Every kernel in ``module`` for ``architecture``."""
    only = ["-arch", architecture, str(module)]
    usage: dict[str, tuple[int, int, int, int]] = {
        name: (int(registers), int(stack), int(shared), int(local))
        for name, registers, stack, shared, local in re.findall(
            r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", _run([tool, "-res-usage", *only])
        )
    }
    code: dict[str, list[Instruction]] = {}
    for line in _run([tool, "-sass", *only]).splitlines():
        if line.startswith("\t\tFunction :"):
            own = code[line.split()[-1]] = []
        elif found := INSTRUCTION.match(line):
            address, predicate, opcode, rest = found.groups()
            branch = re.search(r"0x([0-9a-f]+)", rest) if opcode.startswith("BRA") else None
            target = int(branch[1], 16) if branch else sys.maxsize
            own.append(Instruction(int(address, 16), opcode, target, bool(predicate) or "," in rest))
    assert set(usage) == set(code), "cuobjdump names different kernels for usage and code"
    mangled = sorted(usage)
    demangled = _run(["c++filt"], "\n".join(mangled)).splitlines()
    return [
        Kernel(_short(long), *usage[name], architecture, tuple(code[name]))
        for name, long in zip(mangled, demangled, strict=True)
    ]
