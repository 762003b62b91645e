"""Difficulty of a sample, IntraQ's loss on its label, and what all batches of a run share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.loops.execution import Execution
from hast_cuda.merged import BatchStatistics
from hast_cuda.ops.hard_sample_loss import check_classes
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.intra_class import ClassFeatures
from hast_cuda.synthesis.matching import Matching
from hast_cuda.synthesis.slack import measure_slack

NO_MARGINS = (0.0, 2.0)  # between them is every cosine distance
LARGEST_PROBABILITY = 1 - 1e-6  # as in the op


def _check(logits: Tensor, labels: Tensor, *, values: bool = True) -> None:
    """They are logits and their labels."""
    _checks.logits("logits", logits)
    check_classes(logits, labels, values=values)


def difficulty(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 7: ``d = 1 - p_y``, [N, classes] and [N] -> [N] in float32; p is clamped to 1 - 1e-6.

    Raises:
        TypeError, ValueError: as :func:`hast_cuda.ops.hard_sample_loss`.
    """
    _check(logits, labels)
    log_p = torch.log_softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
    return 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)


def soft_label_loss(
    logits: Tensor, labels: Tensor, targets: Tensor, *, check_labels: bool = True
) -> tuple[Tensor, Tensor]:
    """IntraQ's soft inception loss, ``mean_i (p_i - t_i)^2`` with p the label's probability.

    Args:
        logits: [N, classes].
        labels: [N] int64.
        targets: [N] float32, the t.
        check_labels: as in :func:`hast_cuda.ops.hard_sample_loss`.

    Returns:
        The loss and, without gradient, the mean difficulty (Eq. 7); 0-d float32.

    Raises:
        TypeError, ValueError: as :func:`hast_cuda.ops.hard_sample_loss`; targets of another shape.
    """
    _checks.flag("check_labels", check_labels)
    _check(logits, labels, values=check_labels)
    _checks.floating("targets", targets)
    _checks.same_device("targets", targets, "logits", logits)
    if targets.shape != labels.shape:
        message = f"targets has shape {tuple(targets.shape)}; expected {tuple(labels.shape)}"
        raise ValueError(message)
    p = torch.softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
    d = 1 - p.detach().clamp(max=LARGEST_PROBABILITY)
    return (p - targets).square().mean(), d.mean()


@dataclass(frozen=True)
class Objective:
    """What the terms of the loss need once per run; its batches share it."""

    matching: Matching
    features: ClassFeatures | None
    """None without margins: then batches do not depend on each other."""

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Count a finished batch, on the CPU, where later ones depend on it."""
        if self.features is not None:
            self.features.add(images, labels)


def has_margins(config: SynthesisConfig) -> bool:
    """Whether a batch depends on the images of those before it."""
    return tuple(config.margins) != NO_MARGINS


def make_objective(
    statistics: BatchStatistics, shape: tuple[int, int, int, int], config: SynthesisConfig,
    execution: Execution, device: torch.device, seed: int = 0,
) -> Objective:  # fmt: skip
    """The objective that ``config`` names for batches of ``shape``; measures DSG's slack.

    Raises:
        ValueError: margins for a teacher whose classifier cannot be found.
    """
    matching = Matching(statistics, config)
    if config.slack_percentile:
        matching.slack = measure_slack(matching, shape, execution, device, seed)
    features = None
    if has_margins(config):
        features = ClassFeatures(matching, shape[1:], execution, device)
    return Objective(matching, features)
