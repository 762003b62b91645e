"""Qimera (Choi et al., NeurIPS 2021): GDFQ with superposed latents of several classes."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import gdfq
from hast_cuda.methods.recipe import Recipe, check_names

# classes superposed, class embeddings, length of the latent
_LATENTS = {
    "cifar10": (2, "random", 64),
    "cifar100": (10, "classifier", 64),
    "imagenet": (500, "random", 512),
}


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """GDFQ whose batches are, with probability 0.4, superpositions of classes with soft labels.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    classes, embedding, size = _LATENTS[dataset]
    base = gdfq.recipe(preset, dataset)
    return replace(
        base,
        generator=replace(
            base.generator, superpose_probability=0.4, superpose_classes=classes,
            embedding=embedding, latent_size=size, embedding_noise=1.0,
        ),
    )  # fmt: skip
