"""Runs the rows of a table, each in its run directory; what is finished is not run again. What a figure consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda.data import Images, ImageSet, InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe, change, recipe
from hast_cuda.methods.budget import apply_budget
from hast_cuda.ranks import World
from hast_cuda.reproduce.tables import Row
from hast_cuda.run import Bits, QuantizationResult, zero_shot_quantize
from hast_cuda.run.directory import plain
from hast_cuda.synthesis import ImageStore, SynthesisConfig, synthesize


@dataclass(frozen=True)
class Setting:
    """What all rows of one table have in common."""

    teacher: nn.Module
    model: str
    """Its name, for the page."""
    shape: InputSpec
    dataset: str
    bits: int
    preset: str
    budget: str
    out: Path
    test: ImageSet
    train: Images | None
    """Real training images, for the rows that use them."""
    describe: dict[str, Any]
    """Entries of every run's ``config.json``: the network and its weights."""
    activation_bits: int | None = None
    """Where activations have others than weights."""
    placement: str = "relu"
    """Of the activation quantizers."""
    execution: Execution = Execution()
    world: World = field(default_factory=World)
    """Processes that share the work, each on its device."""

    @property
    def bits_of_both(self) -> Bits:
        """Of weights and activations."""
        activations = self.bits if self.activation_bits is None else self.activation_bits
        return Bits(self.bits, activations, self.placement)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.world.device


@dataclass
class Outcome:
    """The results of one row, a dict (``result.json``) per seed; or why there are none."""

    row: Row
    results: list[dict[str, Any]]
    absent: str | None = None
    diverged: dict[int, str] = field(default_factory=dict)
    """By seed, why a run has no result: its loss was not finite."""


def recipe_of(row: Row, setting: Setting) -> Recipe:
    """The recipe of a row: its method's preset, changed, at the budget."""
    found = apply_budget(
        change(recipe(row.method, setting.preset, setting.dataset), row.changes), setting.budget, setting.dataset
    )
    count = max(1, round(found.synthesis.num_images * row.image_share))
    return change(found, {"synthesis.num_images": count})


def image_key(teacher: nn.Module, shape: InputSpec, config: SynthesisConfig, seed: int) -> str:
    """Hash of all that determines a set of synthetic images on one kind of device."""
    digest = hashlib.sha256()
    for name, tensor in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    values = plain({"shape": shape.shape(), "synthesis": config, "seed": seed})
    digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def images_for(chosen: Recipe, setting: Setting, seed: int) -> tuple[Images | None, str | None]:
    """The images that a recipe trains on, and their folder as seen from that of a run.

    Rows with equal synthesis share one set on disk.
    """
    if chosen.images == "real":
        return setting.train, None
    if chosen.images != "synthetic":
        return None, None
    key = image_key(setting.teacher, setting.shape, chosen.synthesis, seed)
    name = f"images/{key}-{setting.device.type}"
    found = synthesize(
        setting.teacher,
        setting.shape,
        chosen.synthesis,
        seed=seed,
        device=setting.device,
        store=ImageStore(setting.out / name),
        execution=setting.execution,
        world=setting.world,
    )
    return found, f"../../{name}"


def run_folder(row: Row, setting: Setting, seed: int) -> Path:
    """Where the run of one row and seed is kept."""
    name = f"{_file_name(row.name)}-{widths(setting.bits, setting.activation_bits)}-seed{seed}"
    return setting.out / "runs" / name


def widths(bits: int, activation_bits: int | None) -> str:
    """As folders are named: w4, or w4a8 where activations have others than weights."""
    return f"w{bits}" if activation_bits in (None, bits) else f"w{bits}a{activation_bits}"


def missing(chosen: Recipe, setting: Setting) -> str | None:
    """Why a recipe cannot be run here, or None."""
    if chosen.images == "real" and setting.train is None:
        return "no training images given (--train-data)"
    return None


def run_seed(row: Row, chosen: Recipe, setting: Setting, seed: int) -> QuantizationResult:
    """One run of a row; a finished one is read."""
    images, folder = images_for(chosen, setting, seed)
    return zero_shot_quantize(
        setting.teacher,
        setting.shape,
        setting.bits_of_both,
        recipe=chosen,
        seed=seed,
        images=images,
        out=run_folder(row, setting, seed),
        test=setting.test,
        execution=setting.execution,
        world=setting.world,
        describe={
            "method": row.method,
            "row": row.name,
            "preset": setting.preset,
            "budget": setting.budget,
            "images": folder,
            **setting.describe,
        },
    )


def run_row(row: Row, setting: Setting, seeds: Sequence[int], say: Callable[[str], None]) -> Outcome:
    """All seeds of one row. A run whose loss is not finite is a finding, and ends only itself."""
    chosen = recipe_of(row, setting)
    absent = missing(chosen, setting)
    if absent is not None:
        return Outcome(row, [], absent)
    outcome = Outcome(row, [])
    for seed in seeds:
        say(f"{row.name}, seed {seed}: {run_folder(row, setting, seed)}")
        try:
            outcome.results.append(run_seed(row, chosen, setting, seed).result)
        except FloatingPointError as error:
            say(f"{row.name}, seed {seed}: {error}")
            outcome.diverged[seed] = str(error).partition(". ")[0]
    if not outcome.results:
        outcome.absent = "diverged"
    return outcome


def _file_name(name: str) -> str:
    """``name`` with everything but letters, digits and "._-" replaced, different for each name."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


Say = Callable[[str], None]


@dataclass(frozen=True)
class Drawing:
    """One figure of the paper, measured."""

    header: tuple[str, ...]
    """Of the table that goes with it."""
    lines: list[list[str]]
    """Its cells."""
    data: dict[str, Any]
    """All that was measured, for JSON."""
    pictures: dict[str, Callable[[Path], None]]
    """By file name; each draws one."""
    notes: list[str] = field(default_factory=list)
    """What to know when reading it."""


Measure = Callable[[Sequence[Row], Setting, Sequence[int], Say], Drawing]
