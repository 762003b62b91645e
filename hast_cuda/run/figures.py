"""What ``result.json`` says about the student that was kept and those that were not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hast_cuda.finetune import FinetuneConfig, FinetuneResult


def student_figures(
    before: Mapping[str, float | None], tuned: FinetuneResult, config: FinetuneConfig
) -> dict[str, Any]:
    """Top-1 of the student that is kept, of the last one and of the best one, and which is kept.

    Args:
        before: accuracies on the way to fine-tuning, None without test images.
        tuned: what fine-tuning saw; nothing if there was none.
        config: of fine-tuning.
    """
    start = before.get("reconstructed", before["start_of_finetuning"])
    seen: dict[int, float | None] = {0: start, **dict(tuned.accuracies)}
    kept = config.iterations if tuned.kept_iteration is None else tuned.kept_iteration
    trained = [top1 for _, top1 in tuned.accuracies]
    return {
        "quantized": seen.get(kept),
        "quantized_last": seen.get(config.iterations),
        "quantized_best_epoch": max(trained) if trained else start,
        "kept_iteration": kept,
    }
