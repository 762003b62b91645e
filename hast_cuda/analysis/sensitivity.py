"""How much a network loses where one layer alone is quantized: its weights, or its activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.analysis.second_order import weight_curvature
from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.checks.values import as_device, as_path, check_images, check_range, check_values, explained_forward
from hast_cuda.files.json_values import read_object
from hast_cuda.finetune.agreement import divergence
from hast_cuda.loops.modes import hooked
from hast_cuda.loops.progress import Progress
from hast_cuda.networks.outputs import gathered, noise_shares
from hast_cuda.nn import FakeQuantActivation, calibrate, quantization_table, quantize, shrink_ranges
from hast_cuda.nn.around import around
from hast_cuda.nn.calibrate import SEARCH_IMAGES
from hast_cuda.nn.layers import quantizers_aside
from hast_cuda.nn.quantized_weight import QuantizedWeight, quantized_weights
from hast_cuda.reconstruction.rounding import search_weight_range

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
BATCH = 64
LARGEST = 2**62  # of a count
_Group = tuple[tuple[str, ...], list[FakeQuantActivation]]  # other names, and all quantizers
_Ranges = dict[int, dict[nn.Module, Tensor]]  # by width and quantizer
BY_WIDTH = ("weights", "activations", "second_order", "seconds")  # fields with a number for every width
_ACTIVATIONS, _SUMS = 2, 3  # widths that tell both kinds of quantizer apart, before any is measured


@dataclass(frozen=True)
class LayerSensitivity:
    """Of one module: what :func:`hast_cuda.nn.Override` with its name sets.

    Example:
        >>> LayerSensitivity(weights={2: 0.5, 8: 0.0}, parameters=144, multiplications=9216).values
        0
    """

    weights: dict[int, float] = field(default_factory=dict)
    """Loss by the width of its weights; empty: it has none. See :func:`sensitivity`."""
    activations: dict[int, float] = field(default_factory=dict)
    """The same by the width of its quantizers, those in front of it and behind it together."""
    parameters: int = 0
    """Weights."""
    multiplications: int = 0
    """Of its weights with inputs, for one image."""
    values: int = 0
    """That its quantizers are given for one image."""
    sums: bool = False
    """One of its quantizers has the bits of sums, see placement "integer"."""
    joined: tuple[str, ...] = ()
    """Other modules on the same grid: they have its width."""
    second_order: dict[int, float] = field(default_factory=dict)
    """Estimate of ``weights`` from gradients alone."""
    seconds: dict[int, float] = field(default_factory=dict)
    """Of its steps in the engine, for one image on one thread, by the width of its weights; empty: not measured."""

    def __post_init__(self) -> None:
        """Refuse widths, losses and counts that cannot be."""
        check_fields(self)
        for kind in BY_WIDTH:
            for width, loss in getattr(self, kind).items():
                _checks.bit_width("a width", width)
                check_range(f"{kind} at {width} bits", loss, 0)
        for name in ("parameters", "multiplications", "values"):
            check_range(name, getattr(self, name), 0, LARGEST)


@typed
@torch.no_grad()
def sensitivity(
    teacher: nn.Module,
    images: Tensor,
    *,
    bits: Sequence[int] = WIDTHS,
    placement: str = "auto",
    symmetric_weights: bool = False,
    search: bool = True,
    device: torch.device | str = "cpu",
) -> dict[str, LayerSensitivity]:
    """What every layer costs at every width, all others in full precision.

    Measured is the Kullback-Leibler divergence of the class probabilities from those of the
    full-precision network, in nats, a mean over the images; of a network that gives no logits [N, classes]
    the squared distance of its outputs as a share of their squares, a mean over its tensors. Nothing is
    trained. ``second_order`` estimates the same for weights by one backward pass, of all layers and widths.

    Args:
        teacher: float32 [N, C, H, W] -> logits [N, classes], or any tensors; copied, run in eval mode.
        images: [N, C, H, W], normalised; activation ranges are calibrated on them.
        bits: widths, 2 to 8.
        placement: as for :func:`hast_cuda.quantize`.
        symmetric_weights: as for :func:`hast_cuda.quantize`.
        search: ranges of the smallest rounding error (as reconstruction and the range search take
            them), not minimum and maximum.
        device: where to compute.

    Returns:
        By module name, in the network's order. ReLU modules that become quantizers have activations
        alone, with ``placement="all"`` every layer has both.

    Raises:
        ValueError: no images, no width, a width out of range; and as :func:`hast_cuda.quantize`.

    Example:
        >>> import hast_cuda as hc
        >>> found = hc.sensitivity(hc.load_teacher("digits"), torch.randn(8, 1, 8, 8), bits=(2, 8))
        >>> found["output"].weights[2] > found["output"].weights[8]
        True
    """
    check_values("teacher", teacher)
    check_images("images", images)
    check_range("the number of bits", len(bits), 1)
    for width in bits:
        _checks.bit_width("bits", width)
    where, both = as_device(device), {"placement": placement, "symmetric_weights": symmetric_weights}
    copied = quantize(teacher, 8, _ACTIVATIONS, sum_bits=_SUMS, **both).to(where)  # type: ignore[arg-type]
    parts = _Parts(copied, search=search)
    with quantizers_aside(copied):
        return parts.measure(images.to(where), sorted(set(bits)))


@typed
def read_sensitivity(path: Path | str) -> dict[str, LayerSensitivity]:
    """What ``hast-cuda analyze sensitivity`` wrote: ``RUN/analysis/sensitivity.json``.

    Raises:
        FileNotFoundError: there is none. ValueError: the file is damaged, or another one.

    Example:
        >>> import json
        >>> layer = {"weights": {"2": 0.5, "8": 0.0}, "parameters": 144}
        >>> written = open("sensitivity.json", "w")
        >>> _ = written.write(json.dumps({"sensitivity": {"stem": layer}}))
        >>> written.close()
        >>> read_sensitivity("sensitivity.json")["stem"].weights
        {2: 0.5, 8: 0.0}
    """
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: make it with hast-cuda analyze sensitivity")
    found = read_object(path, "make it again with hast-cuda analyze sensitivity")
    try:
        layers = found["sensitivity"]
        return {name: _layer(values) for name, values in layers.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{path} holds no sensitivity ({error!r}): make it with hast-cuda analyze sensitivity"
        raise ValueError(message) from error


def _layer(values: dict[str, Any]) -> LayerSensitivity:
    """From JSON, which has no whole numbers for keys and no tuples."""
    losses = {kind: {int(w): loss for w, loss in values.get(kind, {}).items()} for kind in BY_WIDTH}
    return LayerSensitivity(**{**values, **losses, "joined": tuple(values.get("joined", ()))})


class _Parts:
    """A quantized copy of a network with everything switched off, one part after the other switched on."""

    def __init__(self, copied: nn.Module, *, search: bool) -> None:
        self.model, self.search = copied.eval(), search
        rows = quantization_table(self.model).rows
        self.order = list(dict.fromkeys(row.name for row in rows))
        self.layers: dict[str, Any] = {r.name: self.model.get_submodule(r.name) for r in rows if r.weight_bits}
        self.groups = _groups({r.name: _quantizers(self.model.get_submodule(r.name)) for r in rows if r.act_bits})
        self.quantizers = {q for _, found in self.groups.values() for q in found}
        self.sums = {q: q.bits == _SUMS for q in self.quantizers}

    def measure(self, images: Tensor, widths: Sequence[int]) -> dict[str, LayerSensitivity]:
        ranges = self._calibrated(images, widths)
        expected, counts = gathered(self.model, images), self._counts(images[:1])
        curvature = weight_curvature(self.model, self.layers, images)
        moved: dict[str, dict[int, float]] = {name: {} for name in self.layers}
        with Progress("sensitivity", len(widths) * (len(self.layers) + len(self.groups))) as progress:

            def loss(width: int, parts: Sequence[nn.Module]) -> float:
                for part in parts:
                    self._set_width(part, width, ranges)
                    _switch(part, on=True)
                found = _loss(expected, gathered(self.model, images))
                for part in parts:
                    _switch(part, on=False)
                progress.update()
                return found

            weights: dict[str, dict[int, float]] = {name: {} for name in self.layers}
            for name, layer in self.layers.items():
                for width in widths:
                    weights[name][width] = loss(width, [layer])
                    distance = (quantized_weights([layer])[0] - layer.weight).double().square()  # at this width still
                    moved[name][width] = float((curvature[name] * distance).sum())
            activations = {name: {w: loss(w, parts) for w in widths} for name, (_, parts) in self.groups.items()}
        found = {}
        for name in self.order:
            if name in weights or name in activations:
                joined, quantizers = self.groups.get(name, ((), []))
                layer = self.layers.get(name)
                found[name] = LayerSensitivity(
                    weights.get(name, {}),
                    activations.get(name, {}),
                    0 if layer is None else layer.weight.numel(),
                    counts.get(layer, 0),
                    sum(counts.get(q, 0) for q in quantizers),
                    any(self.sums[q] for q in quantizers),
                    joined,
                    moved.get(name, {}),
                )
        return found

    def _calibrated(self, images: Tensor, widths: Sequence[int]) -> _Ranges:
        """Ranges of all quantizers at every width; before and afterwards everything is off."""
        for quantizer in self.quantizers:
            quantizer.bits = 8
            _switch(quantizer, on=True)
        calibrate(self.model, images.split(BATCH))
        for quantizer in self.quantizers:
            _switch(quantizer, on=False)
        given = {q: q.range_state[:2].clone() for q in self.quantizers}
        ranges: _Ranges = {}
        for width in widths:
            for quantizer in self.quantizers:
                quantizer.bits = width
                quantizer.set_range(*given[quantizer])
            if self.search:  # what is off gives full precision to the next search
                shrink_ranges(self.model, images[:SEARCH_IMAGES])
            ranges[width] = {q: q.range_state[:2].clone() for q in self.quantizers}
        return ranges

    def _set_width(self, part: nn.Module, width: int, ranges: _Ranges) -> None:
        if isinstance(part, FakeQuantActivation):
            part.bits = width
            part.set_range(*ranges[width][part])
        elif isinstance(part, QuantizedWeight):
            part.weight_bits = width
            if self.search:
                part.fix_weight_range(search_weight_range(part.weight, width, symmetric=part.symmetric))
            elif part.symmetric:
                part.fix_symmetric_range()

    def _counts(self, image: Tensor) -> dict[Any, int]:
        """Multiplications of layers and values of quantizers, of one image [1, C, H, W]."""
        counts: dict[Any, int] = {}

        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            more = output.numel() * module.weight[0].numel() if isinstance(module, QuantizedWeight) else args[0].numel()
            counts[module] = counts.get(module, 0) + more

        counted = (*self.layers.values(), *self.quantizers)
        with hooked(m.register_forward_hook(count) for m in counted), explained_forward("images", image):
            self.model(image)
        return counts


def _quantizers(module: nn.Module) -> list[FakeQuantActivation]:
    """That a module is, or has around itself."""
    return [module] if isinstance(module, FakeQuantActivation) else list(around(module).values())


def _groups(owners: dict[str, list[FakeQuantActivation]]) -> dict[str, _Group]:
    """By the first name: owners that share a quantizer have one width."""
    order, groups = list(owners), list[list[str]]()
    for name, own in owners.items():
        touching = [group for group in groups if any(set(owners[other]) & set(own) for other in group)]
        merged = sorted({name, *(other for group in touching for other in group)}, key=order.index)
        groups = [*(group for group in groups if group not in touching), merged]
    return {
        first: (tuple(others), list(dict.fromkeys(q for name in (first, *others) for q in owners[name])))
        for first, *others in groups
    }


def _switch(part: Any, *, on: bool) -> None:
    """Set a quantizer to work or aside, or give a layer its quantized weights or those in full precision."""
    if isinstance(part, FakeQuantActivation):
        part.set_aside = not on
    else:
        part.cached_weight = None if on else part.weight.detach()


def _loss(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Divergence of logits, else the mean noise of the outputs."""
    if list(expected) == [""] and expected[""].dim() == 2:
        return divergence(expected[""], found[""])
    shares = noise_shares(expected, found)
    return sum(shares.values()) / len(shares)
