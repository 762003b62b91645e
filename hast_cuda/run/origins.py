"""What a run is made from beside its settings, in so few digits that ``config.json`` holds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, ImageSet
from hast_cuda.files.fingerprint import fingerprint

KEY = "fingerprints"  # in config.json; runs of earlier versions lack it
WORDS = {
    f"{KEY}.network": "the network's weights",
    f"{KEY}.images": "the images given",
    f"{KEY}.test": "the test images",
}
_LOOKED_AT = 64  # test images; a data set may have to be decoded file by file


def fingerprints(
    teacher: nn.Module, images: Images | None = None, test: ImageSet | None = None
) -> dict[str, str | None]:
    """Fingerprints of network, images and test images, None of what was not given.

    Args:
        teacher: its state dict counts.
        images: those that the student is trained on, where they were given.
        test: all labels, the normalisation and at most 64 images, evenly spaced, count.
    """
    # a state dict may hold anything a module calls its extra state
    network = {k: v for k, v in teacher.state_dict().items() if isinstance(v, Tensor)}
    given = None if images is None else {"images": images.images, "labels": images.labels}
    found = {"network": network, "images": given, "test": None if test is None else _sample(test)}
    return {name: None if t is None else fingerprint(t) for name, t in found.items()}


def _sample(test: ImageSet) -> dict[str, Tensor]:
    count = min(len(test), _LOOKED_AT)
    return {
        "labels": test.labels,
        "mean": torch.tensor(test.spec.mean),
        "std": torch.tensor(test.spec.std),
        "white": torch.tensor(test.white),
        "images": test.read([i * len(test) // count for i in range(count)]),
    }
