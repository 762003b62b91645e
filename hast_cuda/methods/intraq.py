"""IntraQ (Zhong et al., CVPR 2022): images with intra-class heterogeneity, KL + CE."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.synthesis import SynthesisConfig

# lower end of the soft targets; bounds of the marginal distance
_TERMS = {
    "cifar10": (0.95, (0.05, 0.8)),
    "cifar100": (0.6, (0.02, 1.0)),
    "imagenet": (1.0, (0.0, 2.0)),  # the published values switch both terms off
}


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Eq. 3 + soft inception loss + marginal distance, all of weight 1; crops in synthesis.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    soft_target, margins = _TERMS[dataset]
    synthesis = SynthesisConfig(
        label_loss="soft", label_weight=1.0, soft_target=soft_target, margins=margins,
        augment_probability=0.5, crop_scale=(0.5, 1.0),
    )  # fmt: skip
    if preset == "released":
        return Recipe(synthesis, common.released_label_finetuning(dataset))
    paper = Recipe(synthesis, common.label_finetuning(dataset))
    return paper if preset == "paper" else common.ours(paper)
