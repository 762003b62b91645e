"""The engine's reader of student.hast as a program of its own, sanitized, and what it says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from emulated import sanitizer
from emulated.build import compiler
from gates import cannot_run

from engine.build import HERE, READER, compile_program

# Allocations are in proportion to the file: a sanitizer's report for one of a gigabyte.
LIMITS = {"ASAN_OPTIONS": "max_allocation_size_mb=256", "UBSAN_OPTIONS": "print_stacktrace=1"}


def sanitized_reader(objects: Path) -> Path:
    """The reader with every check of the sanitizers."""
    if compiler() is None or sanitizer.preloaded() is None:
        cannot_run("there is no C++ compiler with AddressSanitizer (libasan)")
    return compile_program(HERE / "read_file.cpp", READER, objects)


def lines(reader: Path, mode: str, paths: Sequence[Path]) -> list[str]:
    """What the reader says of each file; it never dies."""
    done = subprocess.run(
        [reader, mode, *paths], capture_output=True, check=False, env={**os.environ, **LIMITS}, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
    return done.stdout.decode().splitlines()


def said(reader: Path, folder: Path, data: bytes, mode: str = "file") -> str:
    (folder / "student.hast").write_bytes(data)
    (line,) = lines(reader, mode, [folder / "student.hast"])
    return line


def refused(reader: Path, folder: Path, contents: Sequence[bytes]) -> list[str]:
    paths = [folder / str(i) for i in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    found = lines(reader, "file", paths)
    assert len(found) == len(paths)  # a line each
    assert max(map(len, found)) < 500
    return found
