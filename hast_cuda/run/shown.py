"""What a run shows its student of the images that are stored."""

from __future__ import annotations

from torch import Tensor

from hast_cuda.data import Images
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.loops.low_pass import low_pass


def shown(images: Images, config: FinetuneConfig) -> Images:
    """Images as the student sees them, filtered once; what is on disk stays as it was made."""
    if not config.low_pass:
        return images
    return Images(low_pass(images.images, config.low_pass), images.labels, images.real)


def labels_for(config: FinetuneConfig, images: Images | None) -> Tensor | None:
    """Labels of stored images, where the loss needs them."""
    return images.labels if images is not None and config.uses_labels else None
