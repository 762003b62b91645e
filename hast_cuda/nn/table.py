"""What became of each layer, as a table that prints well."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from hast_cuda.checks.typed import typed

_SHOWN = 4  # names in a line
NOT_QUANTIZED = "not quantized: "  # in front of a reason that no option asked for


@dataclass(frozen=True)
class Row:
    """One module: name, original type, bits (None = full precision) and what was done."""

    name: str
    kind: str
    weight_bits: int | None
    act_bits: int | None
    note: str


@dataclass(frozen=True)
class QuantizationTable:
    """All layers that hold weights or activations, in module order."""

    rows: tuple[Row, ...]
    """One per layer."""

    @property
    def quantized_weights(self) -> int:
        """Number of layers with quantized weights."""
        return sum(row.weight_bits is not None for row in self.rows)

    @property
    def quantized_activations(self) -> int:
        """Number of activation quantizers."""
        return sum(row.act_bits is not None for row in self.rows)

    @property
    def left(self) -> tuple[Row, ...]:
        """Those that stay in full precision though no option asked for it."""
        return tuple(row for row in self.rows if row.note.startswith(NOT_QUANTIZED))

    def line(self) -> str:
        """How many layers have which bits, and those that stay in full precision though no option asked for it."""
        counts = Counter(row.weight_bits for row in self.rows if row.weight_bits is not None)
        weights = " + ".join(f"{n} x {bits} bit" for bits, n in sorted(counts.items()))
        counts = Counter(row.act_bits for row in self.rows if row.act_bits is not None)
        activations = " + ".join(f"{n} x {bits} bit" for bits, n in sorted(counts.items())) or "full precision"
        names = [row.name or "(root)" for row in self.left]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        left = f"; not quantized: {', '.join(names[:_SHOWN])}{more}" if names else ""
        return f"weights {weights}, activations {activations}{left}"

    def __str__(self) -> str:
        """Aligned text, one line per layer, with a summary line."""
        head: tuple[str, ...] = ("layer", "type", "weight", "activation", "note")
        cells = [head]
        for row in self.rows:
            bits = ("-" if b is None else f"{b} bit" for b in (row.weight_bits, row.act_bits))
            cells.append((row.name or "(root)", row.kind, *bits, row.note))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        return "\n".join(lines) + (
            f"\n{self.quantized_weights} weights, {self.quantized_activations} activations "
            "quantized; biases and BatchNorm are not"
        )


@typed
def quantization_table(model: nn.Module) -> QuantizationTable:
    """The table that :func:`hast_cuda.quantize` made; ValueError for any other network.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> hc.quantization_table(student).quantized_weights > 30
        True
    """
    table = getattr(model, "quantization_table", None)
    if not isinstance(table, QuantizationTable):
        raise ValueError("this network was not made by hast_cuda.quantize: it has no table")
    return table
