"""Histograms of weights and activations on the grid that they were put on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.exports.grid import activation_grid, weight_codes
from hast_cuda.loops.modes import hooked
from hast_cuda.networks.outputs import gathered
from hast_cuda.nn import FakeQuantActivation
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops.activations import activate
from hast_cuda.posttraining import prepare
from hast_cuda.report.canvas import drawing, label, plain_log_labels
from hast_cuda.report.document import Picture, Pictures, Section, Text
from hast_cuda.report.facts import RunFacts
from hast_cuda.run import load_student

LAYERS = 6
IMAGES = 64
VALUES = 100_000  # of an activation, evenly spaced; enough for a histogram
BINS = 80


def distributions_section(facts: RunFacts, teacher: nn.Module | None, folder: Path) -> Section | None:
    """Weights and activations of the noisiest layers; None without a network or a student."""
    if facts.recipe is None or teacher is None or not (facts.path / "student.safetensors").exists():
        return None
    student = load_student(teacher, facts.path)
    names = noisiest(student, (facts.result or {}).get("signal_to_noise") or {})
    original = dict(prepare(teacher, facts.recipe.posttraining).named_modules())
    pictures = []
    for index, name in enumerate(names):
        layer = student.get_submodule(name)
        assert isinstance(layer, QuantizedWeight)
        if layer.zero_point == "real":
            continue  # there is no grid of integers to show
        pictures.append(_weights(name, layer, original[name].weight, folder / f"weights-{index}.svg"))
    if facts.images is not None:
        seen = inputs_of(student, facts.images.images[:IMAGES], LAYERS)
        for index, (name, (quantizer, values)) in enumerate(seen.items()):
            pictures.append(_activations(name, quantizer, values, folder / f"activations-{index}.svg"))
    if not pictures:
        return None
    return Section(
        "Distributions",
        [
            Text(
                "Of the layers with the lowest signal-to-noise ratio: weights before quantization in steps of their "
                "channel's grid. Then activations as they reach their quantizers, the most clipped first. Lines are "
                "the values that there are; what lies beyond the outermost is clipped to it."
            ),
            Pictures(pictures),
        ],
    )


def noisiest(student: nn.Module, ratios: Mapping[str, Any]) -> list[str]:
    """Names of the quantized layers with the lowest signal-to-noise ratios, or the first ones."""
    layers = [name for name, module in student.named_modules() if isinstance(module, QuantizedWeight)]
    return sorted(layers, key=lambda name: ratios.get(name, float("inf")))[:LAYERS]


@torch.no_grad()
def inputs_of(student: nn.Module, images: Tensor, most: int) -> dict[str, tuple[FakeQuantActivation, Tensor]]:
    """What reaches the quantizers that clip most, after their activation, as float32 [values] by name."""
    found: dict[str, tuple[FakeQuantActivation, Tensor]] = {}

    def keep(name: str, quantizer: FakeQuantActivation, given: tuple[Tensor, ...]) -> None:
        values = activate(given[0].detach().float(), quantizer.activation).flatten()
        found[name] = quantizer, values[:: -(-len(values) // VALUES)]

    quantizers = [(name, m) for name, m in student.named_modules() if isinstance(m, FakeQuantActivation)]
    with hooked(quantizer.register_forward_pre_hook(partial(keep, name)) for name, quantizer in quantizers):
        gathered(student, images)
    return dict(sorted(found.items(), key=lambda item: -clipped(*item[1]))[:most])


def clipped(quantizer: FakeQuantActivation, values: Tensor) -> float:
    """Share of the values that lie beyond the range."""
    return float(((values < quantizer.lower) | (values > quantizer.upper)).double().mean())


def _weights(name: str, layer: QuantizedWeight, original: Tensor, path: Path) -> Picture:
    grid = weight_codes(layer, name).grid
    shape = [-1] + [1] * (original.dim() - 1)
    codes = original.detach().cpu() / grid.step.reshape(shape) + grid.zero_point.reshape(shape)
    last = 2**grid.bits - 1
    _draw(codes.flatten(), range(last + 1), f"{label(name)}: weights, {grid.bits} bits", "code", path)
    return Picture(path, f"Histogram of the weights of {name} on their grid of {last + 1} codes")


def _activations(name: str, quantizer: FakeQuantActivation, values: Tensor, path: Path) -> Picture:
    grid = activation_grid(quantizer, name)
    step, zero = float(grid.step), int(grid.zero_point)
    levels = [step * (code - zero) for code in range(2**grid.bits)]
    share = 100 * clipped(quantizer, values)
    _draw(values, levels, f"{label(name)}: {grid.bits} bits, {share:.2f} % clipped", "value", path)
    return Picture(path, f"Histogram of the activations at {name}, of which {share:.2f} % are clipped")


def _draw(values: Tensor, levels: Sequence[float], title: str, axis_label: str, path: Path) -> None:
    """A histogram on a log scale over the lines of a grid, or over its ends where lines would be a surface."""
    counts, edges = torch.histogram(values.float(), BINS)
    lines = levels if len(levels) <= 32 else (levels[0], levels[-1])
    with drawing(path, size=(5, 2.8)) as ((axis,),):
        axis.stairs(counts.numpy(), edges.numpy(), fill=True)
        for level in lines:
            axis.axvline(level, color="C1", linewidth=0.8)
        axis.set(yscale="log", xlabel=axis_label, ylabel="values")
        plain_log_labels(axis.yaxis)
        axis.set_title(title, fontsize=10)
