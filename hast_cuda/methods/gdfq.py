"""GDFQ (Xu et al., ECCV 2020): a conditional generator trained beside the student."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.generator import GeneratorConfig
from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.synthesis import SynthesisConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """CE + 0.1 Eq. 3 for the generator; KL (mean over classes) + CE for the student.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    generator = GeneratorConfig(warmup=10_000 if dataset == "imagenet" else 800)
    found = Recipe(
        SynthesisConfig(), common.generator_finetuning(dataset), generator, images="generated"
    )
    if preset == "released":
        return replace(found, finetune=replace(found.finetune, ema="released"))
    return found if preset == "paper" else ours(found)


def ours(published: Recipe) -> Recipe:
    """A generator method under the training of the preset "default".

    Its rate is the published one: this loss is hundreds of times smaller than Eq. 12, for which the
    rate of other methods is cut.
    """
    return replace(published, finetune=common.our_training(published.finetune))
