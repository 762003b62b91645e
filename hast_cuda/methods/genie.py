"""Genie (Jeon et al., CVPR 2023): a generator and latents per batch, swinging strides, Genie-M."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.synthesis import SynthesisConfig

# of batches that grow from a network of their own; no label has a part in them
IMAGES = SynthesisConfig(num_images=1024, batch_size=128, iterations=4000, swing=True, label_weight=0.0)
IMAGES = replace(IMAGES, generator_rate=0.1, learning_rate=0.01, latent_size=256)
IMAGES = replace(IMAGES, spread="std", match_reduction="sum")


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Genie-D's images; then Genie-M, block reconstruction and no fine-tuning, with 8 bits at the
    ends, or in the preset "default" the training of every method of stored images, by KL alone.
    """
    if preset == "default":
        # without labels the cross entropy has nothing to say; rates and schedules of a generator
        # and its latents are not those of pixels, and stay the method's
        student = replace(common.label_finetuning(dataset), label_weight=0.0)
        return replace(common.ours(Recipe(IMAGES, student)), synthesis=replace(IMAGES, num_images=5120))
    student = FinetuneConfig(iterations=0, calibration_updates=16, calibration_batch_size=64, shrink_ranges=True)
    blocks = ReconstructionConfig(iterations=20_000, rounding_travel=20.0, weight_step_travel=2.0, act_step_travel=0.8)
    return Recipe(IMAGES, student, posttraining=PostTrainingConfig(end_bits=8), reconstruction=blocks)
