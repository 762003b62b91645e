"""Everything that can be done to a network without data and without training."""

from __future__ import annotations

from dataclasses import dataclass

from hast_cuda.checks.typed import check_fields
from hast_cuda.checks.values import check_choice, check_range

ROUNDINGS = ("nearest", "squant")


@dataclass(frozen=True)
class PostTrainingConfig:
    """Steps of DFQ (ICCV 2019) and SQuant (ICLR 2022); by default none of them."""

    fold: bool = False
    """Take every BatchNorm into the convolution in front of it."""
    equalize: bool = False
    """DFQ: balance the channels' weights between neighbouring layers; needs fold."""
    absorb_biases: bool = False
    """DFQ: move large biases behind the next layer; needs fold."""
    correct_biases: bool = False
    """DFQ: take the expected error of the quantized weights out of the biases."""
    rounding: str = "nearest"
    """Weights: "nearest", or SQuant's rounding, "squant"."""
    range_width: float = 6.0
    """Half-width of activation ranges from BatchNorm, in standard deviations; 0: least error."""
    keep_relu6: bool = True
    """False replaces ReLU6 by ReLU, as DFQ does: equalization cannot cross a ReLU6."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("rounding", self.rounding, ROUNDINGS)
        check_range("range_width", self.range_width, 0)
        for name in ("equalize", "absorb_biases"):
            if getattr(self, name) and not self.fold:
                message = f"{name}=True works on folded networks: set fold=True as well"
                raise ValueError(message)
