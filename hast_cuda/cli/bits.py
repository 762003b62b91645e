"""Bits from the command line: of all layers, of single ones by hand, or chosen within a budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from torch import nn

from hast_cuda.analysis import LayerSensitivity, allocate_bits, read_sensitivity
from hast_cuda.data import InputSpec
from hast_cuda.networks.ends import end_layers
from hast_cuda.nn import Override
from hast_cuda.nn.override import end_overrides
from hast_cuda.run import Bits
from hast_cuda.run.inputs import placed

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "KIB": 2**10, "MIB": 2**20}
Measure = Callable[[], dict[str, LayerSensitivity]]


@dataclass(frozen=True)
class Widths:
    """Bits of all layers, and where quantizers are."""

    weight_bits: int = 4
    """2 to 8."""
    act_bits: int | Literal["none"] = 4
    """2 to 8; none leaves activations in full precision."""
    placement: str = "auto"
    """"relu" (outputs of ReLU and ReLU6 modules, the published code), "all" (the input of every layer),
    "integer" (all that an integer runtime stores: inputs and outputs of sums, concatenations and pools, too) or
    "auto" ("relu" if that reaches every activation, else "all")."""
    sum_bits: int = 8
    """Of what "integer" quantizes beside activations, 2 to 8."""
    first_last_bits: int | None = None
    """Of weights and inputs of the first and the last layer, e.g. 8; the paper quantizes them like the rest."""
    symmetric_weights: bool = False
    """Weights have zero point 0, which some integer runtimes ask for."""
    full_precision: tuple[str, ...] = ()
    """Name patterns of modules to leave alone, e.g. "output" "features.init*"."""

    def bits(self, teacher: nn.Module) -> Bits:
        """Of ``teacher``, with what "auto" is for it; without the layers that have others."""
        activations = None if self.act_bits == "none" else self.act_bits
        every = Bits(self.weight_bits, activations, self.placement, {}, self.sum_bits, self.symmetric_weights)
        return placed(every, teacher)

    def overrides(self, bits: Bits, teacher: nn.Module, spec: InputSpec) -> dict[str, Override]:
        """Of the layers that are named."""
        found: dict[str, Override] = {}
        if self.first_last_bits is not None:
            found = end_overrides(teacher, self.first_last_bits, bits.placement, end_layers(teacher, spec.size))
        return found | {name: Override() for name in self.full_precision}


@dataclass(frozen=True)
class LayerBits:
    """Widths that differ from layer to layer."""

    bits: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """PATTERN=8/4 (weights/activations), PATTERN=8 (both) or PATTERN=none (full precision), for the modules
    whose names match; given again for further ones, of which the last match wins."""
    average_bits: float | None = None
    """Bits per weight on average; every layer gets those that lose least (see --sensitivity)."""
    size: str | None = None
    """The same by the size of all weights, such as 120KB, 1.5MB or 96KiB."""
    average_act_bits: float | None = None
    """With --average-bits or --size: the same for activations, which else have --act-bits."""
    sensitivity: Path | None = None
    """Run directory of hast-cuda analyze sensitivity, or its JSON file; default: measured on --images."""

    def overrides(self, bits: Bits, measure: Measure | None, *, by_hand: bool) -> dict[str, Override]:
        """What was asked for.

        Args:
            bits: of everything else.
            measure: what finds sensitivities; None where there are no images.
            by_hand: whether other options name layers, too.

        Raises:
            ValueError: values that cannot be, or do not go together.
        """
        own = dict(map(parse_bits, self.bits))
        if self.average_bits is None and self.size is None:
            for name in ("average_act_bits", "sensitivity"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for --average-bits and --size: give one of them")
            return own
        if own or by_hand:
            raise ValueError(
                "average_bits and size choose the bits of all layers; bits, first_last_bits and full_precision "
                "name some by hand: give the ones or the others"
            )
        if self.sensitivity is not None:
            path = self.sensitivity
            measure = lambda: read_sensitivity(path / "analysis/sensitivity.json" if path.is_dir() else path)  # noqa: E731
        if measure is None:
            raise ValueError(
                "average_bits and size need to know what each layer loses: give --images of an earlier run or of "
                "hast-cuda synthesize, or --sensitivity with the run of hast-cuda analyze sensitivity"
            )
        return allocate_bits(
            measure(),
            average_bits=self.average_bits,
            size=None if self.size is None else parse_size(self.size),
            average_act_bits=self.average_act_bits,
            act_bits=bits.activations,
            sum_bits=bits.sums,
        )


def parse_bits(text: str) -> tuple[str, Override]:
    """``PATTERN=WEIGHTS/ACTIVATIONS``, ``PATTERN=BOTH`` or ``PATTERN=none``.

    Raises:
        ValueError: another form, or a width that is not 2 to 8; the message repeats ``text``.
    """
    pattern, equals, widths = text.rpartition("=")
    numbers = widths.split("/")
    if not (equals and pattern) or len(numbers) > 2 or not all(re.fullmatch(r"[2-8]|none", n) for n in numbers):
        raise ValueError(
            f"--bits {text}: expected PATTERN=WEIGHTS/ACTIVATIONS, PATTERN=BOTH or PATTERN=none, each width 2 to 8 "
            "or none, e.g. 'stem.*=8/4'"
        )
    weights, activations = (None if n == "none" else int(n) for n in (numbers[0], numbers[-1]))
    return pattern, Override(weights, activations)


def bits_flags(overrides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The options that ask for these overrides, as ``config.json`` has them.

    Raises:
        ValueError: one with bits of a quantizer of its own in front of a layer, for which there is no option.
    """
    flags = []
    for pattern, override in overrides.items():
        if override.get("input_bits") is not None:
            raise ValueError(f"the input of layer {pattern} has bits of its own, for which is no option")
        widths = (override.get("weight_bits"), override.get("act_bits"))
        flags += ["--bits", f"{pattern}={'/'.join('none' if w is None else str(w) for w in widths)}"]
    return flags


def parse_size(text: str) -> int:
    """Bytes of a size such as 120KB (1000 bytes each) or 96KiB (1024); ValueError for another text."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?) ?([KM]?i?B)", text, re.ASCII | re.IGNORECASE)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise ValueError(f"--size {text}: expected a number with B, KB, MB, KiB or MiB, e.g. 120KB")
    return int(float(found[1]) * unit)
