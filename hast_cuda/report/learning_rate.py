"""The learning rate of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.checks.typed import typed
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.report.canvas import closing, label, pyplot, require, save

POINTS = 300  # enough for a curve; a step of the schedule is at most 1/300 out of place


@closing
@typed
def draw_learning_rate(configs: Mapping[str, FinetuneConfig], path: Path) -> None:
    """Learning rate over the iterations, one curve per run.

    Args:
        configs: by the name of the run; those without iterations have no curve.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no iterations at all. ImportError: no matplotlib.
    """
    require("configs", [config for config in configs.values() if config.iterations])
    figure, axis = pyplot().subplots(figsize=(5, 3.6), layout="constrained")
    for index, (name, config) in enumerate(configs.items()):
        if not config.iterations:
            continue
        step = max(1, config.iterations // POINTS)
        at = range(0, config.iterations, step)
        axis.plot(at, [config.rate(i) for i in at], color=f"C{index}", label=label(name))
    axis.set_title("fine-tuning: learning rate")
    axis.set_xlabel("iteration")
    axis.set_ylabel("learning rate")
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axis.grid(alpha=0.3)
    if len(configs) > 1:
        axis.legend()
    save(figure, path)
