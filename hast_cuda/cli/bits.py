"""Bits from the command line: of all layers, of single ones by hand, or chosen within a budget."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from torch import Tensor, nn

from hast_cuda.analysis import (
    LayerSensitivity,
    allocate_bits,
    allocate_within_drop,
    read_sensitivity,
    sensitivity,
    with_engine_seconds,
)
from hast_cuda.data import InputSpec
from hast_cuda.networks.ends import end_layers
from hast_cuda.nn import Override
from hast_cuda.nn.override import end_overrides
from hast_cuda.ranks import World
from hast_cuda.run import Bits
from hast_cuda.run.inputs import placed

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "KIB": 2**10, "MIB": 2**20}
BUDGETS = ("average_bits", "size", "bit_operations", "time", "max_drop")


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
    """Of what "integer" quantizes beside activations, and of what no activation gave under "all", 2 to 8."""
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
    whose names match; given again for further ones, of which the last match wins. @FILE: a line for each."""
    average_bits: float | None = None
    """Bits per weight on average; every layer gets those that lose least (see --sensitivity)."""
    size: str | None = None
    """The same by the size of all weights, such as 120KB, 1.5MB or 96KiB."""
    bit_operations: str | None = None
    """The same by the multiplications of an image times the bits of their weights, such as 120M or 1.5G."""
    time: str | None = None
    """The same by what the layers take in the engine on this machine, for an image on one thread, such as 3ms."""
    max_drop: float | None = None
    """The smallest weights that change the class of at most this percentage of --images and of enlarged parts of
    them, before any training."""
    average_act_bits: float | None = None
    """With one of these budgets: the same for activations, which else have --act-bits."""
    sensitivity: Path | None = None
    """Run directory of hast-cuda analyze sensitivity, or its JSON file; default: measured on --images."""

    def overrides(self, bits: Bits, measured: Measured | None, *, by_hand: bool) -> dict[str, Override]:
        """What was asked for.

        Args:
            bits: of everything else.
            measured: what looks at the network on images; None where there are none.
            by_hand: whether other options name layers, too.

        Raises:
            ValueError: values that cannot be, or do not go together.
        """
        own = dict(map(parse_bits, _lines(self.bits)))
        asked = [name for name in BUDGETS if getattr(self, name) is not None]
        if not asked:
            for name in ("average_act_bits", "sensitivity"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for a budget, such as --average-bits or --size: give one")
            return own
        if own or by_hand:
            raise ValueError(
                f"{asked[0]} chooses the bits of all layers; bits, first_last_bits and full_precision name some by "
                "hand: give the one or the others"
            )
        if measured is None and (self.sensitivity is None or self.max_drop is not None):
            raise ValueError(
                f"{asked[0]} needs to know what each layer loses: give --images of an earlier run or of hast-cuda "
                "synthesize, or (but for max_drop) --sensitivity with the run of hast-cuda analyze sensitivity"
            )
        found = self._read() if self.sensitivity is not None else measured.sensitivity()  # type: ignore[union-attr]
        if self.max_drop is not None:
            if len(asked) > 1 or self.average_act_bits is not None:
                raise ValueError("max_drop is a budget of its own, for weights alone: leave the others away")
            assert measured is not None
            return measured.within(found, self.max_drop)
        if self.time is not None and measured is not None and not any(x.seconds for x in found.values()):
            found = measured.timed(found)
        return allocate_bits(
            found,
            average_bits=self.average_bits,
            size=None if self.size is None else parse_size(self.size),
            bit_operations=None if self.bit_operations is None else parse_count(self.bit_operations),
            seconds=None if self.time is None else parse_time(self.time),
            average_act_bits=self.average_act_bits,
            act_bits=bits.activations,
            sum_bits=bits.sums,
        )

    def _read(self) -> dict[str, LayerSensitivity]:
        path = self.sensitivity
        assert path is not None
        return read_sensitivity(path / "analysis/sensitivity.json" if path.is_dir() else path)


@dataclass(frozen=True)
class Measured:
    """A network looked at on images: what its layers lose, and take."""

    teacher: nn.Module
    images: Tensor
    bits: Bits
    world: World

    def sensitivity(self) -> dict[str, LayerSensitivity]:
        """Of every layer."""
        return self.world.on_first(
            lambda: sensitivity(self.teacher, self.images, **self._how, device=self.world.device)
        )

    def timed(self, found: dict[str, LayerSensitivity]) -> dict[str, LayerSensitivity]:
        """``found`` with the time of every layer in the engine."""
        bits = self.bits
        how = {"act_bits": bits.activations or 8, "sum_bits": bits.sums, "placement": bits.placement}
        return self.world.on_first(lambda: with_engine_seconds(found, self.teacher, self.images, **how))  # type: ignore[arg-type]

    def within(self, found: dict[str, LayerSensitivity], max_drop: float) -> dict[str, Override]:
        """Bits with which few classes change."""
        how = {"act_bits": self.bits.activations, "sum_bits": self.bits.sums, "device": self.world.device, **self._how}
        return self.world.on_first(lambda: allocate_within_drop(found, self.teacher, self.images, max_drop, **how))

    @property
    def _how(self) -> dict[str, Any]:
        return {"placement": self.bits.placement, "symmetric_weights": self.bits.symmetric_weights}


def _lines(given: Sequence[str]) -> Iterator[str]:
    """The texts, in the place of @FILE its lines but for empty ones and those that begin with #."""
    for text in given:
        if text.startswith("@"):
            lines = map(str.strip, Path(text[1:]).read_text(encoding="utf-8").splitlines())
            yield from (line for line in lines if line and not line.startswith("#"))
        else:
            yield text


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


def parse_count(text: str) -> int:
    """A number such as 120M or 1.5G; ValueError for another text."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?) ?([KMG]?)", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ValueError(f"--bit-operations {text}: expected a number, or one with K, M or G, e.g. 120M")
    return int(float(found[1]) * 1000 ** " KMG".index(found[2].upper() or " "))


def parse_time(text: str) -> float:
    """Seconds of a time such as 3ms or 250us; ValueError for another text."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?) ?(us|ms|s)", text, re.ASCII)
    if found is None:
        raise ValueError(f"--time {text}: expected a number with us, ms or s, e.g. 3ms")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]


def parse_size(text: str) -> int:
    """Bytes of a size such as 120KB (1000 bytes each) or 96KiB (1024); ValueError for another text."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?) ?([KM]?i?B)", text, re.ASCII | re.IGNORECASE)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise ValueError(f"--size {text}: expected a number with B, KB, MB, KiB or MiB, e.g. 120KB")
    return int(float(found[1]) * unit)
