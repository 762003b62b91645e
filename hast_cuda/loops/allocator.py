"""glibc gives large freed blocks back to the system: every iteration would pay for all its pages again."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# mallopt(3): parameter, its value while memory is kept, glibc's own limits afterwards.
TRIM_THRESHOLD = (-1, -1, 2**26)  # free memory at the end of the heap beyond which it is given back; -1: never
TOP_PAD = (-2, 2**28, 2**17)  # bytes that the heap grows by at least
MMAP_MAX = (-4, 0, 2**16)  # blocks that are mapped, and so unmapped, one by one
RULES = (TRIM_THRESHOLD, TOP_PAD, MMAP_MAX)


@cache
def _glibc() -> Any:
    """The C library, or None: another one, or rules that the user has set for it."""
    own = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return None if own or platform.libc_ver()[0] != "glibc" else ctypes.CDLL(None)


class _Depth:
    """How many of the loops that keep memory run, inside each other or in several threads."""

    now = 0
    lock = threading.Lock()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """The process keeps what tensors on the CPU free, for the next iteration; given back at the end.

    Without it the system spends 27 % of a synthesis iteration and 14 % of a fine-tuning iteration of
    MobileNetV2 at 224 x 224 on pages (bench/bench_allocator.py). No effect without glibc, or where
    ``MALLOC_*`` or ``GLIBC_TUNABLES`` say how it allocates. May be nested, and decorates functions: every
    loop by itself, so that one phase of a run does not hold what another one freed.

    Example:
        >>> with freed_memory_kept():
        ...     pass
    """
    libc = _glibc()
    with _Depth.lock:
        _Depth.now += 1
        if libc is not None and _Depth.now == 1:
            for parameter, kept, _ in RULES:
                libc.mallopt(parameter, kept)
    try:
        yield
    finally:
        with _Depth.lock:
            _Depth.now -= 1
            if libc is not None and _Depth.now == 0:
                for parameter, _, usual in RULES:
                    libc.mallopt(parameter, usual)
                libc.malloc_trim(0)
