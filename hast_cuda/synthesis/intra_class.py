"""IntraQ's marginal distance: images of a class neither copy nor leave the earlier ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.modes import hooked
from hast_cuda.synthesis.config import check_margins
from hast_cuda.synthesis.matching import Matching


@torch.no_grad()
def find_classifier(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> nn.Module:
    """The last module with a weight of two or more dimensions that a forward on zeros reaches."""
    reached: list[Any] = []
    handles = [
        module.register_forward_pre_hook(lambda layer, _: reached.append(layer))
        for module in model.modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() >= 2
    ]
    with hooked(handles):
        logits = model(torch.zeros(1, *shape, device=device))
    classes = logits.shape[1]
    if not reached or len(reached[-1].weight) != classes:
        last = f"{type(reached[-1]).__name__} with {len(reached[-1].weight)}" if reached else "none"
        raise ValueError(
            f"margins need the features before the classifier, a layer with {classes} outputs that "
            f"is reached last; the last one with a weight here is {last}. Give the network such a "
            "layer as a module, or set margins to (0, 2)"
        )
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
            raise ValueError("the classifier was not reached: run a forward pass first")
        return found


def margin_loss(features: Tensor, references: Tensor, known: Tensor, margins: tuple[float, float]) -> Tensor:
    """Mean over the ``known`` of ``max(0, lower - D) + max(0, D - upper)``, D the cosine distance.

    ``features`` and ``references``, the mean features of the images' classes, are [N, D] float32;
    ``known`` [N] is 1 where there is a reference, else 0. 0-d; 0 if nothing is known.
    """
    _checks.floating("features", features)
    expected = {"references": (references, features.shape), "known": (known, features.shape[:1])}
    for name, (value, shape) in expected.items():
        _checks.floating(name, value)
        _checks.same_device(name, value, "features", features)
        if features.dim() != 2 or value.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} beside features {tuple(features.shape)}; "
                "expected [N, D] features and references, [N] known"
            )
    check_margins(margins)
    lower, upper = margins
    distance = 1 - F.cosine_similarity(features, references, dim=1)
    outside = (lower - distance).clamp(min=0) + (distance - upper).clamp(min=0)
    return (outside * known).sum() / known.sum().clamp(min=1)


class ClassFeatures:
    """Mean feature of each class over the images of finished batches, as they are kept: those read
    from a store count as they did when they were made."""

    def __init__(
        self, matching: Matching, shape: tuple[int, int, int], execution: Execution, device: torch.device
    ) -> None:
        self.matching, self.execution, self.device = matching, execution, device
        self.tap = ClassifierTap(find_classifier(matching.statistics.model, shape, device))
        matching.statistics.after_recomputing.append(self.tap.forget)
        logits, features = self._look(torch.zeros(1, *shape))
        # On the CPU in float64: sums there have one order, those of a GPU's index_add have not.
        self.sums = torch.zeros(logits.shape[1], features.shape[1], dtype=torch.float64)
        self.counts = torch.zeros(logits.shape[1], dtype=torch.int64)

    @torch.no_grad()
    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, features) of images on the CPU."""
        with self.execution.autocast(self.device):
            logits = self.matching.statistics.model(self.execution.images(images.to(self.device)))
        self.matching.forget()
        return logits, self.tap.take()

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Count the images [N, C, H, W] and labels [N], on the CPU, of a finished batch."""
        _, features = self._look(images)
        self.sums.index_add_(0, labels, features.cpu().double())
        self.counts += labels.bincount(minlength=len(self.counts))

    def references(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean feature [N, D] of each label's class, and 1 where it is known [N]; float32."""
        own = labels.cpu()
        counts = self.counts[own]
        return (self.sums[own] / counts.clamp(min=1)[:, None]).float(), (counts > 0).float()


class ClassDistance:
    """:func:`margin_loss` of a batch of ``count`` images, whose references stay in place."""

    def __init__(self, features: ClassFeatures, count: int, margins: tuple[float, float]) -> None:
        self.features, self.margins = features, margins
        self.means = torch.zeros(count, features.sums.shape[1], device=features.device)
        self.known = torch.zeros(count, device=features.device)

    def start(self, labels: Tensor) -> None:
        """Take the references of ``labels`` [N] as they are now."""
        means, known = self.features.references(labels)
        self.means.copy_(means)
        self.known.copy_(known)

    def loss(self) -> Tensor:
        """0-d loss of the last forward of the teacher."""
        return margin_loss(self.features.tap.take(), self.means, self.known, self.margins)
