"""Faults of runs over several processes, for test_ranks.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from edge_networks import small_recipe
from networks import tiny
from test_method_runs import SHAPE
from test_run import real_images

from hast_cuda.files.tensors import load_tensors, save_tensors
from hast_cuda.finetune.step import ReplayedStep
from hast_cuda.loops import memory
from hast_cuda.loops.memory import MemoryFigures
from hast_cuda.methods import change
from hast_cuda.ranks import World, join
from hast_cuda.run import Bits, work, zero_shot_quantize
from hast_cuda.run.lock import lock_run

RECIPE = change(small_recipe("hast"), {"synthesis.num_images": 20})  # three batches
LEFT = "images/.batch_00000.safetensors.999999999.part"  # as a killed process leaves it


def quantize(out: Path) -> Any:
    """The same run each time."""
    test = real_images()
    return zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), recipe=RECIPE, seed=1, out=out, test=test)


def said(attempt: Callable[[], Any]) -> str:
    """The error of something that is refused, with its kind."""
    try:
        attempt()
    except (ValueError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def damage(out: Path, *gone: str) -> None:
    """Rank 0's part of a disaster: the first two shards are cut short, and files are gone."""
    for index in range(2):
        shard = out / "images" / f"batch_{index:05d}.safetensors"
        shard.write_bytes(shard.read_bytes()[:-8])
    (out / LEFT).touch()
    for name in gone:
        (out / name).unlink()


def advance(checkpoint: Path) -> None:
    """Let a checkpoint claim more iterations than there are to do."""
    tensors, metadata = load_tensors(checkpoint)
    metadata = {k: v for k, v in metadata.items() if k != "sha256"}
    save_tensors(checkpoint, tensors, metadata | {"iteration": "99"})


def fail_for_memory(*_: Any) -> NoReturn:
    """What torch says when a GPU is full."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_memory(folder: Path, world: World) -> dict[str, str]:
    """Rank 0 in its first evaluation of a fine-tuned student, then the last rank in a step."""
    found, calls = {}, iter(range(1000))
    before = 2 + RECIPE.finetune.shrink_ranges + bool(RECIPE.reconstruction.iterations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "device_figures", lambda _: MemoryFigures(2**30, 2**31))
        with patch.context() as first:
            evaluate = work.evaluate

            def failing(*given: Any, **more: Any) -> float:
                if next(calls) == before:
                    fail_for_memory()
                return evaluate(*given, **more)

            first.setattr(work, "evaluate", failing)
            found["memory of rank 0"] = said(lambda: quantize(folder / "memory"))
        if world.rank == world.size - 1:
            patch.setattr(ReplayedStep, "__call__", fail_for_memory)
        found["memory of the last"] = said(lambda: quantize(folder / "memory"))
    return found


def every_fault(folder: Path) -> None:
    """What each rank gets, and gets told; the last rank ends first."""
    world, out, found = join(), folder / "run", {}
    images = quantize(out).images.images
    for name, gone in (("finished", ()), ("unfinished", ("result.json", "student.safetensors"))):
        if world.first:
            damage(out, *gone)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = quantize(out).images.images
        assert torch.equal(again, images), name
        found[name] = " ".join(str(w.message) for w in caught if "made again" in str(w.message))
    lock = lock_run(out) if world.first else None
    found["lock"] = said(lambda: quantize(out))
    if lock is not None:
        lock.release()
        (out / "student.safetensors").unlink()
        advance(out / "checkpoints" / "last.safetensors")
    found["checkpoint"] = said(lambda: quantize(out))
    found |= out_of_memory(folder, world)
    torch.save(found, folder / f"faults-{world.rank}.pt")
