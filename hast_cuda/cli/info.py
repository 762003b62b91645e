"""``hast-cuda info`` and ``hast-cuda models``: what to paste into a bug report; what ``--model`` can name."""

from __future__ import annotations

import fnmatch
import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
import tyro

from hast_cuda.files.versions import VERSION
from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.ops import build_info, cuda_devices
from hast_cuda.teachers import build_network, model_names

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


LOOKED_INTO = 40  # names; building a network takes a moment, even without its values


def models(pattern: tyro.conf.Positional[str] = "") -> list[str]:
    """List names that --model takes.

    Of a short list each network is built, without its values, to see whether it has the BatchNorm
    layers that images are synthesised from.

    Args:
        pattern: part of the name, or a pattern like "timm:*lite*".
    """
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    found = fnmatch.filter(model_names(), wanted)
    if not found:
        raise ValueError(f"no network has a name like {pattern!r}; hast-cuda models lists all")
    width = max(map(len, found))
    for name in found:
        print(f"{name:<{width}}  {_kind(name)}".rstrip() if len(found) <= LOOKED_INTO else name)
    print(f"{len(found)} names; --model also takes hf-hub:OWNER/NAME, module:callable and file.py:callable")
    if importlib.util.find_spec("timm") is None:
        print("more with timm: pip install timm")
    return found


def _kind(name: str) -> str:
    try:
        with torch.device("meta"):
            network = build_network(name)
    except (RuntimeError, NotImplementedError) as error:  # some constructors compute
        return f"(not looked into: {type(error).__name__})"
    normalised = any(map(has_running_statistics, network.modules()))
    return "BatchNorm" if normalised else "no BatchNorm: for rtn alone"
