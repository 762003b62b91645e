"""What several methods share: our training, IntraQ's fine-tuning, the generators' budget."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods.recipe import Recipe

EPOCHS = 147  # of 200 steps that train, after 4 of calibration that the published code counts too
GENERATOR_EPOCHS = 400  # of 200 steps


def ours(published: Recipe) -> Recipe:
    """A method's own losses under what the preset "default" gives every method of stored images.

    HAST and real data change more (AdamW; HAST's noise, matching, crops, alignment and rounding).
    Synthesis follows a cosine, the student a cosine at a fifth of the published rate with a clipped
    gradient, ranges are calibrated on the training images and shrunk to the smallest error, and
    activations beyond them pass no gradient.
    """
    tuning = published.finetune
    return replace(
        published,
        synthesis=replace(
            published.synthesis,
            learning_rate=0.1,
            schedule="cosine",
            min_learning_rate=1e-3,
            balanced_labels=True,
        ),
        finetune=replace(
            our_training(tuning),
            # While clipped activations passed a gradient, the paper's rate let the loss of a 3-bit
            # student rise for its first steps, and a few hundred steps did not bring it back.
            learning_rate=tuning.learning_rate / 5,
            calibration_updates=50,
            calibration_batch_size=64,
            calibration="images",
        ),
    )


def with_adamw(recipe: Recipe, rate: float) -> Recipe:
    """``recipe`` with AdamW at ``rate``, gradients not clipped.

    Under SGD one rate serves every layer: where it does not yet let the loss of a 3-bit student
    rise, most weights hardly move in a few hundred steps. AdamW moves each by its own scale. On
    IntraQ's images students gained nothing by it at 3 bits and ended lower at 4.
    """
    tuning = replace(recipe.finetune, optimizer="adamw", learning_rate=rate, max_grad_norm=0.0)
    return replace(recipe, finetune=tuning)


def our_training(tuning: FinetuneConfig) -> FinetuneConfig:
    """``tuning`` with what the preset "default" changes for every method, generators included."""
    return replace(
        tuning,
        schedule="cosine",
        max_grad_norm=1000.0,
        shrink_ranges=True,
        ema="corrected",
        # A value beyond its range is quantized to the range's end whatever it does: a gradient that
        # says otherwise moves weights, and the perturbation of Eq. 10, where nothing changes.
        ste="clipped",
    )


def released_decay(dataset: str) -> tuple[float, ...]:
    """Where the published HAST and IntraQ decay the rate, as fractions of the steps that train."""
    epochs = (96,) if dataset == "imagenet" else (16, 36, 56)
    return tuple(epoch / EPOCHS for epoch in epochs)


def label_finetuning(dataset: str) -> FinetuneConfig:
    """IntraQ's fine-tuning, also that of ZeroQ+IL, DSG+IL and real data: KL + CE (Eq. 6)."""
    large = dataset == "imagenet"
    return FinetuneConfig(
        learning_rate=1e-6 if large else 1e-5,
        batch_size=16 if large else 256,
        label_weight=1.0,
        feature_weight=0.0,
        perturbation=0.0,
    )


def released_label_finetuning(dataset: str) -> FinetuneConfig:
    """The same as the published code runs it: its rates, decays, ranges and calibration."""
    tuning = label_finetuning(dataset)
    return replace(
        tuning,
        learning_rate=1e-6 if dataset == "imagenet" else 1e-4,
        decay_at=released_decay(dataset),
        ema="released",
        calibration="generator",
    )


def generator_finetuning(dataset: str) -> FinetuneConfig:
    """GDFQ's student: KL averaged over the classes + CE, on images made at every step."""
    large = dataset == "imagenet"
    return FinetuneConfig(
        iterations=(GENERATOR_EPOCHS - (50 if large else 4)) * 200,
        batch_size=16 if large else 200,
        learning_rate=1e-6 if large else 1e-4,
        decay_at=(1 / 4, 1 / 2, 3 / 4),
        distillation_weight=1.0,
        distillation_reduction="mean",
        label_weight=1.0,
        feature_weight=0.0,
        perturbation=0.0,
        calibration="generator",
    )
