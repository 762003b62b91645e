"""The emulation under AddressSanitizer: an access outside of a tensor ends the process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from emulated.build import compiler

# Not all of `undefined`: the rest triples the time to compile and finds nothing about memory.
FLAGS = [
    "-fsanitize=address,alignment,bounds,bool,shift,signed-integer-overflow",
    "-fno-sanitize-recover=all", "-g1", "-DHAST_SANITIZED",
]  # fmt: skip


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


def environment(report: Path) -> dict[str, str]:
    """Variables for a Python that loads sanitized code; reports go to files called ``report``.*."""
    preload = preloaded()
    assert preload is not None
    return {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={report}",  # Python never frees everything
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={report}",
    }


def reports(report: Path) -> str:
    """What was found, with file, line and calls."""
    found = sorted(report.parent.glob(f"{report.name}.*"))
    return "\n".join(path.read_text(errors="replace") for path in found)
