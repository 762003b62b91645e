"""The widths that a run quantizes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hast_cuda.checks.typed import check_fields
from hast_cuda.nn import Override


@dataclass(frozen=True)
class Bits:
    """What to quantize to; see :func:`hast_cuda.quantize`.

    Example:
        >>> import hast_cuda as hc
        >>> hc.Bits(3, 3, overrides={"output": hc.Override(8, 8)}).weights
        3
    """

    weights: int = 4
    """Of every convolution and linear layer, 2 to 8."""
    activations: int | None = 4
    """2 to 8; None leaves activations as they are."""
    placement: str = "relu"
    """"relu" (outputs of ReLU modules) or "all" (inputs of layers)."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """Other bits for the layers that match a pattern; the last match wins."""

    def __post_init__(self) -> None:
        check_fields(self)
