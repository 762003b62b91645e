"""``hast-cuda info``: what to paste into a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from hast_cuda.files.versions import VERSION
from hast_cuda.ops import build_info, cuda_devices

_PACKAGES = ("numpy", "pytorchcv", "safetensors", "timm", "torch", "torchvision", "tyro")


def info() -> dict[str, str]:
    """Print the build, the devices and the versions."""
    lines = {"hast_cuda": VERSION, **{f"core {k}": v for k, v in build_info().items()}}
    lines["python"] = f"{platform.python_version()} on {platform.platform()}"
    for package in _PACKAGES:
        try:
            lines[package] = version(package)
        except PackageNotFoundError:
            lines[package] = "not installed"
    lines["torch cuda"] = torch.version.cuda or "cpu build"
    lines["cpu threads"] = str(torch.get_num_threads())
    count = torch.cuda.device_count()
    lines["cuda devices"] = str(count) if count else "none"
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        lines[f"cuda:{index}"] = (
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.1f} GiB"
        )
    if count and cuda_devices() == 0:
        lines["note"] = "torch sees a GPU that the core cannot use: rebuild with nvcc on PATH"
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key:<{width}}  {value}")
    return lines
