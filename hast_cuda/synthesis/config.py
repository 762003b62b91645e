"""Everything a method can vary in the synthesis of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hast_cuda.checks.typed import LATER, check_fields
from hast_cuda.checks.values import check_choice, check_number, check_positive, check_range, check_scale

CHOICES = {
    "schedule": ("plateau", "cosine"),
    "noise": ("gaussian", "natural", "uniform", "narrow"),
    "statistics": ("batch", "sample"),
    "spread": ("variance", "std"),
    "match_reduction": ("mse", "norm", "sum", "relative"),
    "label_loss": ("hard_sample", "soft"),
}
MOST = {"num_images": 10**8, "batch_size": 2**20, "iterations": 10**8, "slack_images": 10**6, "latent_size": 2**20}
NOT_NEGATIVE = (
    *("match_weight", "layer_emphasis", "label_weight", "difficulty_exponent"),
    *("min_learning_rate", "patience", "generator_rate"),
)
NO_MARGINS = (0.0, 2.0)  # between them is every cosine distance
FRACTIONS = ("slack_percentile", "soft_target", "augment_probability", "generator_left")


def check_margins(value: Sequence[float]) -> None:
    """``value`` is a (lower, upper) pair of cosine distances."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"margins must be a pair of numbers, got {value!r}")
    for number in value:
        check_number("margins", number)
    if len(value) != 2 or not 0 <= value[0] <= value[1] <= 2:
        raise ValueError(f"margins is {value}; allowed: (lower, upper) with 0 <= lower <= upper <= 2")


def check_ends(lowest: Sequence[float], highest: Sequence[float]) -> None:
    """One lowest and one highest value per channel, in this order, or none at all."""
    for name, values in (("lowest", lowest), ("highest", highest)):
        for value in values:
            check_number(name, value)
    pairs = list(zip(lowest, highest, strict=False))
    if len(lowest) != len(highest) or not all(-math.inf < low < high < math.inf for low, high in pairs):
        shown = f"lowest is {tuple(lowest)}, highest {tuple(highest)}"
        raise ValueError(f"{shown}; allowed: as many of both, finite, the lowest below the highest")


@dataclass(frozen=True)
class SynthesisConfig:
    """Budget, optimiser and objective of Eq. 9; the values here are the paper's for CIFAR-10.

    Example:
        >>> SynthesisConfig(num_images=512, iterations=200).batch_size
        256
    """

    num_images: int = 5120
    """Images in the synthetic set."""
    batch_size: int = 256
    """Images optimised together; their joint statistics are matched."""
    iterations: int = 1000
    """Adam steps per batch."""
    learning_rate: float = 0.5
    """Initial Adam learning rate on pixels."""
    schedule: str = "plateau"
    """"plateau": x0.1 when the loss stalls; "cosine": decay to min_learning_rate."""
    patience: int = 50
    """Iterations without improvement before the plateau rule acts."""
    min_learning_rate: float = 1e-4
    """Floor of the learning rate."""
    noise: str = "gaussian"
    """Where images start: "gaussian" N(0, 1), "natural" Gaussian with the 1/f spectrum and the
    correlated channels of photographs, "uniform" [0, 1) (DSG), "narrow" +-0.0235 (ZeroQ)."""
    statistics: str = "batch"
    """Matched: those of the "batch" over N, H, W (Eq. 3), or of each "sample" over H, W (ZeroQ)."""
    spread: str = "variance"
    """Second statistic: "variance" (biased), or "std" (ZeroQ, DSG)."""
    match_reduction: str = "mse"
    """Eq. 3 as released ("mse": means over channels and layers), as printed ("norm"), "sum" of
    squares over channels and layers (ZeroQ, DSG), or "relative": "mse" in units of each layer's
    mean variance, so that layers count alike."""
    match_weight: float = 1.0
    """Weight of the statistics' loss; the paper's is 1."""
    match_input: bool = False
    """The image counts as one more layer, of mean 0 and standard deviation 1 (ZeroQ, DSG)."""
    slack_percentile: float = 0.0
    """DSG: deviations below this percentile (0 to 1) of those of Gaussian images cost nothing."""
    slack_images: int = 1024
    """Gaussian images that set the slack."""
    layer_emphasis: float = 0.0
    """DSG: image i weighs layer i (modulo the layers) 1 + this; needs statistics="sample"."""
    label_loss: str = "hard_sample"
    """"hard_sample" (Eq. 8), or "soft" (IntraQ): squared distance of p_y to a drawn target."""
    soft_target: float = 1.0
    """IntraQ: lower end of the targets; half of them are 1."""
    margins: tuple[float, float] = NO_MARGINS
    """IntraQ: bounds of the cosine distance to the mean feature of earlier images of the class;
    (0, 2) are no bounds."""
    label_weight: float = 10.0
    """beta of Eq. 5 and 9."""
    difficulty_exponent: float = 2.0
    """gamma of Eq. 8; 0 gives the plain inception loss of Eq. 4."""
    label_temperature: float = 1.0
    """Logits are divided by it in Eq. 4 and 8: above 1 they go on growing after the class is sure."""
    detach_difficulty: bool = False
    """Treat (1-p)^gamma as a constant weight instead of differentiating it."""
    balanced_labels: bool = False
    """Equal counts per class instead of uniform draws."""
    augment_probability: float = 0.0
    """Chance per iteration that the batch is cropped, resized and flipped before the teacher."""
    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Area fraction of the crops."""
    swing: bool = False
    """Genie: in every iteration the input of each strided convolution is moved by up to stride - 1
    pixels in either direction, reflected at the edges."""
    generator_rate: float = 0.0
    """Genie: initial Adam rate of a small network, a new one for every batch, that makes the images
    from latents, whose rate is then learning_rate; 0: the pixels themselves are optimised."""
    generator_left: float = 0.1
    """Share of generator_rate that is left after the last iteration, reached exponentially."""
    latent_size: int = 256
    """Length of the latents, which start from N(0, 1)."""
    lowest: tuple[float, ...] = field(default=(), metadata=LATER)
    """Per channel, of the pixels as the network takes them; after every step they are projected into
    lowest to highest. None: they go where they like. See :attr:`hast_cuda.InputSpec.displayable`."""
    highest: tuple[float, ...] = field(default=(), metadata=LATER)
    """See lowest."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, most in MOST.items():
            check_positive(name, getattr(self, name), most=most)
        for name in ("learning_rate", "label_temperature"):
            check_positive(name, getattr(self, name))
        for name, allowed in CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        for name in NOT_NEGATIVE:
            check_range(name, getattr(self, name), 0)
        for name in FRACTIONS:
            check_range(name, getattr(self, name), 0, 1)
        check_margins(self.margins)
        check_ends(self.lowest, self.highest)
        check_scale("crop_scale", self.crop_scale)
        if self.label_temperature != 1 and self.label_loss == "soft":
            raise ValueError('label_temperature divides the logits of label_loss="hard_sample", and "soft" has targets')
        if self.layer_emphasis and self.statistics != "sample":
            raise ValueError('layer_emphasis weighs images one by one; it needs statistics="sample"')
        check_positive("generator_left", self.generator_left)
        if self.generator_rate and self.noise != "gaussian":
            raise ValueError(
                f"noise is {self.noise!r}, how pixels start, and generator_rate makes them from latents of N(0, 1): "
                'set noise to "gaussian", or generator_rate to 0'
            )
        if self.generator_rate and self.lowest:
            raise ValueError(
                f"lowest is {tuple(self.lowest)}, an end for pixels, and generator_rate has a network make them, "
                "whose outputs have none: set lowest and highest to (), or generator_rate to 0"
            )
        if not (self.match_weight or self.label_weight):
            raise ValueError("match_weight and label_weight are both 0; one must count")

    @property
    def has_margins(self) -> bool:
        """Whether a batch depends on the images of those before it."""
        return tuple(self.margins) != NO_MARGINS
