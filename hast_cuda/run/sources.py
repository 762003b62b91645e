"""Where a recipe's images come from, and whether what was given fits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, InputSpec
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.generator import GeneratorTrainer
from hast_cuda.methods import Recipe
from hast_cuda.networks import require_batch_norm
from hast_cuda.run.inputs import check_images

SEARCH_IMAGES = 256  # one batch is enough for the error of a range


def check_source(
    recipe: Recipe, teacher: nn.Module, images: Images | None, shape: InputSpec
) -> None:
    """ValueError, before any work, if images are missing, unwanted or do not fit."""
    if images is not None:
        if recipe.images in ("generated", "none"):
            raise ValueError(f'images were given, but those of this recipe are "{recipe.images}"')
        check_images(images, shape)
    elif recipe.images == "real":
        raise ValueError("this recipe trains on real images and none were given (--train-data)")
    made = recipe.images in ("synthetic", "generated") and images is None
    if made or recipe.finetune.calibration == "generator":
        require_batch_norm(teacher)


def make_trainer(
    recipe: Recipe, teacher: nn.Module, shape: InputSpec, *, seed: int, device: torch.device
) -> GeneratorTrainer | None:
    """The generator that makes the images while it is trained, if the recipe has one."""
    if recipe.images != "generated":
        return None
    return GeneratorTrainer(
        teacher, (shape.channels, shape.height, shape.width), shape.num_classes, recipe.generator,
        batch_size=recipe.finetune.batch_size, seed=seed, device=device,
    )  # fmt: skip


def search_images(images: Images | None, trainer: GeneratorTrainer | None) -> Tensor:
    """A batch to shrink ranges on; a generator takes training steps for it."""
    if images is not None:
        return images.images[:SEARCH_IMAGES]
    assert trainer is not None  # Recipe refuses a search without images
    count = -(-SEARCH_IMAGES // trainer.batch_size)
    return torch.cat([trainer.step()[0] for _ in range(count)])[:SEARCH_IMAGES]


def labels_for(config: FinetuneConfig, images: Images | None) -> Tensor | None:
    """Labels of stored images, where the loss counts them."""
    return images.labels if images is not None and config.label_weight else None
