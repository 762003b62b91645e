"""Blocks that are done, in one safetensors file, for a run that goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.files.tensors import load_tensors, restore, save_tensors
from hast_cuda.loops.optimizer_state import separate


@dataclass(frozen=True)
class BlockError:
    """How far a block's output is from the teacher's, as a share of the energy of the teacher's.

    Example:
        >>> BlockError("layer1.0", before=0.04, after=0.01).after
        0.01
    """

    name: str
    """Of the block."""
    before: float
    """Sum of squares of the difference over that of the teacher's map, as the student came."""
    after: float
    """The same after reconstruction, never larger."""


class ReconstructionFile:
    """Keeps the student after every block; the file is whole or the old one.

    Example:
        >>> from pathlib import Path
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> ReconstructionFile(Path("none.safetensors")).load(student)
        []
    """

    @typed
    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, student: nn.Module, done: list[BlockError]) -> None:
        """Replace the file by the present state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(self.path, separate(student.state_dict()), {"done": json.dumps([asdict(block) for block in done])})

    def load(self, student: nn.Module) -> list[BlockError]:
        """Blocks that are done, whose weights and ranges ``student`` gets; ValueError if it does not fit."""
        if not self.path.exists():
            return []
        try:
            tensors, metadata = load_tensors(self.path)
            restore(student, tensors)
            return [BlockError(**block) for block in json.loads(metadata["done"])]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"checkpoint {self.path} does not fit this run or is corrupt ({error}); "
                "delete it to start reconstruction again"
            ) from error
