"""What the terms of the objective need once per run: hooks, slack, features of classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hast_cuda.loops.execution import Execution
from hast_cuda.merged import BatchStatistics
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.intra_class import ClassFeatures
from hast_cuda.synthesis.matching import Matching
from hast_cuda.synthesis.slack import measure_slack

NO_MARGINS = (0.0, 2.0)  # between them is every cosine distance


@dataclass(frozen=True)
class Terms:
    """Shared by the batches of a run."""

    matching: Matching
    features: ClassFeatures | None
    """None without margins: then batches do not depend on each other."""


def has_margins(config: SynthesisConfig) -> bool:
    """Whether a batch depends on the images of those before it."""
    return tuple(config.margins) != NO_MARGINS


def make_terms(
    statistics: BatchStatistics, shape: tuple[int, int, int, int], config: SynthesisConfig,
    execution: Execution, device: torch.device, seed: int = 0,
) -> Terms:  # fmt: skip
    """The terms that ``config`` names for batches of ``shape``; measures DSG's slack.

    Raises:
        ValueError: margins for a teacher whose classifier cannot be found.
    """
    matching = Matching(statistics, config)
    if config.slack_percentile:
        matching.slack = measure_slack(matching, shape, execution, device, seed)
    features = None
    if has_margins(config):
        features = ClassFeatures(matching, shape[1:], execution, device)
    return Terms(matching, features)
