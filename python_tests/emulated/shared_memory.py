"""Tells the emulator where __shared__ variables lie: it poisons and keeps them for every block.

They are static variables of the kernels; only the symbol table knows all of them. The shim puts a
number, the scope, before those of a function.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

REGISTER = "hast_emulated_shared"
# Address, size, "in .bss", and a name local to a function.
SYMBOL = re.compile(r"^(\w+) (\w+) [bBu] (_ZZ\w+)$", re.MULTILINE)
SCOPE = re.compile(r"(_ZZ\w+E)\d+hast_scope_\d+$")


def register_shared_memory(library: Path) -> int:
    """Tell a loaded library where its shared variables are; how many there are."""
    symbols = subprocess.run(
        ["nm", "--print-size", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    own = re.search(rf"^(\w+) .*{REGISTER}$", symbols, re.MULTILINE)
    assert own is not None, f"{library} was not built over the shim"
    function = getattr(ctypes.CDLL(str(library)), REGISTER)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    base = address - int(own[1], 16)
    local = SYMBOL.findall(symbols)
    scopes = [(base + int(at, 16), found[1]) for at, _, name in local if (found := SCOPE.match(name))]
    registered = set()
    for at, size, name in local:
        for scope, function_name in scopes:
            if name.startswith(function_name) and not SCOPE.match(name):
                registered.add(name)
                function(*map(ctypes.c_void_p, (scope, base + int(at, 16), int(size, 16))))
    return len(registered)
