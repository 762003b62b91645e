"""IntraQ's marginal distance: images of a class neither copy nor leave the earlier ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.loops.execution import Execution
from hast_cuda.synthesis.classifier import ClassifierTap, find_classifier
from hast_cuda.synthesis.config import check_margins
from hast_cuda.synthesis.matching import Matching


def margin_loss(
    features: Tensor, references: Tensor, known: Tensor, margins: tuple[float, float]
) -> Tensor:
    """Mean over the ``known`` of ``max(0, lower - D) + max(0, D - upper)``, D the cosine distance.

    Args:
        features: [N, D] float32.
        references: [N, D] float32, the mean feature of the image's class.
        known: [N] float32, 1 where there is a reference, else 0.
        margins: (lower, upper).

    Returns:
        0-d float32; 0 if nothing is known.

    Raises:
        TypeError, ValueError: dtypes, shapes, devices or margins that do not fit.
    """
    _checks.floating("features", features)
    for name, value, shape in (
        ("references", references, features.shape), ("known", known, features.shape[:1]),
    ):  # fmt: skip
        _checks.floating(name, value)
        _checks.same_device(name, value, "features", features)
        if features.dim() != 2 or value.shape != shape:
            message = (
                f"{name} has shape {tuple(value.shape)} beside features {tuple(features.shape)}; "
                "expected [N, D] features and references, [N] known"
            )
            raise ValueError(message)
    check_margins(margins)
    lower, upper = margins
    distance = 1 - F.cosine_similarity(features, references, dim=1)
    outside = (lower - distance).clamp(min=0) + (distance - upper).clamp(min=0)
    return (outside * known).sum() / known.sum().clamp(min=1)


class ClassFeatures:
    """Mean feature of each class over the images of finished batches.

    Features are those of the images as they are kept, so that images read from a store count as
    they did when they were made.

    Args:
        matching: of the run; its teacher gives the features.
        shape: [C, H, W] of an image.
        execution: how the run computes.
        device: where the teacher is.

    Raises:
        ValueError: the teacher's classifier cannot be found.
    """

    def __init__(
        self, matching: Matching, shape: tuple[int, int, int], execution: Execution,
        device: torch.device,
    ) -> None:  # fmt: skip
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
