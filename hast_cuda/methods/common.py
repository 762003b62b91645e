"""What several methods share: our training, IntraQ's fine-tuning, the generators' budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods.recipe import Recipe
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.synthesis import SynthesisConfig

EPOCHS = 147  # of 200 steps that train, after 4 of calibration that the published code counts too
GENERATOR_EPOCHS = 400  # of 200 steps
RATE = 1e-3  # of AdamW on grids that stay
RECONSTRUCTION = ReconstructionConfig(iterations=1000)


def ours(published: Recipe) -> Recipe:
    """A method's own losses under what the preset "default" gives every method of stored images.

    Synthesis follows a cosine. Activation channels are balanced; ranges are calibrated on the
    training images. The student's blocks are reconstructed, then it is trained by AdamW with a
    warm-up, and the one that is closest to its teacher on images held out is kept.
    """
    synthesis = replace(published.synthesis, learning_rate=0.1, min_learning_rate=1e-3)
    synthesis = replace(synthesis, schedule="cosine", balanced_labels=True)
    tuning = our_training(published.finetune)
    tuning = replace(tuning, calibration_updates=50, calibration_batch_size=64)
    tuning = replace(tuning, calibration="images", held_out=1 / 8, keep="best", warmup=0.1, average=0.4)
    # On a deep network at batches of 16 the rate that suits a small one trains the student away from its
    # teacher within the first tenth of the steps.
    tuning = replace(tuning, restarts=2)
    # Under SGD one rate serves every layer, and most weights of a 3-bit student hardly move; AdamW
    # moves each by its own scale.
    tuning = replace(tuning, optimizer="adamw", learning_rate=RATE, max_grad_norm=0.0)
    post = replace(published.posttraining, equalize_activations=True)
    return replace(published, synthesis=synthesis, finetune=tuning, posttraining=post, reconstruction=RECONSTRUCTION)


def our_training(tuning: FinetuneConfig) -> FinetuneConfig:
    """``tuning`` with what the preset "default" changes for every method, generators included."""
    tuning = replace(tuning, schedule="cosine", max_grad_norm=1000.0, shrink_ranges=True)
    # A value beyond its range is quantized to the range's end whatever it does: a gradient that
    # says otherwise moves weights, and the perturbation of Eq. 10, where nothing changes.
    return replace(tuning, ema="corrected", ste="clipped")


def released_decay(dataset: str) -> tuple[float, ...]:
    """Where the published HAST and IntraQ decay the rate, as fractions of the steps that train."""
    epochs = (96,) if dataset == "imagenet" else (16, 36, 56)
    return tuple(epoch / EPOCHS for epoch in epochs)


def label_finetuning(dataset: str) -> FinetuneConfig:
    """IntraQ's fine-tuning, also that of ZeroQ+IL, DSG+IL and real data: KL + CE (Eq. 6)."""
    tuning = FinetuneConfig(label_weight=1.0, feature_weight=0.0, perturbation=0.0)
    return tuning if dataset != "imagenet" else replace(tuning, learning_rate=1e-6, batch_size=16)


def with_labels(synthesis: SynthesisConfig, preset: str, dataset: str) -> Recipe:
    """The images of ``synthesis``, then :func:`label_finetuning`.

    "released": its rates, decays, ranges and calibration as the published code has them.
    """
    paper = Recipe(synthesis, label_finetuning(dataset))
    if preset == "default":
        return ours(paper)
    if preset == "paper":
        return paper
    rate, decays = 1e-6 if dataset == "imagenet" else 1e-4, released_decay(dataset)
    tuning = replace(paper.finetune, learning_rate=rate, decay_at=decays)
    return Recipe(synthesis, replace(tuning, ema="released", calibration="generator"))


def calibrated(synthesis: SynthesisConfig, preset: str) -> Recipe:
    """Rounding to nearest, ranges from the images of ``synthesis`` in one update."""
    size = synthesis.num_images
    tuning = FinetuneConfig(iterations=0, calibration_updates=1, calibration_batch_size=size)
    found = Recipe(synthesis, tuning)
    if preset != "default":
        return found
    return replace(ours(found), posttraining=found.posttraining, reconstruction=ReconstructionConfig())


def training_free(**changes: Any) -> Recipe:
    """Only post-training as ``changes`` say, with activation ranges from BatchNorm parameters."""
    tuning = FinetuneConfig(iterations=0, calibration="batch_norm")
    post = PostTrainingConfig(**changes)
    return Recipe(SynthesisConfig(), tuning, posttraining=post, images="none")


def generator_finetuning(dataset: str) -> FinetuneConfig:
    """GDFQ's student: KL averaged over the classes + CE, on images made at every step."""
    tuning = FinetuneConfig(label_weight=1.0, feature_weight=0.0, perturbation=0.0)
    tuning = replace(tuning, distillation_weight=1.0, distillation_reduction="mean")
    tuning = replace(tuning, decay_at=(1 / 4, 1 / 2, 3 / 4), calibration="generator")
    size, rate, epochs = (16, 1e-6, 50) if dataset == "imagenet" else (200, 1e-4, 4)
    steps = (GENERATOR_EPOCHS - epochs) * 200
    return replace(tuning, iterations=steps, batch_size=size, learning_rate=rate)
