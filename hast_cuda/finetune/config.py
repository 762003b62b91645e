"""Everything a method can vary in fine-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import check_fields
from hast_cuda.checks.values import check_choice, check_positive, check_range, check_scale

CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "cosine"),
    "distillation_reduction": ("batchmean", "mean"),
    "alignment": ("relaxed", "direct", "cam"),
    "perturb_by": ("both", "distillation", "alignment"),
    "calibration": ("images", "generator", "batch_norm"),
    "ema": ("corrected", "released"),
    "ste": _checks.STE,
    "keep": ("last", "best"),
    "balance": ("fixed", "start"),
}
POSITIVE = ("learning_rate", "temperature", "calibration_updates", "evaluations", "label_difficulty")
FRACTIONS = (
    *("momentum", "flip_fraction", "flip_probability", "warmup", "held_out", "average", "label_difficulty"),
    "mix",
)
NOT_NEGATIVE = (
    *("weight_decay", "distillation_weight", "label_weight", "feature_weight", "perturbation"),
    *("clean_weight", "perturbed_weight", "max_grad_norm", "low_pass"),
)


@dataclass(frozen=True)
class FinetuneConfig:
    """Budget, optimiser and objective of Eq. 10-14; the defaults are the paper's for CIFAR-10.

    Example:
        >>> FinetuneConfig(iterations=300, schedule="cosine").rate(150)
        5e-06
    """

    iterations: int = 29_400
    """Steps of the student."""
    batch_size: int = 256
    """Images per step."""
    optimizer: str = "sgd"
    """"sgd": with Nesterov momentum, as published; "adamw": Adam with decoupled weight decay, for
    rates a hundred times as high."""
    learning_rate: float = 1e-5
    """Initial learning rate."""
    schedule: str = "step"
    """"step": x0.1 at every fraction in decay_at; "cosine": to 0 over the iterations."""
    decay_at: tuple[float, ...] = (2 / 3,)
    """Fractions of the iterations at which "step" decays."""
    warmup: float = 0.0
    """Fraction of the iterations in which the rate rises linearly from 0."""
    momentum: float = 0.9
    """Nesterov momentum, or the decay of AdamW's mean of gradients (that of squares is 0.999)."""
    weight_decay: float = 1e-4
    """On all parameters."""
    temperature: float = 20.0
    """T of the distillation loss."""
    distillation_weight: float = 20.0
    """alpha; the KL divergence is multiplied by alpha * T^2."""
    distillation_reduction: str = "batchmean"
    """KL divergence summed over classes ("batchmean"), or averaged over them too ("mean", GDFQ)."""
    label_weight: float = 0.0
    """Weight of the student's cross entropy on the labels (Eq. 6); HAST has none."""
    label_difficulty: float = 1.0
    """SynQ: labels count only for images whose difficulty ``1 - p_y`` under the teacher is below
    this; 1: for all."""
    feature_weight: float = 1000.0
    """lambda of Eq. 11-12; 0 switches feature alignment off."""
    alignment: str = "relaxed"
    """"relaxed": attention vectors (Eq. 13); "direct": the feature maps' mean squared error; "cam":
    that of the class activation maps before the classifier (SynQ), which needs labels."""
    balance: str = "fixed"
    """What the weights of the terms multiply: "fixed", the terms as they are; "start", the terms in
    units of what they are for the student as it came, so that one ratio suits every network (alpha
    then counts without the square of T)."""
    normalized_attention: bool = True
    """L2-normalised attention vectors (as released) or the plain sums of Eq. 13-14."""
    perturbation: float = 0.01
    """epsilon of Eq. 10 in normalised input units; 0 switches difficulty promotion off."""
    perturb_by: str = "both"
    """Loss whose sign gradient perturbs (Table 5): "distillation" or "alignment" alone, or "both":
    the clean loss as it is weighted, cross entropy included where it counts."""
    clean_weight: float = 1.0
    """Weight of the loss on the images as they are."""
    perturbed_weight: float = 1.0
    """Weight of the loss on the perturbed images."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area fraction of the random crops."""
    mix: float = 0.0
    """Fraction of a batch's images that are replaced by the mean of themselves and another one, where
    the teacher is as unsure as it is on many real images; not with labels, which a mean has not."""
    low_pass: float = 0.0
    """SynQ: cutoff, in cycles per pixel, of the Gaussian low-pass filter that a run takes its stored
    images through once, before ranges, blocks and student see them; 0: none. What is on disk stays.
    SynQ's D0 over the side of the image."""
    flip_probability: float = 0.5
    """Chance to mirror an image; 0 for images that a mirror spoils, such as digits."""
    max_grad_norm: float = 0.0
    """Clip the gradient to this norm; 0 does not clip."""
    flip_fraction: float = 0.0
    """AIT: enlarge each weight's step until this fraction of its integer codes changes, a tenth of
    it after every fraction in ``decay_at``; 0: never."""
    largest_step: float = 100.0
    """AIT: at most so many times the step of SGD."""
    calibration: str = "images"
    """Where activation ranges come from: the training "images", a "generator" (as released), or the
    "batch_norm" parameters alone."""
    calibration_updates: int = 800
    """Moving-average updates before the ranges are frozen."""
    calibration_batch_size: int = 16
    """Images per update."""
    ema: str = "corrected"
    """Range tracking: "corrected", or the published recursion, "released"."""
    ste: str = "identity"
    """Straight-through gradient of activations: "identity" passes it everywhere (as released),
    "clipped" only where the value lies in the quantizer's range. Of the student that a run makes;
    one of your own has that of ``hast_cuda.quantize(ste=...)``."""
    shrink_ranges: bool = False
    """Shrink the calibrated ranges to the smallest quantization error."""
    evaluations: int = 10
    """How often the test accuracy is looked at, evenly spread; the last one is the result."""
    restarts: int = 0
    """How often training may begin again at a quarter of its rate: where the first evaluation finds the
    student a quarter farther from the teacher than its start was, on parts of the images held out.
    With keep "best" alone."""
    average: float = 0.0
    """Fraction of the iterations, the last ones, over which the parameters are averaged: the last
    student is their mean."""
    held_out: float = 0.0
    """Fraction of the stored images, the last ones, that no step sees: on them the student is
    compared with the teacher at every evaluation."""
    keep: str = "last"
    """"last": the student after the last iteration, as published; "best": that one if it is closer to
    the teacher than the start on parts of the images held out, else the closest of all."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range("iterations", self.iterations, 0, 10**9)
        check_positive("batch_size", self.batch_size, most=2**20)
        check_positive("calibration_batch_size", self.calibration_batch_size, most=2**20)
        for name in POSITIVE:
            check_positive(name, getattr(self, name))
        for name in NOT_NEGATIVE:
            check_range(name, getattr(self, name), 0)
        for name in FRACTIONS:
            check_range(name, getattr(self, name), 0, 1)
        for fraction in self.decay_at:
            check_range("decay_at", fraction, 0, 1)
        for name, allowed in CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        check_range("largest_step", self.largest_step, 1)
        check_scale("crop_scale", self.crop_scale)
        if self.optimizer == "adamw" and self.flip_fraction:
            raise ValueError('flip_fraction enlarges the steps of SGD: set optimizer to "sgd", or flip_fraction to 0')
        if self.optimizer == "adamw" and self.momentum == 1:
            raise ValueError("momentum is 1: AdamW would never see a gradient; it must be below 1")
        if not (self.clean_weight or (self.perturbed_weight and self.perturbation)):
            raise ValueError("clean_weight and perturbed_weight are both without effect; one must count")
        if not (self.distillation_weight or self.feature_weight or self.label_weight):
            raise ValueError("distillation_weight, feature_weight and label_weight are 0; one must count")
        if self.mix and self.uses_labels:
            raise ValueError("mix makes images that have no label: set it to 0, or label_weight and cam alignment off")
        check_range("restarts", self.restarts, 0, 20)
        if self.keep == "best" and not self.held_out:
            raise ValueError('keep is "best", which is judged on images held out: set held_out, e.g. to 0.125')
        by = {"distillation": self.distillation_weight, "alignment": self.feature_weight}
        if self.perturbation and not by.get(self.perturb_by, 1.0):
            raise ValueError(f"perturb_by is {self.perturb_by!r}, a loss of weight 0; choose another")

    @property
    def uses_maps_of_classes(self) -> bool:
        """Whether class activation maps are aligned."""
        return self.alignment == "cam" and self.feature_weight > 0

    @property
    def uses_labels(self) -> bool:
        """Whether the loss asks for the images' labels."""
        return self.label_weight > 0 or self.uses_maps_of_classes

    def rate(self, iteration: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (self.done(iteration) + 1 / max(self.iterations, 1)) / self.warmup) if self.warmup else 1.0
        if self.schedule == "step":
            return float(warm * self.learning_rate * 0.1 ** self._decays(iteration))
        return warm * self.learning_rate * (1 + math.cos(math.pi * self.done(iteration))) / 2

    def flip_goal(self, iteration: int) -> float:
        """Fraction of its codes that a step must change (AIT), counted from 0."""
        return float(self.flip_fraction * 0.1 ** self._decays(iteration))

    def done(self, iteration: int) -> float:
        """Fraction of the fine-tuning that is over before a step, counted from 0."""
        return iteration / max(self.iterations, 1)

    def _decays(self, iteration: int) -> int:
        return sum(self.done(iteration) >= at for at in self.decay_at)
