"""Device, versions, commit and command of a measurement, and the allocator it runs with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

import hast_cuda

ROOT = Path(__file__).resolve().parents[1]
# glibc gives blocks of more than 32 MiB back to the system at once, and others when they are on top
# of the heap: every call then pays a page fault per 4 KiB, which measures the allocator and nothing
# else. With these settings freed memory is kept and reused, as torch's CUDA allocator does.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456"}
LIBRARIES = ("numpy", "pytorchcv", "triton", "nvidia-modelopt", "brevitas")


def keep_freed_memory() -> None:
    """Start this process again with MALLOC where it runs without: glibc reads it at start only."""
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.environ.update(MALLOC, KINETO_LOG_LEVEL="5")  # the profiler is chatty without a GPU
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _commit() -> str:
    """The commit, with a + where tracked files of the package or benchmarks differ from it."""
    given = os.environ.get("HAST_BENCH_COMMIT")  # where the tree travels without its history
    if given:
        return given
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "csrc", "hast_cuda")
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_label(device: torch.device) -> str:
    """``cpu``, or the name of the GPU, for file names."""
    if device.type == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def command() -> str:
    """This command as given, the script named from the repository's root."""
    script = Path(sys.argv[0]).resolve()
    named = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path(script.name)
    return " ".join(["python", str(named), *sys.argv[1:]])


def provenance(device: torch.device) -> dict[str, object]:
    """What a reader needs to judge or repeat a measurement."""
    cuda = device.type == "cuda"
    versions = {name: version for name in LIBRARIES if (version := _installed(name))}
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "driver": _driver() if cuda else None,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
            "hast_cuda": hast_cuda.__version__,
            **versions,
        },
        "build": hast_cuda.build_info(),
        "malloc": None if cuda else MALLOC,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": command(),
    }
