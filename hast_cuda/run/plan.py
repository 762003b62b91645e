"""Which numbers a run has: those given, those of its directory, or those of a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hast_cuda.files.json_values import read_object
from hast_cuda.loops.progress import duration, tell
from hast_cuda.methods import Recipe, change
from hast_cuda.methods.budget import apply_budget, seconds_of
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.ranks import World
from hast_cuda.run.estimate import Estimate, estimated
from hast_cuda.run.fitted import (
    BATCH,
    BLOCKS,
    IMAGES,
    ITERATIONS,
    STEPS,
    Fit,
    Sizes,
    free_numbers,
    rounded_up,
    value_of,
)
from hast_cuda.run.fitted import with_small_batches as small_batches
from hast_cuda.run.inputs import Asked
from hast_cuda.run.trial import measure

ON_A_CPU = "10m"  # without a word about it
CHOSEN = (
    *(IMAGES, ITERATIONS, BATCH, BLOCKS, STEPS, "reconstruction.batch_size", "finetune.batch_size"),
    *("finetune.calibration_batch_size", "finetune.calibration_updates", "finetune.evaluations", "generator.warmup"),
)
"""All that a budget may set."""


@dataclass(frozen=True)
class Plan:
    """What is done."""

    recipe: Recipe
    budget: str | None
    """For ``config.json``; None: no budget chose anything."""
    estimate: Estimate | None
    """None where nothing was measured."""


def make_plan(
    asked: Asked,
    budget: str | None,
    changes: Mapping[str, Any],
    *,
    named: bool = True,
    student: bool = True,
    estimate: bool = False,
) -> Plan:
    """The same on every process; rank 0 finds it. ``changes`` stay whatever the budget.

    Without a budget: the numbers of the directory if there is one, all numbers of a recipe that was given, and of a
    preset (``named``) the full ones on a GPU, what fits :data:`ON_A_CPU` on a CPU. Without ``student`` only images are
    made; ``estimate`` measures in any case. ValueError: an unknown budget, or a time in which nothing sensible fits.
    """
    if budget is not None:
        seconds_of(budget)
    sizes = Sizes(
        None if asked.images is None else len(asked.images),
        0 if asked.test is None else len(asked.test),
        asked.world.size,
        student,
    )
    maker = _Maker(asked, changes, sizes)

    def find() -> tuple[Plan, dict[str, Any]]:
        plan = maker(budget, named=named, estimate=estimate)
        found = {name: value_of(plan.recipe, name) for name in CHOSEN}
        return plan, {name: value for name, value in found.items() if value != value_of(asked.recipe, name)}

    plan, numbers = asked.world.on_first(find)
    # the rest is each process's own, so that what differs is refused and not replaced
    return replace(plan, recipe=change(asked.recipe, numbers))


@dataclass(frozen=True)
class _Maker:
    asked: Asked
    changes: Mapping[str, Any]
    sizes: Sizes

    def __call__(self, budget: str | None, *, named: bool, estimate: bool) -> Plan:
        there = _config(self.asked.out)
        if there is not None:  # measuring again would give another run
            recipe = self._continued(there) if named or budget else self.asked.recipe
            return self._as_it_is(recipe, budget or there.get("budget"), estimate=estimate)
        if budget is None and not (named and free_numbers(self.asked.recipe, self.sizes, self.changes)):
            return self._as_it_is(self.asked.recipe, None, estimate=estimate)
        on_cpu = self.asked.world.device.type == "cpu"
        wanted = budget or (ON_A_CPU if on_cpu else "full")
        seconds = seconds_of(wanted)
        if seconds is None:
            recipe = change(apply_budget(self.asked.recipe, wanted, dataset_like(self.asked.shape)), self.changes)
            return self._as_it_is(recipe, wanted, estimate=True)
        return self._fitted(wanted, seconds, default=budget is None)

    def _continued(self, config: Mapping[str, Any]) -> Recipe:
        """The numbers of a run that a budget was given for, but those that are given now."""
        if "budget" not in config:
            return self.asked.recipe
        parts = config.get("recipe", config)
        found: dict[str, Any] = {}
        for name in CHOSEN:
            section, _, field = name.partition(".")
            value = part.get(field) if isinstance(part := parts.get(section), dict) else None
            if value is not None and name not in self.changes:
                found[name] = value
        return change(self.asked.recipe, found)

    def _as_it_is(self, recipe: Recipe, budget: str | None, *, estimate: bool) -> Plan:
        found = None
        if estimate:
            measured = measure(self.asked, recipe, self.sizes)
            found = estimated(measured, recipe, self.sizes, budget=budget, device=self._device())
        return Plan(recipe, budget, found)

    def _fitted(self, budget: str, seconds: float, *, default: bool) -> Plan:
        asked = self.asked
        small = small_batches(asked.recipe, asked.shape, self.changes)
        measured = measure(asked, small, self.sizes)
        fit, note = Fit(asked.recipe, small, measured.costs, self.sizes, set(self.changes)), ""
        if (least := fit.least()) > seconds:
            enough = rounded_up(least)
            if not default:
                raise ValueError(
                    f"budget is {budget!r}, and the smallest run that makes sense here takes {duration(least)}: "
                    f"give {enough!r} or more, or the numbers themselves"
                )
            budget, seconds = enough, float(seconds_of(enough) or 0)
        if default:
            full = sum(measured.costs.seconds(asked.recipe, self.sizes).values())
            note = (
                f"no budget was given: on a CPU what fits about {budget} is done, the full one would take about "
                f"{duration(full)} (--budget, or budget=: full, small, N%, a time)"
            )
        recipe = fit.within(seconds)
        found = estimated(measured, recipe, self.sizes, budget=budget, device=self._device(), note=note)
        return Plan(recipe, budget, found)

    def _device(self) -> str:
        world = self.asked.world
        return str(world.device) if world.size == 1 else f"{world.size} x {world.device}"


def _config(out: Path | None) -> dict[str, Any] | None:
    """What a run directory was made for."""
    path = None if out is None else out / "config.json"
    if path is None or not path.exists():
        return None
    return read_object(path, "delete the directory or give another --out")


def told(plan: Plan, world: World) -> Plan:
    """``plan``, after the first of the processes has shown its estimate."""
    if plan.estimate is not None and world.first:
        tell(str(plan.estimate))
    return plan
