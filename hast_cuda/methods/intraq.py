"""IntraQ (Zhong et al., CVPR 2022): images with intra-class heterogeneity, KL + CE."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.synthesis import SynthesisConfig

# lower end of the soft targets; bounds of the marginal distance
_TERMS = {
    "cifar10": (0.95, (0.05, 0.8)),
    "cifar100": (0.6, (0.02, 1.0)),
    "imagenet": (1.0, (0.0, 2.0)),  # the published values switch both terms off
}


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Eq. 3 + soft inception loss + marginal distance, all of weight 1; crops in synthesis."""
    target, margins = _TERMS[dataset]
    synthesis = SynthesisConfig(augment_probability=0.5, crop_scale=(0.5, 1.0), margins=margins)
    synthesis = replace(synthesis, label_loss="soft", label_weight=1.0, soft_target=target)
    return common.with_labels(synthesis, preset, dataset)
