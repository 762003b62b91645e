"""What the processes of a run have in common: what they were asked for, and its directory."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from hast_cuda.checks.typed import typed
from hast_cuda.files.json_values import flat
from hast_cuda.files.versions import VERSION
from hast_cuda.ops import build_info
from hast_cuda.ranks import World
from hast_cuda.run.directory import RunDirectory, plain
from hast_cuda.run.origins import WORDS


@contextmanager
def open_together(
    world: World, out: Path | None, config: dict[str, Any], *, tensorboard: bool
) -> Iterator[RunDirectory | None]:
    """The run directory, locked, on rank 0; all processes have been asked for the same."""
    check_same_work(world, config, out=out, tensorboard=tensorboard)
    opened: list[RunDirectory] = []

    def open_directory() -> None:
        if out is not None:
            opened.append(RunDirectory(out, config, world.device, tensorboard=tensorboard, ranks=world.size))

    world.on_first(open_directory)
    with opened[0] if opened else nullcontext() as run:
        yield run


@typed
def check_same_work(world: World, config: Mapping[str, Any], **others: Any) -> None:
    """ValueError on every rank unless all have the same settings, network, images and versions.

    Args:
        world: the processes; one agrees with itself.
        config: what goes into ``config.json``, with the fingerprints of network and images.
        others: more that must be equal, such as the run directory.
    """
    if world.size > 1:
        world.agree(
            {
                **{WORDS.get(k, k): v for k, v in flat(plain({**config, **others})).items()},
                "hast_cuda's version": VERSION,
                "its build": build_info(),
                "torch's version": torch.__version__,
                "Python's version": platform.python_version(),
                "the kind of device": world.device.type,
            }
        )
