"""GDFQ (Xu et al., ECCV 2020): a conditional generator trained beside the student."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.generator import GeneratorConfig
from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.synthesis import SynthesisConfig


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """CE + 0.1 Eq. 3 for the generator; KL (mean over classes) + CE for the student.

    In the preset "default" the rate is the published one: this loss is hundreds of times smaller
    than Eq. 12, for which the rate of other methods is cut.
    """
    tuning = common.generator_finetuning(dataset)
    if preset == "released":
        tuning = replace(tuning, ema="released")
    elif preset == "default":
        tuning = common.our_training(tuning)
    generator = GeneratorConfig(warmup=10_000 if dataset == "imagenet" else 800)
    return Recipe(SynthesisConfig(), tuning, generator, images="generated")
