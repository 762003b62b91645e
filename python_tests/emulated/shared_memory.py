"""Tells the emulator where __shared__ variables lie, so that it can poison them before every block.

They are static variables of the kernels; only the symbol table knows all of them.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

REGISTER = "hast_emulated_shared"
# Address, size, "in .bss", and a name local to a function of the kernels.
SYMBOL = re.compile(r"^(\w+) (\w+) [bBu] _ZZN(?:4hast4cuda|12_GLOBAL__N_1)", re.MULTILINE)


def register_shared_memory(library: Path) -> int:
    """Poison the shared memory of a loaded library from now on; how many variables that is."""
    symbols = subprocess.run(
        ["nm", "--print-size", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    own = re.search(rf"^(\w+) .*{REGISTER}$", symbols, re.MULTILINE)
    assert own is not None, f"{library} was not built over the shim"
    function = getattr(ctypes.CDLL(str(library)), REGISTER)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    base = address - int(own[1], 16)
    variables = SYMBOL.findall(symbols)
    for offset, size in variables:
        function(ctypes.c_void_p(base + int(offset, 16)), ctypes.c_size_t(int(size, 16)))
    return len(variables)
