"""What a run was asked for, checked: all but its budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hast_cuda.data import Images, ImageSet, InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe
from hast_cuda.ranks import World
from hast_cuda.run.inputs import Bits
from hast_cuda.run.work import Work


@dataclass(frozen=True)
class Asked:
    """The fields are arguments of :func:`hast_cuda.zero_shot_quantize`."""

    teacher: nn.Module
    shape: InputSpec
    recipe: Recipe
    """With all changes, before any budget."""
    world: World
    execution: Execution
    bits: Bits = field(default_factory=Bits)
    seed: int = 0
    images: Images | None = None
    test: ImageSet | None = None
    out: Path | None = None
    evaluation_batch: int = 256

    def work(self, recipe: Recipe, described: dict[str, Any]) -> Work:
        """The phases, by the numbers of ``recipe``."""
        return Work(
            self.teacher,
            self.shape,
            self.bits,
            recipe,
            described,
            self.seed,
            self.test,
            self.world,
            self.execution,
            self.out,
            self.evaluation_batch,
        )
