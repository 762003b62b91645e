"""What a run is made from beside its settings, in so few digits that ``config.json`` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, ImageSet
from hast_cuda.files.tensors import fingerprint

KEY = "fingerprints"  # in config.json; runs of earlier versions lack it
WORDS = {
    f"{KEY}.network": "the network's weights",
    f"{KEY}.images": "the images given",
    f"{KEY}.test": "the test images",
}
DIGEST = "weights_sha256"  # of the file of the weights, in what a run says of its network
PLACES = ("network.weights", f"network.{DIGEST}")  # may change: the fingerprint says whether the weights did
TEST = ("data", "test_limit", f"{KEY}.test")  # change no student
_LOOKED_AT = 64  # test images; a data set may have to be decoded file by file


def fingerprints(
    teacher: nn.Module, images: Images | None = None, test: ImageSet | None = None
) -> dict[str, str | None]:
    """Fingerprints of network, images and test images, None of what was not given.

    Of the test images all labels, the normalisation and at most 64, evenly spaced, count.
    """
    network = _tensors(teacher)
    given = None if images is None else {"images": images.images, "labels": images.labels}
    found = {"network": network, "images": given, "test": None if test is None else _sample(test)}
    return {name: None if t is None else fingerprint(t) for name, t in found.items()}


def check_network(teacher: nn.Module, config: Mapping[str, Any], run: Path) -> None:
    """ValueError if ``run`` was made from other weights; one of an earlier version does not tell."""
    known, named = config.get(KEY), config.get("network")
    wanted = known.get("network") if isinstance(known, Mapping) else None
    if isinstance(wanted, str) and fingerprint(_tensors(teacher)) != wanted:
        file = named.get("weights") if isinstance(named, Mapping) else None
        raise ValueError(
            f"{run} was made from other weights than these: give the network that it names"
            + (f", with --weights {file}" if file else " or, where it names none, the one that it was made from")
        )


def _tensors(teacher: nn.Module) -> dict[str, Tensor]:
    # a state dict may hold anything a module calls its extra state
    return {k: v for k, v in teacher.state_dict().items() if isinstance(v, Tensor)}


def _sample(test: ImageSet) -> dict[str, Tensor]:
    count = min(len(test), _LOOKED_AT)
    return {
        "labels": test.labels,
        "mean": torch.tensor(test.spec.mean),
        "std": torch.tensor(test.spec.std),
        "white": torch.tensor(test.white),
        "images": test.pixels([i * len(test) // count for i in range(count)]),
    }
