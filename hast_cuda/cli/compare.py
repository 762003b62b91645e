"""``hast-cuda compare``: several methods on one network, by accuracy or by agreement."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from hast_cuda.cli.bits import LayerBits, Widths
from hast_cuda.cli.network import ANY_NETWORK, Network
from hast_cuda.cli.options import Budget, Flat, Method, Preset, Task
from hast_cuda.cli.quantize import wanted_of
from hast_cuda.files.whole import write_json
from hast_cuda.finetune import agreement
from hast_cuda.finetune.batches import hold_out
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.progress import duration
from hast_cuda.report import write_comparison
from hast_cuda.run import QuantizationResult, read_recipe
from hast_cuda.run.directory import plain
from hast_cuda.run.summary import standard_error


@dataclass(frozen=True)
class Row:
    """What a method came to."""

    method: str
    seconds: float | None
    """Of the whole run; None: its loss was not finite."""
    top1: float | None = None
    """Percent, on test images."""
    standard_error: float | None = None
    """Of top1."""
    same_class: float | None = None
    """Percent of synthetic images, held out, to which it gives the original's class."""
    divergence: float | None = None
    """From the original on these images, in nats."""

    def cells(self) -> list[str]:
        """As text."""
        if self.seconds is None:
            return [self.method, "diverged", "-", "-", "-"]
        top1 = "-" if self.top1 is None else f"{self.top1:.2f} +- {self.standard_error:.2f}"
        same = "-" if self.same_class is None else f"{self.same_class:.1f}"
        far = "-" if self.divergence is None else f"{self.divergence:.3f}"
        return [self.method, top1, same, far, duration(self.seconds)]


def compare(
    out: Path,
    network: Annotated[Network, Flat] = ANY_NETWORK,
    methods: tuple[Method, ...] = ("rtn", "squant", "hast"),
    widths: Annotated[Widths, Flat] = Widths(),
    data: str | None = None,
    test_limit: int | None = None,
    budget: str | None = None,
    preset: Preset = "default",
    seed: int = 0,
    device: str = "auto",
    set: tuple[str, ...] = (),
    execution: Annotated[Execution, Flat] = Execution(),
) -> list[dict[str, Any]]:
    """Quantize one network by several methods, and say which is best on it.

    Each has a run directory, OUT/METHOD, of which nothing is done twice. Without test images methods are
    compared by their agreement with the original, on the synthetic images held out of the last run that has
    some: its own method has not been trained on them, but on images like them.

    Args:
        out: directory of all runs, of compare.json and of the page comparison.html.
        network: the full-precision network.
        methods: published methods, as for quantize.
        widths: bits.
        data: labelled test images, as for quantize.
        test_limit: use only this many test images.
        budget: of each method, as for quantize.
        preset: as for quantize.
        seed: of everything random.
        device: as for quantize.
        set: any other value of the methods that train, as for quantize.
        execution: how to compute.
    """
    if "real_data" in methods:
        raise ValueError("real_data needs training images: use hast-cuda quantize --method real_data --train-data")
    made: dict[str, QuantizationResult | None] = {}
    spec = network.spec()
    for method in methods:
        asked = Budget(method=method, preset=preset, budget=budget, seed=seed, device=device)
        if asked.recipe(spec).images != "none":
            asked = replace(asked, set=set)
        task = Task(out / method, network, asked, execution)
        wanted = wanted_of(task, widths, LayerBits(), data, test_limit, None, None)
        try:
            made[method] = wanted.quantized()
        except FloatingPointError as error:  # a finding about this method alone
            print(f"{method}: {error}")
            made[method] = None
    held_out = _held_out([done for done in made.values() if done is not None])
    rows = [_row(method, done, held_out) for method, done in made.items()]
    header = ["method", "top-1, %", "same class, %", "KL, nats", "time"]
    lines = [header, *(row.cells() for row in rows)]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\n".join("  ".join(map(str.ljust, line, wide)).rstrip() for line in lines))
    found: list[dict[str, Any]] = plain(rows)
    write_json(out / "compare.json", found)
    runs = [done.run for done in made.values() if done is not None and done.run is not None]
    if len(runs) > 1 and importlib.util.find_spec("matplotlib") is not None:
        print(f"page: {write_comparison(runs, out / 'comparison.html')}")
    return found


def _held_out(made: list[QuantizationResult]) -> Tensor | None:
    """Images that no step of the run that made them has seen, of the last one that has some."""
    for done in reversed(made):
        if done.images is not None and done.run is not None:
            fraction = read_recipe(done.run).finetune.held_out
            found = hold_out(done.images.images, done.images.labels, fraction)[2]
            if found is not None:
                return found
    return None


def _row(method: str, done: QuantizationResult | None, held_out: Tensor | None) -> Row:
    if done is None:
        return Row(method, None)
    top1, count = done.result["quantized"], done.result["num_test_images"]
    error = None if top1 is None else standard_error(top1, count)
    seconds = sum(done.result["seconds"].values())
    if held_out is None:
        return Row(method, seconds, top1, error)
    place = next(done.student.parameters()).device
    found = agreement(done.teacher.to(place), done.student, held_out.to(place))
    return Row(method, seconds, top1, error, found.same_class, found.divergence)
