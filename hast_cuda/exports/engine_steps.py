"""A network as the engine runs it: values, and the steps that make one from others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hast_cuda.exports.grid import Affine

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]
CONVOLUTION, CONVERT, ADD, MULTIPLY = "convolution", "convert", "add", "multiply"
MAX_POOL, AVERAGE_POOL, CONCATENATE, GATHER = "max_pool", "average_pool", "concatenate", "gather"


@dataclass(eq=False)
class Value:
    """What one step makes of one image."""

    name: str
    shape: Shape  # channels, rows, columns
    grid: Affine | None = None  # None: float32


@dataclass(frozen=True)
class Activation:
    """A function of single numbers; ``a`` and ``b`` as docs/export.md says for each kind."""

    kind: str
    a: float | None = None
    b: float | None = None

    @property
    def monotone(self) -> bool:
        """It never falls, so that a maximum can be taken before it or behind it."""
        rising = self.kind in ("clip", "sigmoid", "tanh")
        return rising or (self.kind in ("leaky_relu", "hard_sigmoid") and (self.a or 0.0) >= 0)

    @property
    def keeps_zero(self) -> bool:
        """It makes 0 of 0."""
        if self.kind == "clip":
            return (self.a is None or self.a <= 0) and (self.b is None or self.b >= 0)
        return self.kind not in ("sigmoid", "hard_sigmoid")


@dataclass(frozen=True)
class Window:
    """Of a convolution or pool: rows and columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Of the output, for an input of this size."""
        top, left, bottom, right = self.padding
        given = (rows + top + bottom, columns + left + right)
        parts = zip(given, self.kernel, self.stride, self.dilation, strict=True)
        height, width = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in parts)
        return height, width

    def padded(self, more: tuple[int, ...]) -> Window:
        """With ``more`` on each side."""
        top, left, bottom, right = (a + b for a, b in zip(self.padding, more, strict=True))
        return replace(self, padding=(top, left, bottom, right))


@dataclass(frozen=True)
class Weights:
    """``scale * sum(weight * x) + bias`` per output channel."""

    values: Array  # codes uint8, or floats: [out, in / groups, rows, columns]
    scale: Array  # float64 [out], of either sign
    bias: Array  # float64 [out]
    bits: int | None = None  # of codes
    zero_point: Array | None = None  # int64 [out], of codes

    def then(self, factor: Array, shift: Array) -> Weights:
        """With ``factor * y + shift`` behind it."""
        return replace(self, scale=self.scale * factor, bias=self.bias * factor + shift)

    def positive(self) -> Weights:
        """The same with positive scales: codes are mirrored, floats change their sign."""
        negative = self.scale < 0
        turned = negative.reshape(-1, 1, 1, 1)
        if self.bits is None or self.zero_point is None:
            return replace(self, values=np.where(turned, -self.values, self.values), scale=np.abs(self.scale))
        largest = 2**self.bits - 1
        return replace(
            self,
            values=np.where(turned, largest - self.values, self.values),
            zero_point=np.where(negative, largest - self.zero_point, self.zero_point),
            scale=np.abs(self.scale),
        )


@dataclass(eq=False)
class Step:
    """One operation; docs/export.md has the table of them."""

    op: str
    name: str
    inputs: list[Value]
    output: Value
    activation: Activation | None = None
    residual: Value | None = None
    window: Window | None = None  # convolutions and pools; of a gather the stride
    groups: int = 1
    weights: Weights | None = None
    count_padding: bool = False
    channels: tuple[int, ...] = ()

    @property
    def reads(self) -> list[Value]:
        """Inputs and residual."""
        return self.inputs if self.residual is None else [*self.inputs, self.residual]

    @property
    def affine(self) -> bool:
        """A factor and a shift per channel, and nothing else."""
        window, weights = self.window, self.weights
        return (
            self.op == CONVOLUTION
            and window == Window((1, 1))
            and weights is not None
            and weights.bits is None
            and self.groups == self.output.shape[0] == self.inputs[0].shape[0]
            and bool((weights.values == 1).all())
        )

    def read_instead(self, old: Value, new: Value) -> None:
        """Take ``new`` wherever ``old`` was read."""
        self.inputs = [new if value is old else value for value in self.inputs]
        self.residual = new if self.residual is old else self.residual


@dataclass
class Plan:
    """Steps in the order of execution."""

    images: Value
    output: Value
    steps: list[Step] = field(default_factory=list)

    def uses(self) -> Counter[Value]:
        """How often each value is read; the output once more."""
        found = Counter(value for step in self.steps for value in step.reads)
        found[self.output] += 1
        return found

    def makers(self) -> dict[Value, Step]:
        """The steps that make floats which are read once."""
        uses = self.uses()
        return {step.output: step for step in self.steps if uses[step.output] == 1 and step.output.grid is None}

    def values(self) -> list[Value]:
        """The images, and what each step makes."""
        return [self.images, *(step.output for step in self.steps)]


def refusal(what: str, name: str | None, kind: str, why: str) -> ValueError:
    """That the engine cannot run something: ``what`` is "layer" or "node"."""
    return ValueError(f"the engine cannot run {what} {name!r} ({kind}): {why}")


def of_node(node: Any, why: str) -> ValueError:
    """The same of a node of the graph."""
    return refusal("node", node.name, node.op_type, why)
