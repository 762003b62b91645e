"""Runs over several processes: how they find each other, and which device is whose."""

from __future__ import annotations

import atexit
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_choice
from hast_cuda.ranks.world import TIMEOUT, RankLostError, World

# Ranks in lockstep are seconds apart; a rank that waits for another's phase (images, an evaluation)
# may wait long, and learns from the closed connection if that one dies.
STEP_SECONDS = 600.0
WAIT = timedelta(days=7)
_LAUNCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


def launched() -> int:
    """How many processes torchrun (or who else set its variables) started; 1 without it.

    Example:
        >>> launched()
        1
    """
    if not all(name in os.environ for name in _LAUNCH):
        return 1
    text = os.environ["WORLD_SIZE"]
    if not (text.isdecimal() and text.isascii() and int(text)):
        raise ValueError(f"WORLD_SIZE is {text!r}; torchrun sets it to the number of processes")
    return int(text)


_worlds: dict[tuple[Any, torch.device, str], World] = {}


@typed
def join(device: torch.device | str = "cpu", *, backend: str | None = None) -> World:
    """The world of this process: what torchrun started, a group that is there, or it alone.

    Args:
        device: "cuda" without a number is the GPU of LOCAL_RANK where there are several processes.
        backend: of the steps: "nccl", which is the default on CUDA and wants a GPU per process, or
            "gloo".

    Raises:
        ValueError: more processes than GPUs, or two on one. RankLostError: not all processes came.

    Example:
        >>> join("cpu").size
        1
    """
    device = as_device(device)
    if backend is not None:
        check_choice("backend", backend, ("nccl", "gloo"))
    count = launched()
    if not dist.is_available():
        if count > 1:
            raise ValueError(f"WORLD_SIZE is {count}, but this torch was built without torch.distributed")
        return World(device=device)
    if count == 1 and not dist.is_initialized():
        return World(device=device)
    if device.type == "cuda":
        device = _own_gpu(device)
    if not dist.is_initialized():
        _meet(count)
    rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        return World(device=device)
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    key = dist.group.WORLD, device, backend
    if key not in _worlds:
        waits = dist.new_group(backend="gloo", timeout=WAIT)
        if backend == "nccl":
            _refuse_shared_gpus(World(rank, size, device, waits=waits))
        steps = dist.new_group(backend=backend, timeout=_step_timeout())
        _worlds[key] = World(rank, size, device, steps, waits)
    return _worlds[key]


def _step_timeout() -> timedelta:
    text = os.environ.get(TIMEOUT, str(STEP_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{TIMEOUT} is {text!r}; it must be a positive number of seconds")
    return timedelta(seconds=seconds)


def _meet(count: int) -> None:
    timeout = _step_timeout()
    try:
        dist.init_process_group("gloo", timeout=timeout)
    except RuntimeError as error:
        raise RankLostError(
            f"not all of the {count} processes (WORLD_SIZE) met at MASTER_ADDR:MASTER_PORT within "
            f"{timeout.total_seconds():.0f} s: {str(error).splitlines()[0]}. Start them together, "
            "best with torchrun"
        ) from error
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():  # a script may have done it
        dist.destroy_process_group()


def _own_gpu(device: torch.device) -> torch.device:
    if device.index is None:
        local = os.environ.get("LOCAL_RANK")
        if local is None:
            raise ValueError(
                "LOCAL_RANK is not set, so it is unknown which GPU is this process's: start with "
                "torchrun, or name a device with its number"
            )
        device = torch.device("cuda", int(local))
    gpus = torch.cuda.device_count()
    if (device.index or 0) >= gpus:
        raise ValueError(
            f"this process is to use {device}, but torch sees {gpus} GPUs: start at most {gpus} "
            "processes here (--nproc-per-node)"
        )
    torch.cuda.set_device(device)
    return device


def _refuse_shared_gpus(world: World) -> None:
    places = world.gather((socket.gethostname(), str(world.device)))
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ValueError(
            f"several processes use {twice[1]}, and NCCL wants a GPU for each: give the device as "
            '"cuda", without a number, and start at most as many processes as there are GPUs'
        )
