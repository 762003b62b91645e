"""``hast-cuda models``: what ``--model`` can name."""

from __future__ import annotations

import fnmatch
import importlib.util

import torch
import tyro

from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.teachers import build_network, model_names

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
