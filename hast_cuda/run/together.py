"""What the processes of a run must have in common before they start."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from hast_cuda.checks.typed import typed
from hast_cuda.files.versions import VERSION
from hast_cuda.ops import build_info
from hast_cuda.ranks import World
from hast_cuda.run.directory import plain
from hast_cuda.run.origins import WORDS


@typed
def check_same_work(world: World, config: Mapping[str, Any], **others: Any) -> None:
    """ValueError on every rank unless all have the same settings, network, images and versions.

    Args:
        world: the processes; one agrees with itself.
        config: what goes into ``config.json``, with the fingerprints of network and images.
        others: more that must be equal, such as the run directory.
    """
    if world.size == 1:
        return
    given = _flat("", plain({**config, **others}))
    world.agree({
        **{WORDS.get(name, name): value for name, value in given.items()},
        "hast_cuda's version": VERSION, "its build": build_info(),
        "torch's version": torch.__version__, "Python's version": platform.python_version(),
        "the kind of device": world.device.type,
    })  # fmt: skip


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Values of nested dicts by dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(f"{prefix}.{key}" if prefix else key, item)
    return found
