"""The emulation under the sanitizers of gcc: whatever they find ends the process."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from emulated.build import compiler

# Not all of `undefined`: the rest triples the time to compile and finds nothing about memory.
# Nor optimised, which takes longer than the tests then gain. WHOLE, for the slow test, is both.
FLAGS = [
    "-O0",
    "-fsanitize=address,alignment,bounds,bool,shift,signed-integer-overflow",
    "-fno-sanitize-recover=all",
    "-g1",
    "-DHAST_SANITIZED",
]
# float-cast-overflow, a number that its integer cannot hold, is not part of `undefined`; nor is
# float-divide-by-zero, which IEEE 754 defines and 0/0 of an empty reduction needs.
WHOLE = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-g1", "-DHAST_SANITIZED"]
# Needs code that the compiler vectorises as the real build does: the sanitizers keep it from that,
# and sums are then other sums.
UNVECTORISED = "not far_from_the_running_mean"
# What is about values or compilers, not about memory, for which bfloat16 is like float16.
_LEFT_OUT = [
    "bfloat16",
    "opcheck",
    "gradcheck",
    "compiles",
    "schedule",
    "fuzz",
    "numerics",
    "1000003",
    "same_bits",
    "saturate",
    "is_not_finite",
    "used_twice",
    "more_images",
    "settles",
]
SELECTED = " and ".join(["(emulated or baseline)", UNVECTORISED, *(f"not {word}" for word in _LEFT_OUT)])


def _library(name: str) -> str | None:
    """Path of a library that comes with the compiler."""
    found = subprocess.run(
        [str(compiler()), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return str(Path(found).resolve()) if Path(found).is_absolute() else None


def preloaded() -> str | None:
    """What a Python that loads sanitized code must load first; None without the sanitizer."""
    # libstdc++ too: the sanitizer looks up at its start how exceptions are thrown.
    libraries = [_library("libasan.so"), _library("libstdc++.so")]
    return " ".join(map(str, libraries)) if all(libraries) else None


def environment() -> dict[str, str]:
    """Variables for a Python that loads sanitized code; what is found goes to its stderr."""
    preload = preloaded()
    assert preload is not None
    return {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python never frees everything
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def finding(errors: str) -> str | None:
    """The first thing that a sanitizer wrote to stderr, in a few words."""
    found = re.search(r"AddressSanitizer: (\S+)|runtime error: (.{1,40})", errors)
    return None if found is None else found[1] or found[2]
