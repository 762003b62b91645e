"""Which layer needs which bits, on the page: what ``hast-cuda analyze sensitivity`` and ``allocation`` found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hast_cuda.analysis import Allocation, LayerSensitivity, layers_to_keep, read_sensitivity
from hast_cuda.files.json_values import read_object
from hast_cuda.report.bit_plots import COSTS, draw_bit_curve, draw_layers
from hast_cuda.report.document import Block, Code, Picture, Pictures, Section, Text
from hast_cuda.report.facts import RunFacts

FEW, WIDE, KEPT = 4, 8, 3  # bits where a run says none, bits of those that are kept, and how many


def few_bits(config: Mapping[str, Any]) -> int:
    """Weight bits that a run's ``config.json`` asks for, if they are fewer than 8; else 4."""
    bits = config.get("bits")
    found = bits.get("weights") if isinstance(bits, dict) else None
    return found if isinstance(found, int) and 2 <= found < WIDE else FEW


def kept_at_8(layers: Mapping[str, LayerSensitivity], count: int, bits: int) -> list[str]:
    """In sentences, the layers that are best kept at 8 bits where the others have ``bits``; and the options for it."""
    lines, flags = [], []
    for kind in ("weights", "activations"):
        if not all({bits, WIDE} <= losses.keys() for x in layers.values() if (losses := getattr(x, kind))):
            return [f"{bits} and {WIDE} bits were not both measured."]
        found = layers_to_keep(layers, count, bits=bits, at=WIDE, kind=kind)
        for layer in found:
            more = f", {layer.bytes:,} bytes more" if layer.bytes else ""
            text = f"{layer.name}: {100 * layer.share:.0f} % of what all {kind} lose at {bits} bits{more}"
            lines.append(f"keep {kind} of {text}")
        if kind == "weights":
            flags = [f"--bits '{layer.name}={WIDE}'" for layer in found]
    return [*lines, f"options: {' '.join(flags)}"] if flags else lines


def bits_section(facts: RunFacts, folder: Path) -> Section | None:
    """Pictures, and the layers to keep at 8 bits; None for a run that was not analysed."""
    path = facts.path / "analysis/sensitivity.json"
    if not path.is_file():
        return None
    layers, bits = read_sensitivity(path), few_bits(facts.config)
    *lines, options = kept_at_8(layers, KEPT, bits) or [""]
    blocks: list[Block] = [
        Text(
            "What the network loses where one layer alone is quantized, on the images of analyze sensitivity: "
            "divergence of the class probabilities in nats, or noise in the outputs of a network without classes."
        ),
        *map(Text, lines),
        Code(options),
    ]
    picture = folder / "sensitivity.svg"
    draw_layers(layers, picture)
    pictures = [Picture(picture, "Loss by layer and width, of weights and of activations")]
    for cost in COSTS:
        given = facts.path / "analysis" / ("allocation.json" if cost == "size" else f"allocation-{cost}.json")
        if given.is_file():
            drawn = folder / f"allocation-{cost}.svg"
            draw_bit_curve(_curves(given), drawn, cost=cost)
            pictures.append(Picture(drawn, f"Loss over {COSTS[cost][0]}, bits chosen by layer and uniform"))
    return Section("Which layer needs which bits", [*blocks, Pictures(pictures)])


def _curves(path: Path) -> dict[str, list[Allocation]]:
    found = read_object(path, "make it again with hast-cuda analyze allocation")
    try:
        (curves,) = (value for name, value in found.items() if name.startswith("allocation"))
        return {name: [Allocation(**point) for point in points] for name, points in curves.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no curve ({error!r}): make it again with hast-cuda analyze allocation"
        ) from error
