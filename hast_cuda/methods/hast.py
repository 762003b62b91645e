"""HAST (Li et al., CVPR 2023) as three presets of one recipe.

``paper``: the equations and the stated hyper-parameters. ``released``: what the published code
does. ``default``: ours. docs/methods.md lists every difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.synthesis import SynthesisConfig
from hast_cuda.validate import check_choice

PRESETS = ("default", "paper", "released")
DATASETS = ("cifar10", "cifar100", "imagenet")


@dataclass(frozen=True)
class Recipe:
    """All choices of a run but the network, the bits and the seed."""

    synthesis: SynthesisConfig
    finetune: FinetuneConfig


def preset(name: str = "default", dataset: str = "cifar10") -> Recipe:
    """The recipe called ``name`` for images like those of ``dataset``.

    Args:
        name: "default", "paper" or "released".
        dataset: "cifar10" (small images, few classes), "cifar100" (small images, many classes) or
            "imagenet"; sets beta, gamma, epsilon, lambda, batch size and learning rate.

    Raises:
        ValueError: unknown name or dataset.
    """
    check_choice("preset", name, PRESETS)
    check_choice("dataset", dataset, DATASETS)
    paper = _paper(dataset)
    if name == "paper":
        return paper
    return _released(paper, dataset) if name == "released" else _default(paper)


def _paper(dataset: str) -> Recipe:
    synthesis = SynthesisConfig(augment_probability=0.5, crop_scale=(0.5, 1.0))
    finetune = FinetuneConfig()
    if dataset == "cifar100":
        finetune = replace(finetune, perturbation=0.02, feature_weight=2000.0)
    if dataset == "imagenet":
        synthesis = replace(synthesis, label_weight=0.1, difficulty_exponent=0.5)
        finetune = replace(finetune, batch_size=16, learning_rate=1e-6, feature_weight=4000.0)
    return Recipe(synthesis, finetune)


def _released(paper: Recipe, dataset: str) -> Recipe:
    large = dataset == "imagenet"
    epochs = (
        147  # of 200 steps; the decay epochs of the code count 4 calibration epochs before them
    )
    decay = (96,) if large else (16, 36, 56)
    return Recipe(
        replace(
            paper.synthesis,
            augment_probability=0.5 if large else 0.0,
            crop_scale=(0.4, 1.0),
        ),
        replace(
            paper.finetune,
            feature_weight=1000.0,  # hard-coded for every data set, like epsilon
            perturbation=0.01,
            decay_at=tuple(epoch / epochs for epoch in decay),
            ema="released",
            calibration="generator",
        ),
    )


def _default(paper: Recipe) -> Recipe:
    return Recipe(
        replace(
            paper.synthesis,
            learning_rate=0.1,
            schedule="cosine",
            min_learning_rate=1e-3,
            balanced_labels=True,
            augment_probability=0.0,
        ),
        replace(
            paper.finetune,
            # The paper's rate lets the loss of a 3-bit student rise for its first steps, and a few
            # hundred steps do not bring it back.
            learning_rate=paper.finetune.learning_rate / 5,
            schedule="cosine",
            max_grad_norm=1000.0,
            calibration_updates=50,
            calibration_batch_size=64,
            shrink_ranges=True,
        ),
    )
