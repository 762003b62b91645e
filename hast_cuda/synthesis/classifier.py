"""The feature that a network classifies by: the input of its last weighted layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _weighs_channels(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() >= 2


@torch.no_grad()
def find_classifier(
    model: nn.Module, shape: tuple[int, int, int], device: torch.device
) -> nn.Module:
    """The last linear or convolutional layer that a forward on one image reaches.

    Any module with a weight of two or more dimensions counts, so layers of other kinds are found
    too. Runs ``model`` once on zeros.

    Raises:
        ValueError: there is none, or its outputs are not the logits' classes.
    """
    reached: list[Any] = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, _: reached.append(layer))
        for module in model.modules()
        if _weighs_channels(module)
    ]
    try:
        logits = model(torch.zeros(1, *shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    classes = logits.shape[1]
    if not reached or len(reached[-1].weight) != classes:
        last = f"{type(reached[-1]).__name__} with {len(reached[-1].weight)}" if reached else "none"
        message = (
            f"margins need the features before the classifier, a layer with {classes} outputs that "
            f"is reached last; the last one with a weight here is {last}. Give the network such a "
            "layer as a module, or set margins to (0, 2)"
        )
        raise ValueError(message)
    found: nn.Module = reached[-1]
    return found


class ClassifierTap:
    """Keeps the input of ``classifier`` in each forward, averaged over space if it is a map."""

    def __init__(self, classifier: nn.Module) -> None:
        self.found: Tensor | None = None
        classifier.register_forward_pre_hook(self._record)

    def _record(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        x: Tensor = args[0].float()
        self.found = x.flatten(2).mean(2) if x.dim() > 2 else x

    def forget(self) -> None:
        """Drop the feature: it holds the graph."""
        self.found = None

    def take(self) -> Tensor:
        """[N, D] float32 of the last forward, forgotten here: it holds the graph."""
        found, self.found = self.found, None
        if found is None:
            message = "the classifier was not reached: run a forward pass first"
            raise ValueError(message)
        return found
