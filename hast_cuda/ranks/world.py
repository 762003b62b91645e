"""The processes of a run, and all that passes between them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hast_cuda.checks.values import as_device, check_range, check_whole

T = TypeVar("T")
TIMEOUT = "HAST_CUDA_RANK_TIMEOUT"  # seconds that a rank waits for the others in a step


class RankLostError(RuntimeError):
    """Another process died, stands still or was never there."""


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them; alone without arguments.

    Every method is free of cost and effect for one process. With several, all must call it.

    Example:
        >>> World(rank=1, size=4).part(10)  # of a batch of 10
        (slice(3, 6, None), 0.3)
    """

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many there are."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""
    steps: Any = None
    """Process group of what happens in every step, on ``device``."""
    waits: Any = None
    """Process group on the CPU, with patience for long phases of other ranks."""

    def __post_init__(self) -> None:
        check_whole("size", self.size)
        check_whole("rank", self.rank)
        check_range("size", self.size, 1)
        check_range("rank", self.rank, 0, self.size - 1)
        object.__setattr__(self, "device", as_device(self.device))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes, prints and evaluates."""
        return self.rank == 0

    def say(self, text: object) -> None:
        """Print on rank 0."""
        if self.first:
            print(text)

    def part(self, count: int) -> tuple[slice, float]:
        """This rank's items of a batch of ``count``, and their share of it.

        As even as can be, in order. Where there are more ranks than items, the last ranks get the
        first item with a share of 0, so that every rank does the same things.
        """
        base, extra = divmod(count, self.size)
        start = self.rank * base + min(self.rank, extra)
        size = base + (self.rank < extra)
        return (slice(start, start + size), size / count) if size else (slice(0, 1), 0.0)

    def on_first(self, function: Callable[[], T]) -> T:
        """What ``function`` gives on rank 0, alone to call it; its error is raised on all ranks."""
        if self.size == 1:
            return function()
        found: Any = None
        caught: Exception | None = None
        if self.first:
            try:
                found = function()
            except Exception as error:
                caught = error
        found, passed = self._send((found, _portable(caught)), 0)
        failure = caught or passed
        if failure is not None:
            raise failure
        return found  # type: ignore[no-any-return]

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Rank 0 does what is inside, then the others: it may download what they find."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._talking():
            dist.all_gather_object(found, value, group=self.waits)
        return found

    def agree(self, values: Mapping[str, Any]) -> None:
        """ValueError on every rank unless all have the same ``values``; names what differs."""
        everyone = self.gather(dict(values))
        for rank, theirs in enumerate(everyone):
            for name in {**everyone[0], **theirs}:
                ours, other = everyone[0].get(name), theirs.get(name)
                if ours != other:
                    raise ValueError(
                        f"the processes were given different work: {name} is {ours!r} on rank 0 "
                        f"and {other!r} on rank {rank}; start all with the same arguments, files "
                        "and versions"
                    )

    def share(self, tensors: Mapping[str, Tensor] | None, source: int = 0) -> dict[str, Tensor]:
        """The named tensors of rank ``source``, on every rank: its own there, else on the CPU.

        What other ranks give is not looked at.
        """
        own = dict(tensors or {})
        if self.size == 1:
            return own
        here = self.rank == source
        head = self._send([(name, t.shape, t.dtype) for name, t in own.items()], source)
        found: dict[str, Tensor] = {}
        for name, shape, dtype in head:  # one after the other: no second copy of a large set
            tensor = own[name].detach().cpu() if here else torch.empty(shape, dtype=dtype)
            if tensor.numel():
                # as bytes: gloo does not know every dtype
                flat = tensor.contiguous().view(-1).view(torch.uint8)
                with self._talking():
                    dist.broadcast(flat, source, group=self.waits)
            found[name] = own[name] if here else tensor
        return found

    def spread_(self, tensor: Tensor) -> None:
        """Overwrite ``tensor``, on the device, by that of rank 0, as part of a step."""
        if self.size > 1:
            with self._talking():
                dist.broadcast(tensor, 0, group=self.steps)

    def sum_(self, tensor: Tensor) -> None:
        """Overwrite ``tensor``, on the device, by the sum over the ranks, the same bits on all."""
        if self.size > 1:
            with self._talking():
                dist.all_reduce(tensor, group=self.steps)

    def _send(self, value: Any, source: int) -> Any:
        box = [value]
        with self._talking():
            dist.broadcast_object_list(box, source, group=self.waits)
        return box[0]

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # without gloo's source file and line
            reason = re.sub(r"^\[[^\]]*:\d+\] ", "", str(error).strip()).splitlines()[0]
            raise RankLostError(
                f"rank {self.rank} of {self.size} lost another process, which died or stood still "
                f"({reason}). See what that one printed, then give the same command again, with "
                f"any number of processes: the run continues. {TIMEOUT} is the patience in seconds"
            ) from error


def world_on(world: World | None, device: torch.device | str | None) -> World:
    """``world``, or without one this process alone on ``device``, by default the CPU.

    ValueError if both are given and ``device`` is not the world's; "cuda" is whichever GPU that has.
    """
    if world is None:
        return World(device=as_device("cpu" if device is None else device))
    if device is not None and as_device(device) not in (world.device, torch.device(world.device.type)):
        raise ValueError(
            f"device is {str(device)!r}, but the world says that rank {world.rank} of {world.size} "
            f"computes on {str(world.device)!r}: leave device out"
        )
    return world


def _portable(error: Exception | None) -> Exception | None:
    """``error``, or its text as a RuntimeError if it must not or cannot be passed on."""
    if error is None:
        return None
    text = RuntimeError(f"{type(error).__name__}: {error}")
    if isinstance(error, torch.OutOfMemoryError):
        return text  # the others would explain it with the figures of their own devices
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return text
    return error
