"""What nvcc made of the kernels, read from a compiled module with cuobjdump. Needs no GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

BYTES = {"float": 4, "double": 8, "Half": 2, "BFloat16": 2}  # by the name of a template argument


@dataclass(frozen=True)
class Kernel:
    """One instantiation for one architecture."""

    name: str  # demangled, without namespaces and arguments: map_rows<Forward<float>, 4>
    registers: int
    stack: int  # bytes per thread
    local: int  # bytes per thread
    code: Counter[str]  # how often each opcode occurs, with its suffixes: LDG.E.128

    @property
    def family(self) -> str:
        """Names of the template and of its operation: map_rows/Forward."""
        return "/".join(word for word in re.findall(r"[A-Za-z_]\w*", self.name) if word not in BYTES)

    @property
    def element(self) -> str:
        """Type of the data."""
        return next(word for word in re.findall(r"\w+", self.name) if word in BYTES)

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
        return sum(
            n
            for name, n in self.code.items()
            if name.startswith(f"{opcode}.E") and ".STRONG.SYS" not in name and str(self.vector_bits) in name.split(".")
        )


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
    usage = {
        name: [int(n) for n in numbers]
        for name, *numbers in re.findall(
            r"Function (\S+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", _run([tool, "-res-usage", *only])
        )
    }
    code: dict[str, Counter[str]] = {}
    for line in _run([tool, "-sass", *only]).splitlines():
        if "Function :" in line:
            opcodes = code[line.split()[-1]] = Counter()
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", line):
            opcodes[found[1]] += 1
    assert set(usage) == set(code), "cuobjdump names different kernels for usage and code"
    mangled = sorted(usage)
    demangled = _run(["c++filt"], "\n".join(mangled)).splitlines()
    return [Kernel(_short(long), *usage[name], code[name]) for name, long in zip(mangled, demangled, strict=True)]
