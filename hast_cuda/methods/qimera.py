"""Qimera (Choi et al., NeurIPS 2021): GDFQ with superposed latents of several classes."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import gdfq
from hast_cuda.methods.recipe import Recipe, method

# classes superposed, class embeddings, length of the latent
_LATENTS = {"cifar10": (2, "random", 64), "cifar100": (10, "classifier", 64), "imagenet": (500, "random", 512)}


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """GDFQ whose batches are superpositions of classes, with soft labels, by a chance of 0.4."""
    base, (classes, embedding, size) = gdfq.recipe(preset, dataset), _LATENTS[dataset]
    generator = replace(base.generator, superpose_probability=0.4, superpose_classes=classes)
    generator = replace(generator, embedding=embedding, latent_size=size, embedding_noise=1.0)
    return replace(base, generator=generator)
