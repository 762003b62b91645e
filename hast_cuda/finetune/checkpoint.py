"""State of an unfinished fine-tuning run in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hast_cuda.files.tensors import load_tensors, restore, save_tensors
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops import optimizer_state as _state

# before the names of the tensors of each
STUDENT, OPTIMIZER, GENERATOR = "student.", "optimizer.", "generator."
CLOSEST, AVERAGE = "closest.", "average."


@dataclass
class Checkpoint:
    """Finished iterations, and what was seen so far."""

    iteration: int
    accuracies: list[tuple[int, float]]
    """(iteration, top-1 in percent)."""
    agreements: list[tuple[int, float, float, float]] = field(default_factory=list)
    """(iteration, divergence, same class in percent, divergence on their parts) on the images held out."""
    units: list[float] = field(default_factory=list)
    """Of the loss's terms, where they are balanced."""
    closest: dict[str, Tensor] = field(default_factory=dict)
    """The state of the student that was closest to its teacher, where it is remembered."""
    restarts: int = 0
    """How often training began again."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """Means of the parameters, once they are averaged."""


class CheckpointFile:
    """Keeps student, optimizer, generator and progress; the file is whole or the old one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self,
        state: Checkpoint,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: GeneratorTrainer | None = None,
    ) -> None:
        """Replace the file by the present state."""
        tensors = _state.prefixed(student.state_dict(), STUDENT)
        tensors |= _state.prefixed(_state.optimizer_state(optimizer), OPTIMIZER)
        if generator is not None:
            tensors |= _state.prefixed(generator.state(), GENERATOR)
        tensors |= _state.prefixed(state.closest, CLOSEST) | _state.prefixed(state.average, AVERAGE)
        metadata = {"iteration": str(state.iteration), "accuracies": json.dumps(state.accuracies)}
        metadata |= {"agreements": json.dumps(state.agreements), "units": json.dumps(state.units)}
        metadata |= {"restarts": str(state.restarts)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(self.path, _state.separate(tensors), metadata)

    def load(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, generator: GeneratorTrainer | None = None
    ) -> Checkpoint:
        """Restore into all that is given; the start of a run without a file, ValueError if it does
        not fit."""
        if not self.path.exists():
            return Checkpoint(0, [])
        try:
            tensors, metadata = load_tensors(self.path)
            for name in tensors:
                if not name.startswith((STUDENT, OPTIMIZER, GENERATOR, CLOSEST, AVERAGE)):
                    raise ValueError(f"unknown {name}")
            restore(student, _state.without_prefix(tensors, STUDENT))
            if generator is not None:
                generator.load_state(_state.without_prefix(tensors, GENERATOR))
            accuracies = [(int(i), float(a)) for i, a in json.loads(metadata["accuracies"])]
            looks = json.loads(metadata.get("agreements", "[]"))
            seen = [(int(i), float(d), float(s), float(b)) for i, d, s, b in looks]
            units = [float(unit) for unit in json.loads(metadata.get("units", "[]"))]
            closest, average = (_state.without_prefix(tensors, prefix) for prefix in (CLOSEST, AVERAGE))
            restarts = int(metadata.get("restarts", "0"))
            state = Checkpoint(int(metadata["iteration"]), accuracies, seen, units, closest, restarts, average)
            if state.iteration < 0 or restarts < 0:
                raise ValueError(f"iteration {state.iteration}")
            _state.load_optimizer_state(optimizer, _state.without_prefix(tensors, OPTIMIZER))
        except (KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"checkpoint {self.path} does not fit this run or is corrupt ({error}); "
                "delete it to start fine-tuning again"
            ) from error
        return state
