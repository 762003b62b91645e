"""Freed memory stays with the process while a loop runs, and goes back to the system afterwards."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from hast_cuda.loops import allocator

COUNTED = '''
import resource
import torch
from hast_cuda.loops.allocator import freed_memory_kept

def faults(count=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(2**22).add_(1)  # 16 MiB
        torch.ones(2**24).add_(1)  # 64 MiB, more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    """Bytes of the process that no file backs, wherever the system keeps them: counted page by page,
    as statm is an estimate on machines of many cores, and falls when the system drops pages of libraries."""
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return 1024 * sum(int(lines[name].split()[0]) for name in ("Anonymous", "Swap"))

faults(2)
usual, small = faults(), resident()
with freed_memory_kept():
    with freed_memory_kept():
        faults(2)
    kept = faults()
    print(usual, kept, resident() - small > 2**25, end=" ")
print(resident() - small < 2**25)
'''

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
counted = pytest.mark.skipif(
    not os.access("/proc/self/smaps_rollup", os.R_OK), reason="the system does not say which pages a process has"
)


def said(**environment: str) -> list[str]:
    """What the counting program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True, env=clean() | environment
    )
    return done.stdout.split()


def clean() -> dict[str, str]:
    """The environment without rules of glibc."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}


@glibc
@counted
def test_pages_are_faulted_in_once() -> None:
    usual, kept, *held = said()
    assert int(kept) < int(usual) / 20
    assert held == ["True", "True"]


@glibc
@counted
def test_the_users_own_rules_stay() -> None:
    usual, kept, *_ = said(MALLOC_MMAP_THRESHOLD_="1048576")
    assert int(kept) > int(usual) / 2


def test_nesting_survives_an_error() -> None:
    with pytest.raises(ZeroDivisionError), allocator.freed_memory_kept(), allocator.freed_memory_kept():
        _ = 1 // 0
    assert allocator._Depth.now == 0
